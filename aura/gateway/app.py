"""The ASGI application: routes from the table, live endpoints, the page; the edge around all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aura.errors import Forbidden, NotFound
from aura.gateway import security
from aura.gateway.access.principal import Principal
from aura.gateway.access.scoping import ForeignProject, check
from aura.gateway.api import asyncapi, openapi, reads
from aura.gateway.api.endpoint import Endpoint
from aura.gateway.api.forms import query
from aura.gateway.api.repeats import Repeats
from aura.gateway.api.routes import ENDPOINTS
from aura.gateway.context import Gateway, GatewayContext
from aura.gateway.edge import Edge
from aura.gateway.live.shells import Sockets, Streams, no_such_socket
from aura.gateway.site import page_routes

log = structlog.get_logger("aura.gateway")


class _Stalled(Exception):
    """The client takes nothing of its answer."""


class _Path:
    """All endpoints of one path as an ASGI application: named for metrics, behind their gates, queries checked.

    A request is inside its gate until its answer has left, streamed or not; so that a client which stops reading does not keep its
    place for ever, its connection is cut when it takes nothing for ``stall_s``.
    """

    def __init__(self, gateway: Gateway, endpoints: list[Endpoint], repeats: Repeats) -> None:
        self._gateway = gateway
        self._repeats = repeats
        self._by_method = {endpoint.method: endpoint for endpoint in endpoints}
        if "GET" in self._by_method:
            self._by_method["HEAD"] = self._by_method["GET"]  # type: ignore[index]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = scope["aura.endpoint"] = self._by_method[scope["method"]]
        request = Request(scope, receive, send)
        gateway = self._gateway
        principal = scope["aura.principal"] = await gateway.access.request(scope, endpoint.action)
        with self._gate(endpoint):
            if endpoint.method == "GET":
                query(endpoint.query, request)
            if principal.projects is not None:
                await self._scoped(endpoint, principal, request)
            try:
                answer = await self._answered(endpoint, principal, request)
            except NotFound as error:
                await reads.name_the_prd(gateway, request, error)
                raise
            except Forbidden:
                gateway.access.denied(principal, endpoint.action, request.url.path)
                raise
            try:
                await answer(scope, receive, self._hurried(send))
            except _Stalled:
                log.info("http.stalled", route=endpoint.path)  # uvicorn closes what was left unfinished

    async def _answered(self, endpoint: Endpoint, principal: Principal, request: Request) -> Response:
        def ask() -> Awaitable[Response]:
            return endpoint.handler(self._gateway, request)

        use = await self._repeats.use_of(endpoint, request, principal)
        return await (ask() if use is None else self._repeats.answered(use, endpoint, ask))

    async def _scoped(self, endpoint: Endpoint, principal: Principal, request: Request) -> None:
        """What the path names is the principal's. Raises ``NotFound``."""
        try:
            await check(
                self._gateway.projects, principal, request.url.path, request.path_params, reads=endpoint.method == "GET"
            )
        except ForeignProject:
            self._gateway.access.denied(principal, endpoint.action, request.url.path)
            raise

    def _hurried(self, send: Send) -> Send:
        async def hurried(message: Message) -> None:
            try:
                async with asyncio.timeout(self._gateway.limits.stall_s):
                    await send(message)
            except TimeoutError:
                raise _Stalled from None

        return hurried

    def _gate(self, endpoint: Endpoint) -> AbstractContextManager[None]:
        match endpoint.kind:
            case "command":
                return self._gateway.commands.entered()
            case "read":
                return self._gateway.reads.entered()
            case "wait":
                return self._gateway.waiting.entered()
            case "free":
                return nullcontext()


class _Asgi:
    """Keeps Starlette from wrapping a method that is an ASGI application already."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._app(scope, receive, send)


class _Feed(_Asgi):
    """An event stream. ``HEAD`` is answered as ``GET`` would be, with the head alone: then it is as if the client had left."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["method"] == "HEAD":
            return self._head(scope, send)
        return super().__call__(scope, receive, send)

    async def _head(self, scope: Scope, send: Send) -> None:
        answered = asyncio.Event()

        async def left() -> Message:
            await answered.wait()
            return {"type": "http.disconnect"}

        async def head_only(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                answered.set()

        await super().__call__(scope, left, head_only)


class ByFirstSegment:
    """One Starlette router per first path segment: a request is compared with a few routes, not with all of them; and a handshake for a
    path without parameters with none, because thousands may come back at once."""

    def __init__(self, routes: list[BaseRoute]) -> None:
        self.routes = routes
        self._sockets: dict[str, ASGIApp] = {
            route.path: route.app for route in routes if isinstance(route, WebSocketRoute) and "{" not in route.path
        }
        groups: dict[str, list[BaseRoute]] = {}
        for route in routes:
            groups.setdefault(_first_segment(getattr(route, "path", "")), []).append(route)
        rest = groups.pop("{path:path}", [])
        self._routers = {name: Router([*group, *rest], redirect_slashes=False) for name, group in groups.items()}
        self._rest = Router(rest, redirect_slashes=False)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path = scope["path"]
        app = self._sockets.get(path) if scope["type"] == "websocket" else None
        return (app or self._routers.get(_first_segment(path), self._rest))(scope, receive, send)


def _first_segment(path: str) -> str:
    return path.split("/", 2)[1] if "/" in path else ""


def _table(gateway: Gateway) -> list[BaseRoute]:
    repeats = Repeats(gateway.ctx.clock, gateway.limits)
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in ENDPOINTS:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    return [
        Route(path, _Path(gateway, endpoints, repeats), methods=[endpoint.method for endpoint in endpoints])
        for path, endpoints in by_path.items()
    ]


def _description(path: str, build: Callable[[], dict[str, Any]]) -> Route:
    """``/openapi.json`` or ``/asyncapi.json``, built when somebody asks for it first."""

    @lru_cache(1)
    def body() -> bytes:
        return orjson.dumps(build())

    async def describe(_request: Request) -> Response:
        return Response(body(), media_type="application/json", headers={"cache-control": "no-cache"})

    return Route(path, describe, methods=["GET"])


def create_app(ctx: GatewayContext) -> ASGIApp:
    """The application over ``ctx``. WebSockets need the protocol classes of ``live.websocket`` (``server.GatewayService``
    sets them)."""
    gateway = Gateway(ctx)
    sockets, streams = Sockets(gateway), Streams(gateway)
    routes: list[BaseRoute] = [
        *_table(gateway),
        _description("/openapi.json", lambda: openapi.build(ENDPOINTS, ctx.version)),
        _description("/asyncapi.json", lambda: asyncapi.build(ctx.version)),
        Route("/sse/events", _Feed(streams.events), methods=["GET"]),
        Route("/sse/job/{job_id}", _Feed(streams.job), methods=["GET"]),
        Route("/sse/orchestrator/{session_id}", _Feed(streams.orchestrator), methods=["GET"]),
        Route("/sse/studio", _Feed(streams.studio), methods=["GET"]),
        WebSocketRoute("/ws/events", _Asgi(sockets.events)),
        WebSocketRoute("/ws/job/{job_id}", _Asgi(sockets.job)),
        WebSocketRoute("/ws/orchestrator/{session_id}", _Asgi(sockets.orchestrator)),
        WebSocketRoute("/ws", _Asgi(sockets.plain)),
        *page_routes(),
        WebSocketRoute("/{path:path}", _Asgi(no_such_socket)),
    ]
    policy = security.Policy.of(ctx.settings.allowed_hosts, ctx.settings.allowed_origins)
    return Edge(ByFirstSegment(routes), policy, ctx.metrics, ctx.clock, ctx.ids)
