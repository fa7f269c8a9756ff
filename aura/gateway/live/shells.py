"""WebSocket and SSE endpoints: thin shells that parse the cursor, make an outlet, and let ``follow`` do the rest.

A handshake or request that cannot be honoured is answered with a problem before anything is upgraded. What a client
sends on a read-only socket is ignored, within limits (1008 beyond them).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from aura.errors import InvalidRequest, Unavailable
from aura.events import subjects
from aura.gateway.api import problems
from aura.gateway.api.forms import JobLiveQuery, LiveQuery, query
from aura.gateway.context import Gateway
from aura.gateway.live.feed import Cursor
from aura.gateway.live.follow import follow_log
from aura.gateway.live.follow_job import follow_job
from aura.gateway.live.hub import EVERYTHING
from aura.gateway.live.outlet import Ending, Outlet
from aura.gateway.live.sockets import OUTLET, WebSocketOutlet
from aura.gateway.live.sse import SseOutlet

log = structlog.get_logger("aura.gateway")

Client = Callable[[Outlet], Awaitable[None]]
"""Serves one outlet until it is closed; cancelled when the client leaves."""


async def _run(client: Client, outlet: Outlet) -> None:
    """Serve, and never leave a client without an answer: an unexpected failure closes it with 1011."""
    try:
        await client(outlet)
    except Exception:
        log.exception("live.failed")
        outlet.end(Ending.INTERNAL, "internal error")


# ---------------------------------------------------------------- what clients follow


def _log_client(gateway: Gateway, asked: LiveQuery) -> Client:
    cursor = Cursor(asked.since, asked.last, asked.epoch)
    patterns = (asked.subject,) if asked.subject is not None else EVERYTHING

    async def serve(outlet: Outlet) -> None:
        stop = await gateway.taps.follow_logs() if asked.subject is None else None
        group = None
        try:
            group = await follow_log(gateway, outlet, cursor, patterns)
            if group is not None:
                await asyncio.Event().wait()  # live: the hub writes; cancelled when the client leaves
        except Unavailable:
            outlet.end(Ending.GOING_AWAY, "try again")
        finally:
            if group is not None:
                gateway.hub.leave(group, outlet)
            if stop is not None:
                await stop()

    return serve


async def _job_client(gateway: Gateway, job_id: str, asked: JobLiveQuery) -> Client:
    head = await gateway.ctx.commands.jobs.head(subjects.check_job_id(job_id))

    async def serve(outlet: Outlet) -> None:
        await follow_job(gateway, outlet, head.project, job_id, asked)

    return serve


# ---------------------------------------------------------------- WebSocket


async def _serve_socket(gateway: Gateway, scope: Scope, receive: Receive, send: Send, client: Client) -> None:
    await receive()  # websocket.connect
    outlet: WebSocketOutlet = scope["extensions"][OUTLET]
    gateway.hub.admit(outlet)
    serving = None
    try:
        epoch = gateway.hub.epoch.encode()
        await send({"type": "websocket.accept", "headers": [(b"aura-epoch", epoch)]})
        serving = asyncio.ensure_future(_run(client, outlet))
        await _listen(gateway, receive, outlet)
    finally:
        gateway.hub.dismiss(outlet)
        if serving is not None:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def _listen(gateway: Gateway, receive: Receive, outlet: Outlet) -> None:
    """Read until the client leaves; too many messages end it."""
    clock, limits = gateway.ctx.clock, gateway.limits
    tokens, at = float(limits.inbound_burst), clock.monotonic_s()
    while (await receive())["type"] != "websocket.disconnect":
        now = clock.monotonic_s()
        tokens = min(float(limits.inbound_burst), tokens + (now - at) * limits.inbound_per_s) - 1
        at = now
        if tokens < 0:
            outlet.end(Ending.POLICY, "too many messages")
            return


class Sockets:
    """The WebSocket endpoints as ASGI applications."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``/ws/events``."""
        asked = query(LiveQuery, _as_request(scope, receive, send))
        await _serve_socket(self._gateway, scope, receive, send, _log_client(self._gateway, asked))

    async def job(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``/ws/job/{job_id}``."""
        asked = query(JobLiveQuery, _as_request(scope, receive, send))
        client = await _job_client(self._gateway, scope["path_params"]["job_id"], asked)
        await _serve_socket(self._gateway, scope, receive, send, client)


def _as_request(scope: Scope, receive: Receive, send: Send) -> Request:
    """Query parameters are read alike for both kinds of connection."""
    return WebSocket(scope, receive, send)  # type: ignore[return-value]


# ---------------------------------------------------------------- SSE


def _last_event_id(request: Request, parts: int) -> list[int] | None:
    """``Last-Event-ID`` as ``parts`` numbers; a browser sends it by itself and it wins over the URL, which is from
    before."""
    sent = request.headers.get("last-event-id", "").strip()
    if not sent:
        return None
    found = sent.split(".")
    try:
        numbers = [int(part) if len(part) < 20 else -2 for part in found]
    except ValueError:
        numbers = []
    if len(numbers) != parts or any(number < -1 for number in numbers):
        raise InvalidRequest("Last-Event-ID is not one of ours", field="Last-Event-ID")
    return numbers


async def _serve_sse(gateway: Gateway, request: Request, send: Send, client: Client) -> None:
    outlet = SseOutlet()
    gateway.hub.admit(outlet)
    serving = asyncio.ensure_future(_run(client, outlet))
    try:
        await outlet.respond(request.receive, send, epoch=gateway.hub.epoch, heartbeat_s=gateway.limits.sse_heartbeat_s)
    finally:
        gateway.hub.dismiss(outlet)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


class Streams:
    """The SSE endpoints as ASGI applications."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /sse/events``."""
        request = Request(scope, receive, send)
        asked = query(LiveQuery, request)
        resumed = _last_event_id(request, 1)
        if resumed is not None:
            asked = asked.model_copy(update={"since": resumed[0], "last": None})
        await _serve_sse(self._gateway, request, send, _log_client(self._gateway, asked))

    async def job(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /sse/job/{job_id}``."""
        request = Request(scope, receive, send)
        asked = query(JobLiveQuery, request)
        resumed = _last_event_id(request, 3)
        if resumed is not None:
            since, cursor, after = resumed
            asked = JobLiveQuery.model_validate({"since": max(since, 0), "from": max(cursor, 0), "after": after})
        client = await _job_client(self._gateway, request.path_params["job_id"], asked)
        await _serve_sse(self._gateway, request, send, client)


async def no_such_socket(scope: Scope, _receive: Receive, send: Send) -> None:
    """A handshake for a path that is none of ours: 404 as a problem."""
    await problems.refuse_websocket(send, scope, HTTPException(404))
