"""uvicorn's HTTP protocol with the bounds that it leaves open, and our own WebSocket protocol behind it.

:class:`HttpProtocol` bounds the head of a request in bytes and in time and answers garbage with a problem. It puts its transport into the
scope (``extensions["aura.transport"]``), so that an event stream whose client reads nothing can be cut. A request that wants to be a
WebSocket is handed over as llhttp has taken it apart, and so is what came with it: uvicorn would write it out again for a second parser.

It subclasses uvicorn's; ``tests/integration/test_gateway_sockets.py`` pins the behaviour that is relied on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from aura.gateway.limits import Limits
from aura.gateway.live.websocket import handshake
from aura.gateway.live.websocket.closing import abort_soon
from aura.gateway.live.websocket.protocol import WebSocketProtocol, problem

if TYPE_CHECKING:
    from httptools.parser.url_parser import URL
    from uvicorn._types import ASGI3Application

#: Most bytes of a response that are joined.
CORKED_BYTES = 64 * 1024
TRANSPORT = "aura.transport"
Address = tuple[str, int]


class _Cork:
    """Joins what is written in one turn of the event loop: uvicorn writes a response's head and body apart, this makes one system
    call and one packet of them. Everything else goes to the transport."""

    __slots__ = ("_loop", "_parts", "_size", "transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > CORKED_BYTES:
            self.flush()  # so that the transport can say "enough"

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def flush(self) -> None:
        """Write what is held back."""
        if self._parts:
            data, self._parts, self._size = b"".join(self._parts), [], 0
            if not self.transport.is_closing():  # else the client has gone: uvloop raises where asyncio ignores it
                self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class HttpProtocol(HttpToolsProtocol):
    """See the module docstring."""

    limits = Limits()

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **more: Any) -> None:
        super().__init__(config, server_state, app_state, **more)
        self._in_head = True
        self._unparsed = 0
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._wants_socket: bool | None = None
        self._running: RequestResponseCycle | None = None
        """What the application was last given; later requests wait for its answer."""
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connections.add(self)
        self.transport = cast(asyncio.Transport, _Cork(transport, self.loop))
        self.flow = FlowControl(transport)
        self.server, self.client = _ends(transport)
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        if self._cut is not None:
            self._cut.cancel()
        self._unset_keepalive_if_required()
        if self._running is not None and self._running is not self.cycle:  # uvicorn tells only the last
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")
        else:
            if self._in_head:  # llhttp collects a header before it tells us, so an unfinished head is counted here
                self._unparsed += len(data)
                if self._unparsed > self.limits.head_bytes:
                    self._refuse_head()

    def _upgrade(self, rest: bytes) -> None:
        """Whoever holds the parser is held by it: without letting go of it, nothing here would leave before the next collection.

        Refused while a request before it has no answer: that would follow the 101, and would never hear that the client has left."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(400, "bad_handshake", "a request before the handshake has no answer yet")
            return
        try:
            target = httptools.parse_url(self.url)
        except httptools.HttpParserError:
            self.send_400_response("")
            return
        self._unset_keepalive_if_required()
        cork = cast(_Cork, self.transport)
        cork.flush()
        self.transport = cork.transport
        self.parser = None  # type: ignore[assignment]
        self.connections.discard(self)
        upgraded = cast(type[WebSocketProtocol], self.ws_protocol_class)(self.config, self.server_state, self.loop)
        self.transport.set_protocol(upgraded)
        upgraded.upgrade(self, target)
        if rest:
            upgraded.data_received(rest)

    def socket_scope(self, target: URL, headers: list[tuple[bytes, bytes]], subprotocols: list[str]) -> dict[str, Any]:
        """The request as ASGI knows one that wants to be a WebSocket. Its target may be a whole URL (RFC 9112 §3.2.2)."""
        path = target.path or b"/"
        text = path.decode("ascii")  # llhttp lets nothing else through
        return {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if self.scheme == "https" else "ws",
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + (unquote(text) if "%" in text else text),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": target.query or b"",
            "headers": headers,
            "subprotocols": subprotocols,
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self._wants_socket = None
        if self._head_timer is None:
            self._await_head()

    def _should_upgrade(self) -> bool:
        """Asked several times for each request."""
        if self._wants_socket is None:
            self._wants_socket = handshake.wanted(self.headers)
        return self._wants_socket

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.limits.head_bytes:
            self._refuse_head()
            raise ValueError("the head is too large")  # stops the parser
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unparsed = 0
        self._head_done()
        self.scope["extensions"] = {TRANSPORT: self.transport}  # type: ignore[dict-item]
        if self._should_upgrade() and not self.parser.should_upgrade():
            self._refuse_handshake()
            raise ValueError("no handshake")  # stops the parser
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not ours
        self._refuse(400, "bad_request", "not a valid HTTP request")

    def _refuse_head(self) -> None:
        self._refuse(431, "headers_too_large", "the head of the request is too large")

    def _refuse_handshake(self) -> None:
        """One whose ``Connection`` does not say ``upgrade``, so that llhttp takes it for an ordinary request."""
        method, version = self.parser.get_method().decode("ascii"), self.parser.get_http_version()
        found = handshake.asked(method, version, handshake.trimmed(self.headers))
        refused = found if isinstance(found, handshake.Refused) else handshake.NO_UPGRADE
        more = b"".join([b"%b: %b\r\n" % pair for pair in refused.headers])
        self._refuse(refused.status, "bad_handshake", "not a valid WebSocket handshake", more)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._head_late)

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        self.transport.abort()

    def _refuse(self, status: int, code: str, detail: str, more: bytes = b"") -> None:
        """Answer below the application, where no request exists, and close. ``more`` are fields."""
        self._head_done()
        if self.transport.is_closing():
            return
        body = problem(status, code, detail)
        head = (
            f"HTTP/1.1 {status} Refused\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
            "x-content-type-options: nosniff\r\nconnection: close\r\n"
        )
        self.transport.write(head.encode() + more + b"\r\n" + body)
        self.transport.close()
        self._cut = abort_soon(self.loop, self.transport)


def _ends(transport: asyncio.Transport) -> tuple[Address | None, Address | None]:
    """Our address and the client's. uvloop makes a socket for every question; this is one for both."""
    held = transport.get_extra_info("socket")
    if held is None:
        return None, None  # it has gone again
    try:
        borrowed = socket.socket(fileno=held.fileno())
    except (OSError, ValueError):
        return None, None
    try:
        return _address(borrowed.getsockname), _address(borrowed.getpeername)
    finally:
        borrowed.detach()


def _address(of: Callable[[], Any]) -> Address | None:
    try:
        found = of()
    except OSError:
        return None
    return (found[0], found[1]) if isinstance(found, tuple) else None


def protocols(limits: Limits) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """HTTP and WebSocket protocol classes bound to ``limits``."""
    http = type("BoundHttpProtocol", (HttpProtocol,), {"limits": limits})
    websocket = type("BoundWebSocketProtocol", (WebSocketProtocol,), {"limits": limits, "__slots__": ()})
    return cast(type[asyncio.Protocol], http), websocket
