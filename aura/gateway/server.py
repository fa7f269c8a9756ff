"""Runs the gateway: uvicorn in this event loop, the tail of the log, the taps; and ends all of it without keeping
anybody waiting.

Start: the tail first (from a ring's length before the log's end, so that clients of an earlier process resume from
memory), then, when it has caught up, the listening socket. Stop: every live client is told (1001, or the end of its
event stream), running requests get ``drain_s``, then uvicorn closes. Only what the operating system or a client sends
is trusted: no proxy headers, no access log with query strings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import structlog
import uvicorn

from aura.config import refuse_open_bind
from aura.errors import AuraError, ConfigError
from aura.gateway.app import create_app
from aura.gateway.context import GatewayContext
from aura.gateway.live.heartbeats import note_of
from aura.gateway.live.websocket.http import protocols
from aura.gateway.ports import MakeTail, Stop, Tail
from aura.log.store import Recorded

log = structlog.get_logger("aura.gateway")

#: Connections beyond the live ones; above it uvicorn answers 503 by itself.
_HTTP_CONNECTIONS = 4_096

Observer = Callable[[list[Recorded]], None]


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own, and with an event instead of a flag for "listening"."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process's composition root."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket (port 0 = any free one). Raises ``ConfigError`` that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((host.strip("[]"), port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another AURA_PORT") from None
    return bound


def _name(observer: Observer) -> str:
    return getattr(observer, "__qualname__", type(observer).__name__)


class GatewayService:
    """One gateway. ``observers`` see every batch of events after the hub (a cache of heads, for example), whatever became of the hub
    or of the other observers: one that raises misses that batch, and the log says so."""

    def __init__(
        self, ctx: GatewayContext, make_tail: MakeTail | None = None, *, observers: tuple[Observer, ...] = ()
    ) -> None:
        self._ctx = ctx
        self._make_tail = make_tail
        self._observers = observers
        self._tail: Tail | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._stop_health: Stop | None = None
        self.port = 0
        """The port that is listened on, once started."""

    @property
    def url(self) -> str:
        """Where it can be reached."""
        host = self._ctx.settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def start(self) -> None:
        """Return when requests are answered. Raises ``ConfigError``, ``Unavailable``, ``LogRegression``."""
        refuse_open_bind(self._ctx.settings)
        bound = listen(self._ctx.settings.host, self._ctx.settings.port)
        try:
            await self._follow_log()
            if self._ctx.access is not None:
                await self._ctx.access.start()
            if self._ctx.health is not None:
                self._stop_health = await self._ctx.health.watch(self._on_heartbeat)
            await self._serve(bound)
        except BaseException:
            bound.close()
            await self.stop()
            raise
        log.info("gateway.listening", url=self.url)

    async def stop(self) -> None:
        """Say goodbye to live clients, drain, close. Safe twice."""
        self._ctx.hub.close()
        server, self._server = self._server, None
        serving, self._serving = self._serving, None
        if server is not None and serving is not None:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
        if self._ctx.access is not None:
            await self._ctx.access.stop()
        stop_health, self._stop_health = self._stop_health, None
        if stop_health is not None:
            await stop_health()
        tail, self._tail = self._tail, None
        if tail is not None:
            await tail.stop()

    async def wait(self) -> None:
        """Return when the server has ended."""
        if self._serving is not None:
            await asyncio.wait({self._serving})

    async def _follow_log(self) -> None:
        identity = await self._ctx.store.identity()
        from_seq = max(identity.last_seq - self._ctx.limits.ring_frames, identity.first_seq - 1, 0) + 1
        self._ctx.hub.begin(identity, from_seq)
        if self._make_tail is not None and self._ctx.hub.failure is None:
            self._tail = self._make_tail(from_seq, self._on_batch, self._on_end)
            await self._tail.start()
            if self._ctx.access is not None:
                self._ctx.access.follows(self._tail.age_s)
            await self._ctx.hub.caught_up(identity.last_seq)

    def _on_batch(self, batch: list[Recorded]) -> None:
        try:
            self._ctx.hub.on_batch(batch)
        except Exception as error:  # a hole, or a bug: live feeds end, explicitly; the observers go on
            log.exception("gateway.hub_failed", seq=batch[0].seq)
            self._ctx.hub.lost(f"the hub failed: {type(error).__name__}")
        for observer in self._observers:
            try:
                observer(batch)
            except Exception:  # what one cannot digest must not end the tail for all
                log.exception("gateway.observer_failed", seq=batch[0].seq, observer=_name(observer))

    def _on_end(self, error: AuraError) -> None:
        self._ctx.hub.lost(error.detail or error.code)

    def _on_heartbeat(self, subject: str, body: bytes) -> None:
        if self._ctx.hub.listens(subject):
            note = note_of(subject, body, self._ctx.clock)
            if note is not None:
                self._ctx.hub.note(subject, note)

    async def _serve(self, bound: socket.socket) -> None:
        http, websocket = protocols(self._ctx.limits)
        for name in ("uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).setLevel(logging.WARNING)  # its info lines carry query strings
        config = uvicorn.Config(
            create_app(self._ctx),
            interface="asgi3",
            http=http,
            ws=websocket,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=30,
            limit_concurrency=self._ctx.limits.connections + _HTTP_CONNECTIONS,
            timeout_graceful_shutdown=max(1, int(self._ctx.limits.drain_s)),
        )
        self.port = bound.getsockname()[1]
        self._server = _Server(config)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=[bound]))
        listening = asyncio.ensure_future(self._server.listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._serving.done():
            self._serving.result()
            raise ConfigError("the HTTP server ended before it listened")
