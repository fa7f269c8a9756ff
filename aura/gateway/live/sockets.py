"""uvicorn's protocol classes with the bounds that it leaves open, and a direct way from the hub to the transport.

* :class:`HttpProtocol` bounds the head of a request in bytes and in time and answers garbage with a problem. It puts its transport into
  the scope (``extensions["aura.transport"]``), so that an event stream whose client reads nothing can be cut.
* :class:`WebSocketProtocol` puts a :class:`WebSocketOutlet` into the scope (``extensions["aura.outlet"]``): the hub
  writes prebuilt frames through it, with no task, no queue and no copy per client. It bounds fragments and
  pongs, says 1001 at shutdown, and gives a close handshake :data:`CLOSE_WAIT_S` before the connection is cut; longer to a client that
  is still taking what was written before, so that a slow one gets to read its 4408 and where to resume.

Both subclass uvicorn internals; ``tests/integration/test_gateway_sockets.py`` pins the behaviour that is relied on.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Response
from websockets.server import ServerProtocol

from aura.gateway.api import problems
from aura.gateway.limits import Limits
from aura.gateway.live.outlet import Ending
from aura.gateway.live.socket_outlet import WebSocketOutlet, taken, untaken
from aura.ids import SystemIds

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

#: Seconds between our close frame and cutting the connection of a client that does not answer it, and how many times as long one has that
#: is still reading.
CLOSE_WAIT_S = 2.0
CLOSE_LOOKS = 15
#: Most bytes of a response that are joined.
CORKED_BYTES = 64 * 1024
OUTLET = "aura.outlet"
TRANSPORT = "aura.transport"


_ids = SystemIds()


def _problem(status: int, code: str, detail: str) -> bytes:
    """A problem from below the application, where there is no request to speak of."""
    return problems.problem(status, code, detail, trace_id=_ids.uuid7().replace("-", ""))


class _Handshake(ServerProtocol):
    """websockets' protocol with problems instead of plain text for handshakes that are none. No extensions: no compression."""

    def reject(self, status: HTTPStatus | int, text: str) -> Response:  # noqa: ARG002 - websockets' words are not ours
        found = super().reject(status, "")
        found.body = _problem(int(status), "bad_handshake", "not a valid WebSocket handshake")
        for name, value in (("Content-Length", str(len(found.body))), ("Content-Type", "application/problem+json")):
            del found.headers[name]
            found.headers[name] = value
        return found


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """See the module docstring."""

    limits = Limits()

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **more: Any) -> None:
        super().__init__(config, server_state, app_state, **more)
        self.conn = _Handshake(max_size=config.ws_max_size, logger=self.logger)
        self.close_timeout = CLOSE_WAIT_S
        self._fragments = 0
        self._seen = self._owed = 0
        """What the client had taken when it was last looked at, and what it will have taken with the last ping."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._outlet = WebSocketOutlet(self, transport)
        super().connection_made(cast(asyncio.Transport, self._outlet.transport))

    async def run_asgi(self) -> None:
        self.scope["extensions"][OUTLET] = self._outlet  # type: ignore[assignment]
        await super().run_asgi()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # refused is answered too: uvicorn would log each such handshake as an error

    def connection_lost(self, exc: Exception | None) -> None:
        self._outlet.mute()
        super().connection_lost(exc)

    def handle_parser_exception(self) -> None:
        self._outlet.mute()
        super().handle_parser_exception()
        self._abort_soon()

    def send_keepalive_ping(self) -> None:
        self._seen = taken(self.transport)
        self._owed = self._seen + untaken(self.transport)
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        now = taken(self.transport)
        if (
            self._seen < now < self._owed and not self.close_sent
        ):  # it is still reading what was written before the ping
            self._seen = now
            self.pong_timer = self.loop.call_later(self.limits.ping_s, self.keepalive_timeout)
            return
        self._outlet.mute()
        super().keepalive_timeout()
        self._abort_soon()

    def _abort_soon(self) -> None:
        """The transport closes once all is sent, which it may never be."""
        self.loop.call_later(CLOSE_WAIT_S, self.transport.abort)

    def handle_cont(self, event: Frame) -> None:
        self._fragments += 1
        if self._fragments > self.limits.inbound_fragments:
            self.end(Ending.POLICY, "too many fragments")
            return
        super().handle_cont(event)
        if event.fin:
            self._fragments = 0

    def handle_ping(self) -> None:
        if self.transport.get_write_buffer_size() > self.limits.outbound_bytes:
            self.transport.abort()  # it sends pings and reads nothing
            return
        super().handle_ping()

    def handle_close(self, event: Frame) -> None:
        self._outlet.mute()
        super().handle_close(event)
        if self.transport.is_closing():
            self._abort_soon()

    def end(self, code: int, reason: str) -> None:
        """Close frame, then a short wait for the answer, then cut. Safe twice and before the handshake."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        if not self.handshake_complete:
            self.transport.close()
            return
        self._outlet.mute()
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason[:120])
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._wait_for_close(CLOSE_LOOKS)

    def _wait_for_close(self, looks: int) -> None:
        self.close_timer = self.loop.call_later(CLOSE_WAIT_S, self._cut, taken(self.transport), looks)

    def _cut(self, before: int, looks: int) -> None:
        self.close_timer = None
        if looks and taken(self.transport) > before:
            self._wait_for_close(looks - 1)
        else:
            self.transport.abort()

    def shutdown(self) -> None:
        if self.handshake_complete:
            self.end(Ending.GOING_AWAY, "restarting")
        else:
            super().shutdown()


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
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > CORKED_BYTES:
            self._flush()  # so that the transport can say "enough"

    def close(self) -> None:
        self._flush()
        self.transport.close()

    def _flush(self) -> None:
        if self._parts:
            data, self._parts, self._size = b"".join(self._parts), [], 0
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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, _Cork(transport, self.loop))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:  # llhttp collects a header before it tells us, so an unfinished head is counted here
            self._unparsed += len(data)
            if self._unparsed > self.limits.head_bytes:
                self._refuse_head()

    def handle_websocket_upgrade(self) -> None:
        self.transport = cast(_Cork, self.transport).transport
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        if self._head_timer is None:
            self._await_head()

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
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not ours
        self._refuse(400, "bad_request", "not a valid HTTP request")

    def _refuse_head(self) -> None:
        self._refuse(431, "headers_too_large", "the head of the request is too large")

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._head_late)

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        self.transport.abort()

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer below the application, where no request exists, and close."""
        self._head_done()
        if self.transport.is_closing():
            return
        body = _problem(status, code, detail)
        head = (
            f"HTTP/1.1 {status} Refused\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
            "x-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def protocols(limits: Limits) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """HTTP and WebSocket protocol classes bound to ``limits``."""
    http = type("BoundHttpProtocol", (HttpProtocol,), {"limits": limits})
    websocket = type("BoundWebSocketProtocol", (WebSocketProtocol,), {"limits": limits})
    return cast(type[asyncio.Protocol], http), cast(type[asyncio.Protocol], websocket)
