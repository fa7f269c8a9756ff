"""WebSocket and SSE endpoints: thin shells that parse the query, find out who asks, make an outlet, and let ``clients`` do the rest.

A handshake or request that cannot be honoured is answered with a problem before anything is upgraded. Where there is access control and
a handshake brings no ``Authorization``, the first message must bring a ticket within ``auth_s``; until then the client is ``pending``,
which takes none of the hub's places. What is refused after the upgrade is a close code: 4401, 4403, 1013 where another try may succeed
(429 and 503), else 1008. What a client sends on a read-only socket is ignored; too many messages are 1008 on every socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from aura.errors import AuraError, Forbidden, InvalidRequest, Unauthenticated, Unavailable
from aura.gateway.access.failures import address_of
from aura.gateway.access.principal import Principal
from aura.gateway.api import problems
from aura.gateway.api.forms import JobLiveQuery, LiveQuery, NoQuery, SessionLiveQuery, query
from aura.gateway.context import Gateway
from aura.gateway.live import clients
from aura.gateway.live.admission import Bucket
from aura.gateway.live.clients import Client, Prepare
from aura.gateway.live.dialects import native
from aura.gateway.live.dialects.job import parse_event_id
from aura.gateway.live.fanout.outlet import Ending, Outlet
from aura.gateway.live.sse import SseOutlet
from aura.gateway.live.visibility import Visibility
from aura.gateway.live.websocket.http import TRANSPORT
from aura.gateway.live.websocket.outlet import WebSocketOutlet
from aura.gateway.live.websocket.protocol import OUTLET

log = structlog.get_logger("aura.gateway")


async def _run(client: Client, outlet: Outlet) -> None:
    """Serve, and never leave a client without an answer: an unexpected failure closes it with 1011."""
    try:
        await client.run()
    except Unavailable:
        outlet.end(Ending.GOING_AWAY, "try again")
    except Exception:
        log.exception("live.failed")
        outlet.end(Ending.INTERNAL, "internal error")


async def _end(serving: asyncio.Task[None], client: Client) -> None:
    """It has left."""
    try:
        if not serving.done():
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    finally:
        await client.left()


def _refuse(outlet: Outlet, error: AuraError) -> None:
    """Close with the code that an error is on a socket."""
    match error:
        case Unauthenticated():
            outlet.end(Ending.UNAUTHENTICATED, error.detail)
        case Forbidden():
            outlet.end(Ending.FORBIDDEN, error.detail)
        case Unavailable():
            outlet.end(Ending.TRY_LATER, error.detail)
        case _:
            outlet.end(Ending.POLICY, error.detail)


# ---------------------------------------------------------------- WebSocket


class _Socket:
    """One WebSocket connection from its handshake to its end."""

    __slots__ = ("_bucket", "_gateway", "_outlet", "_receive", "_scope", "_send")

    def __init__(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        self._gateway = gateway
        self._scope = scope
        self._receive = receive
        self._send = send
        self._outlet: WebSocketOutlet = scope["extensions"][OUTLET]
        self._bucket: Bucket | None = None
        """Made when the client says something."""

    async def serve(self, dialect: str, prepare: Prepare, subprotocol: str | None = None) -> None:
        """Raises what is refused before the upgrade."""
        gateway, outlet = self._gateway, self._outlet
        gateway.admission.arrive()
        await self._receive()  # websocket.connect
        principal = await gateway.access.admit(self._scope, None)
        if principal is None:
            if gateway.hub.failure is not None:
                raise Unavailable(f"live feeds are not available: {gateway.hub.failure}")
            principal = await self._ticket(subprotocol)
            if principal is not None:
                await self._serve_late(dialect, prepare, principal)
            return
        leave = gateway.admission.enter(principal)
        try:
            make = await prepare(Visibility(gateway.access, principal))
            gateway.hub.admit(outlet, dialect)
            await self._accept(subprotocol)
            await self._converse(make(outlet), principal)
        finally:
            gateway.hub.dismiss(outlet)
            leave()

    async def _serve_late(self, dialect: str, prepare: Prepare, principal: Principal) -> None:
        leave = None
        try:
            leave = self._gateway.admission.enter(principal)
            self._gateway.hub.admit(self._outlet, dialect)
            make = await prepare(Visibility(self._gateway.access, principal))
            await self._converse(make(self._outlet), principal)
        except AuraError as error:
            _refuse(self._outlet, error)
        finally:
            self._gateway.hub.dismiss(self._outlet)
            if leave is not None:
                leave()

    async def _accept(self, subprotocol: str | None) -> None:
        headers = [(b"aura-epoch", self._gateway.hub.epoch.encode())]
        await self._send({"type": "websocket.accept", "headers": headers, "subprotocol": subprotocol})

    async def _ticket(self, subprotocol: str | None) -> Principal | None:
        """Accept, and the principal of the first message; ``None`` when the client was closed or left."""
        access, pending = self._gateway.access, self._gateway.admission.pending
        await self._accept(subprotocol)
        pending.enter(self._outlet, address_of(self._scope.get("client")))
        try:
            async with asyncio.timeout(self._gateway.limits.auth_s):
                message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return None
            return await access.admit(self._scope, _said(message))
        except TimeoutError:
            access.no_ticket(self._scope)
            self._outlet.end(Ending.UNAUTHENTICATED, "the first message must bring a ticket")
        except AuraError as error:
            _refuse(self._outlet, error)
        finally:
            pending.leave(self._outlet)
        return None

    async def _converse(self, client: Client, principal: Principal) -> None:
        """Serve and listen until the client leaves, or may no longer stay."""
        self._outlet.forget_handshake()
        unwatch = self._gateway.access.watch(principal, self._outlet.end)
        serving = asyncio.get_running_loop().create_task(_run(client, self._outlet))
        try:
            while (message := await self._receive())["type"] != "websocket.disconnect":
                if not self._within_rate():
                    self._gateway.ctx.metrics.dropped.labels("too_many_messages").inc()
                    self._outlet.end(Ending.POLICY, "too many messages")
                    return
                await client.receive(_said(message))
        finally:
            unwatch()
            await _end(serving, client)

    def _within_rate(self) -> bool:
        if self._bucket is None:
            limits = self._gateway.limits
            self._bucket = Bucket(self._gateway.ctx.clock, limits.inbound_burst, limits.inbound_per_s)
        return self._bucket.take()


def _said(message: Any) -> str | bytes:
    text = message.get("text")
    said: str | bytes = text if text is not None else message.get("bytes") or b""
    return said


class Sockets:
    """The WebSocket endpoints as ASGI applications."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def events(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """``/ws/events``."""
        asked = query(LiveQuery, scope)
        return _Socket(self._gateway, scope, receive, send).serve("events", clients.of_events(self._gateway, asked))

    def job(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """``/ws/job/{job_id}``."""
        asked = query(JobLiveQuery, scope)
        prepare = clients.of_job(self._gateway, scope["path_params"]["job_id"], asked)
        return _Socket(self._gateway, scope, receive, send).serve("job", prepare)

    def orchestrator(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """``/ws/orchestrator/{session_id}``."""
        asked = query(SessionLiveQuery, scope)
        prepare = clients.of_session(self._gateway, scope["path_params"]["session_id"], asked)
        return _Socket(self._gateway, scope, receive, send).serve("orchestrator", prepare)

    def plain(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """``/ws``: the subprotocol decides (RFC 6455 §4.2.2). Only ones that we do not know are refused: a client that asked for them
        would not understand the studio's messages."""
        query(NoQuery, scope)
        socket = _Socket(self._gateway, scope, receive, send)
        offered = scope.get("subprotocols", [])
        if native.SUBPROTOCOL in offered:
            scope["extensions"][OUTLET].wire = "native"
            return socket.serve("native", clients.of_native(self._gateway), native.SUBPROTOCOL)
        elif offered:
            raise InvalidRequest(f"the only subprotocol is {native.SUBPROTOCOL}", field="Sec-WebSocket-Protocol")
        else:
            return socket.serve("studio", clients.of_studio(self._gateway))


# ---------------------------------------------------------------- SSE


class Streams:
    """The SSE endpoints as ASGI applications. ``Last-Event-ID`` wins over the URL, which a browser keeps from before."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /sse/events``."""
        request = Request(scope, receive, send)
        asked = query(LiveQuery, request)
        resumed = parse_event_id(request.headers.get("last-event-id", ""), 1)
        if resumed is not None:
            asked = asked.model_copy(update={"since": resumed[0], "last": None})
        await self._serve(request, send, "sse_events", clients.of_events(self._gateway, asked))

    async def job(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /sse/job/{job_id}``."""
        request = Request(scope, receive, send)
        asked = _resumed(query(JobLiveQuery, request), request)
        prepare = clients.of_job(self._gateway, request.path_params["job_id"], asked)
        await self._serve(request, send, "sse_job", prepare)

    async def orchestrator(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /sse/orchestrator/{session_id}``."""
        request = Request(scope, receive, send)
        asked = _resumed(query(SessionLiveQuery, request), request)
        prepare = clients.of_session(self._gateway, request.path_params["session_id"], asked)
        await self._serve(request, send, "sse_orchestrator", prepare)

    async def studio(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /sse/studio``."""
        request = Request(scope, receive, send)
        query(NoQuery, request)
        await self._serve(request, send, "sse_studio", clients.of_studio(self._gateway))

    async def _serve(self, request: Request, send: Send, dialect: str, prepare: Prepare) -> None:
        gateway, outlet = self._gateway, SseOutlet()
        gateway.admission.arrive()
        principal = await gateway.access.request(request.scope, "log.follow")
        leave = gateway.admission.enter(principal)
        unwatch: Callable[[], None] | None = None
        client = serving = None
        try:
            client = (await prepare(Visibility(gateway.access, principal)))(outlet)
            gateway.hub.admit(outlet, dialect)
            unwatch = gateway.access.watch(principal, outlet.end)
            serving = asyncio.get_running_loop().create_task(_run(client, outlet))
            heartbeat_s = gateway.limits.sse_heartbeat_s
            transport = request.scope["extensions"][TRANSPORT]
            await outlet.respond(transport, request.receive, send, epoch=gateway.hub.epoch, heartbeat_s=heartbeat_s)
        finally:
            if unwatch is not None:
                unwatch()
            gateway.hub.dismiss(outlet)
            leave()
            if client is not None and serving is not None:
                await _end(serving, client)


def _resumed(asked: Any, request: Request) -> Any:
    """A job's or session's query with the place of ``Last-Event-ID``: ours, or the ``seq`` of the newest event a client has read."""
    resumed = parse_event_id(request.headers.get("last-event-id", ""), 3)
    if resumed is None:
        return asked
    if len(resumed) == 1:
        return asked.model_copy(update={"since": max(resumed[0], 0)})
    since, cursor, after = resumed
    return asked.model_copy(update={"since": max(since, 0), "from_": max(cursor, 0), "after": after})


async def no_such_socket(scope: Scope, _receive: Receive, send: Send) -> None:
    """A handshake for a path that is none of ours: 404 as a problem."""
    await problems.refuse_websocket(send, scope, HTTPException(404))
