"""The outermost layer, one pure ASGI class: trace id, security checks, metrics, security headers, and no exception
gets past it.

HTTP: Host → (CORS preflight) → Origin and Sec-Fetch-Site for anything but GET, HEAD, OPTIONS → the application.
WebSocket: the same checks for every handshake; a refusal is an HTTP answer with a problem, before any upgrade.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from aura.clock import Clock
from aura.errors import InvalidRequest
from aura.gateway import security
from aura.gateway.api import problems
from aura.gateway.metrics import Metrics
from aura.ids import IdSource

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\Z")
_ZERO_TRACE = "0" * 32
#: What metrics call a request whose client left before the answer began (nginx's number).
CLIENT_GONE = 499


def trace_id_of(headers: security.Headers, ids: IdSource) -> str:
    """The W3C trace id of the caller's ``traceparent``, or a new one. 32 hexadecimal digits."""
    match = _TRACEPARENT.match(headers.get(b"traceparent", b""))
    if match is not None:
        trace = match.group(1).decode()
        if trace != _ZERO_TRACE:
            return trace
    return ids.uuid7().replace("-", "")


class Edge:
    """See the module docstring."""

    def __init__(self, app: ASGIApp, policy: security.Policy, metrics: Metrics, clock: Clock, ids: IdSource) -> None:
        self._app = app
        self._clock = clock
        self._policy = policy
        self._metrics = metrics
        self._ids = ids

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            return self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            return self._websocket(scope, receive, send)
        else:
            return self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = self._clock.monotonic_s()
        answer = _Answer(scope, send, self._clock)
        try:
            headers = self._enter(scope)
            host = security.check_host(self._policy, headers)
            answer.origin = security.allowed_cors_origin(self._policy, headers)
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await self._preflight(answer)
                return
            security.check_query(scope)
            _check_path(scope)
            if scope["method"] not in security.SAFE_METHODS:
                security.check_caller(self._policy, scope, headers, host)
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if answer.status:
                raise  # half an answer cannot be mended: uvicorn cuts the connection
            await self._refuse(answer, error)
        finally:
            route = getattr(scope.get("aura.endpoint"), "path", "(none)")
            method = scope["method"] if route != "(none)" else "(any)"
            self._metrics.observe(method, route, answer.status or CLIENT_GONE, answer.first_byte(started))

    async def _refuse(self, answer: _Answer, error: Exception) -> None:
        scope = answer.scope
        status, body, headers = problems.of(
            error, instance=problems.instance_of(scope), trace_id=scope.get("aura.trace_id", "")
        )
        self._metrics.refused.labels(getattr(error, "code", str(status))).inc()
        pairs = [(b"content-type", problems.MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
        pairs += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await answer.send({"type": "http.response.start", "status": status, "headers": pairs})
        await answer.send({"type": "http.response.body", "body": body})

    async def _preflight(self, answer: _Answer) -> None:
        if answer.origin is None:
            raise HTTPException(403)
        headers = security.preflight_headers(answer.origin)
        answer.origin = None
        await answer.send({"type": "http.response.start", "status": 204, "headers": headers})
        await answer.send({"type": "http.response.body", "body": b""})

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = False

        async def watched(message: Message) -> None:
            nonlocal accepted
            accepted = accepted or message["type"] in ("websocket.accept", "websocket.http.response.start")
            await send(message)

        try:
            headers = self._enter(scope)
            host = security.check_host(self._policy, headers)
            security.check_query(scope)
            _check_path(scope)
            security.check_caller(self._policy, scope, headers, host)
            await self._app(scope, receive, watched)
        except ClientDisconnected:
            raise  # there is nobody to refuse
        except Exception as error:
            if accepted:
                raise
            self._metrics.refused.labels(getattr(error, "code", "refused")).inc()
            await problems.refuse_websocket(send, scope, error)

    def _enter(self, scope: Scope) -> security.Headers:
        scope["app"] = self._app
        headers: security.Headers = {}  # also for those that cannot be read there is a trace
        try:
            headers = scope["aura.headers"] = security.header_map(scope)
        finally:
            scope["aura.trace_id"] = trace_id_of(headers, self._ids)
        return headers


def _check_path(scope: MutableMapping[str, Any]) -> None:
    """Paths are plain: no NUL, no control characters, no ``..``, no encoded slash that a proxy would read otherwise."""
    path = scope["path"]
    if not path.startswith("/"):  # OPTIONS knows ``*`` (RFC 9112 §3.2.4), and nothing here is called so
        raise HTTPException(404)
    raw = scope.get("raw_path", b"").lower()
    if len(raw) > 2_048 or not path.isprintable() or "\\" in path or "/../" in path + "/" or b"%2f" in raw:
        raise InvalidRequest("the path is not well formed", field="path")


class _Answer:
    """Adds headers to the answer and remembers its status."""

    __slots__ = ("_clock", "_send", "_started_at", "origin", "scope", "status")

    def __init__(self, scope: Scope, send: Send, clock: Clock) -> None:
        self._clock = clock
        self.scope = scope
        self.status = 0
        self.origin: bytes | None = None
        self._send = send
        self._started_at = 0.0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._started_at = self._clock.monotonic_s()
            headers = list(message.get("headers", ()))
            own = {name for name, _ in headers}
            headers += [pair for pair in security.HEADERS if pair[0] not in own]
            headers.append((b"x-trace-id", self.scope["aura.trace_id"].encode()))
            if self.origin is not None:
                headers += security.cors_headers(self.origin)
            if b"cache-control" not in own:
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        await self._send(message)

    def first_byte(self, started: float) -> float:
        """Seconds until the answer began (or until now, when it never did)."""
        return (self._started_at or self._clock.monotonic_s()) - started
