"""A WebSocket connection from its handshake to its end, as ASGI (spec 2.4) and as a direct way from the hub to the transport.

::

    http.py ──▶ ASKED ──websocket.accept: 101──▶ OPEN ──a close frame went out──▶ CLOSING ──▶ CLOSED
                  ├──websocket.close, websocket.http.response.*: refused─────────────▲
                  └──no handshake (handshake.py): a problem──────────────────────────┘

An idle client costs little: its request is let go of, and what only some connections need is made when they do: the queue of what the
application has yet to take, the parser (``inbound.py``), the event that says "there is room again". A pong, which is all that a listener
ever says, is read without the parser (``keepalive.py``); who says more keeps one, because only it knows whether a frame is under way.

:class:`WebSocketOutlet` is put into the scope (``extensions["aura.outlet"]``): the hub writes prebuilt frames through it, with no task, no
queue and no copy per client.

Invariants

* One close frame at most, no event and no pong after it; nothing but HTTP before the 101.
* The application gets ``websocket.disconnect`` after all messages, whatever ends the connection.
* What a client says is bounded (G12): 64 KiB a message, so many fragments, and nothing is read while a message waits for the application,
  or more than a message for the 101. So is what it makes us say: pongs that it does not read end the connection.
* uvicorn counts the connection from the upgrade to its loss, and its task: a graceful shutdown waits for both.

Failure cases

* Who answers no ping is closed with 1011 (``keepalive.py``); frames that are none with 1002, 1007 or 1009, too many fragments with 1008,
  all with 1001 at shutdown.
* Who does not answer our close frame is cut (``closing.py``). Who says no more (a half-closed connection) leaves, and so is whose transport
  closes by itself: no close frame, and cut when it does not take the rest.
* An application that raises, or returns without an answer, is a 500 while that can still be said, and 1011 after.
"""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate
from enum import Enum
from typing import TYPE_CHECKING, Any, assert_never, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from aura.gateway.api import problems
from aura.gateway.limits import Limits
from aura.gateway.live.fanout.frames import ws_text
from aura.gateway.live.fanout.outlet import Ending
from aura.gateway.live.websocket import handshake
from aura.gateway.live.websocket.closing import Closing, abort_soon
from aura.gateway.live.websocket.inbound import Bad, Closed, Endless, Inbound, Pong, close_frame
from aura.gateway.live.websocket.inbox import Inbox
from aura.gateway.live.websocket.keepalive import Keepalive
from aura.gateway.live.websocket.outlet import WebSocketOutlet
from aura.ids import SystemIds

if TYPE_CHECKING:
    from httptools.parser.url_parser import URL

    from aura.gateway.live.websocket.http import HttpProtocol

OUTLET = "aura.outlet"

_PROBLEM = (b"Content-Type", problems.MEDIA_TYPE.encode())
_ids = SystemIds()
_log = logging.getLogger("uvicorn.error")


def problem(status: int, code: str, detail: str) -> bytes:
    """A problem from below the application, where there is no request to speak of."""
    return problems.problem(status, code, detail, trace_id=_ids.uuid7().replace("-", ""))


class _State(Enum):
    ASKED = 1
    OPEN = 2
    CLOSING = 3
    CLOSED = 4


class WebSocketProtocol(asyncio.Protocol):
    """See the module docstring. Made by :class:`HttpProtocol` for a request that wants to be one."""

    __slots__ = ("_answer", "_app", "_closing", "_connect", "_cut", "_early", "_inbound", "_inbox", "_keepalive", "_key", "_loop",
                 "_outlet", "_read_paused", "_server", "_state", "scope", "transport", "writable")  # fmt: skip
    limits = Limits()

    def __init__(self, config: Config, server: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        self._app = config.loaded_app
        self._server = server
        self._loop = loop
        self._state = _State.ASKED
        self._key = b""
        self._connect = True
        """The application has yet to hear of the connection."""
        self._answer: tuple[int, list[tuple[bytes, bytes]], bytes] | None = None
        """A refusal of which not everything was said."""
        self._early = b""
        """What came before the 101 was out, which may be with the request: it waits for that."""
        self._inbound: Inbound | None = None
        self._inbox = Inbox(loop)
        self._read_paused = False
        self.writable: asyncio.Event | None = None
        """Set when there is room again; ``None`` while there is."""
        self._keepalive: Keepalive | None = None
        self._closing: Closing | None = None
        self._cut: asyncio.TimerHandle | None = None

    # --- the handshake

    def upgrade(self, http: HttpProtocol, target: URL) -> None:
        """Take over the connection of ``http``, which has read a request for it, of ``target``."""
        self._outlet = WebSocketOutlet(self, http.transport)
        self.transport = cast(asyncio.Transport, self._outlet.transport)
        cast(set[Any], self._server.connections).add(self)
        headers = handshake.trimmed(http.headers)
        match handshake.asked(http.scope["method"], http.scope["http_version"], headers):
            case handshake.Refused(status, more):
                body = problem(status, "bad_handshake", "not a valid WebSocket handshake")
                self._respond(status, [*more, _PROBLEM], body)
            case handshake.Asked(key, subprotocols):
                self._key = key
                self.scope = http.socket_scope(target, headers, subprotocols)
                self.scope["extensions"][OUTLET] = self._outlet
                task = self._loop.create_task(self._run())
                self._server.tasks.add(task)
                task.add_done_callback(self._server.tasks.discard)

    async def _run(self) -> None:
        try:
            await self._app(self.scope, self._receive, self._send)
        except ClientDisconnected:
            pass
        except asyncio.CancelledError:  # uvicorn waits no longer
            self._failed()
        except BaseException:  # noqa: BLE001 - whatever it is, it ends here; uvicorn does the same
            _log.exception("Exception in ASGI application\n")
            self._failed()
        else:
            if self._state is _State.ASKED:
                _log.error("ASGI callable returned without completing handshake.")
                self._failed()
        if self._state is _State.OPEN:
            self.end(Ending.DONE, "")
        elif self._closing is None:
            self._hang_up()

    def _failed(self) -> None:
        if self._state is _State.OPEN:
            self.end(Ending.INTERNAL, "internal error")
        elif self._state is _State.ASKED and self._answer is None:
            self._respond(500, [_PROBLEM], problem(500, "internal", ""))

    def _respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._state = _State.CLOSING
        date = (b"Date", formatdate(usegmt=True).encode())
        self.transport.write(handshake.response(status, [date, *headers], body))
        self._hang_up()

    # --- ASGI

    async def _send(self, message: Any) -> None:
        if self.writable is not None:
            await self.writable.wait()
        kind = message["type"]
        if self._state in (_State.CLOSING, _State.CLOSED):
            raise ClientDisconnected
        if self._answer is not None:
            self._refuse(kind, message)
        elif self._state is _State.ASKED:
            self._reply(kind, message)
        elif kind == "websocket.send":
            data, text = message.get("bytes"), message.get("text")
            said = Frame(Opcode.BINARY, data).serialize(mask=False) if data is not None else ws_text(text.encode())
            self.transport.write(said)
        elif kind == "websocket.close":
            self.end(message.get("code", Ending.DONE), message.get("reason") or "")
        else:
            raise RuntimeError(f"websocket.send or websocket.close was expected, not {kind}")

    def _reply(self, kind: str, message: Any) -> None:
        match kind:
            case "websocket.accept":
                if not self.transport.is_closing():
                    headers = [*self._server.default_headers, *message.get("headers", ())]
                    self._state = _State.OPEN
                    self.transport.write(handshake.switching(self._key, headers, message.get("subprotocol")))
                    self._keepalive = Keepalive(self._loop, self.transport, self.limits.ping_s, self._late)
                    self._hear_early()
            case "websocket.close":
                self._inbox.put({"type": "websocket.disconnect", "code": 1006})
                self._respond(403, [_PROBLEM], problem(403, "refused", ""))
            case "websocket.http.response.start":
                self._answer = (message["status"], list(message.get("headers", ())), b"")
            case _:
                raise RuntimeError(f"an answer to the handshake was expected, not {kind}")

    def _refuse(self, kind: str, message: Any) -> None:
        assert self._answer is not None
        if kind != "websocket.http.response.body":
            raise RuntimeError(f"websocket.http.response.body was expected, not {kind}")
        status, headers, body = self._answer
        body += message.get("body", b"")
        self._answer = (status, headers, body)
        if not message.get("more_body", False):
            self._inbox.put({"type": "websocket.disconnect", "code": 1006})
            self._respond(status, headers, body)

    async def _receive(self) -> Any:
        if self._connect:
            self._connect = False
            return {"type": "websocket.connect"}
        message = await self._inbox.take()
        if self._inbox.empty:
            self._resume_reading()
        return message

    # --- what the client says

    def _hear_early(self) -> None:
        early, self._early = self._early, b""
        if early:
            self._resume_reading()
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        if self._state is _State.ASKED:
            self._early += data
            if len(self._early) > self.limits.inbound_bytes and not self._read_paused:
                self._read_paused = True
                self.transport.pause_reading()
            return
        if self._inbound is None:
            if self._keepalive is not None and self._keepalive.takes(data):
                return
            limits, closing = self.limits, self._state is _State.CLOSING
            self._inbound = Inbound(
                max_bytes=limits.inbound_bytes, max_fragments=limits.inbound_fragments, closing=closing
            )
        for said in self._inbound.feed(data):
            match said:
                case str():
                    self._on_message({"type": "websocket.receive", "text": said})
                case bytes():
                    self._on_message({"type": "websocket.receive", "bytes": said})
                case Pong(payload):
                    if self._keepalive is not None:
                        self._keepalive.pong(payload)
                case Endless():
                    self.end(Ending.POLICY, "too many fragments")
                case Closed(code, reason) | Bad(code, reason):
                    self._on_close(code, reason)
                case _:
                    assert_never(said)
        answer = self._inbound.answer()
        if answer and self._state is _State.OPEN:
            if self.transport.get_write_buffer_size() > self.limits.outbound_bytes:
                self.transport.abort()  # it sends pings and reads nothing
            else:
                self.transport.write(answer)

    def _on_message(self, message: dict[str, Any]) -> None:
        if self._state in (_State.CLOSING, _State.CLOSED):
            return  # what it says to our close is still read
        self._inbox.put(message)
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def _on_close(self, code: int, reason: str) -> None:
        """It closes, answers our close, or says what is none of WebSocket: then the answer is a close of ours."""
        self._outlet.mute()
        if self._state is not _State.CLOSING:
            self._inbox.put({"type": "websocket.disconnect", "code": code, "reason": reason})
            if self._state is _State.OPEN and self._inbound is not None:
                self.transport.write(self._inbound.answer())
            self._state = _State.CLOSING
        self._stop_waiting()
        self._hang_up()

    # --- the end

    def end(self, code: int, reason: str) -> None:
        """Close frame, then a short wait for the answer, then cut. Safe twice and before the handshake. Whatever the state, the outlet
        is closed after it."""
        self._outlet.mute()
        if self._state in (_State.CLOSING, _State.CLOSED):
            return
        if self._state is _State.ASKED or self.transport.is_closing():
            self._leave(code, reason)
            if code == Ending.TOO_SLOW:
                self.transport.abort()
            return
        self._write_close(code, reason)
        self._inbox.put({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._resume_reading()
        self._closing = Closing(self._loop, self.transport)

    def _late(self) -> None:
        if self._state is _State.OPEN:
            self._write_close(Ending.INTERNAL, "keepalive ping timeout")
            self._hang_up()

    def _leave(self, code: int, reason: str) -> None:
        """No close frame can be said, or is of use."""
        self._stop_pings()
        self._stop_waiting()
        if self._state in (_State.ASKED, _State.OPEN):
            self._state = _State.CLOSING
            self._inbox.put({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._hang_up()

    def _hang_up(self) -> None:
        """Close, and cut who does not take the rest."""
        self.transport.close()
        if self._cut is None and self._state is not _State.CLOSED:
            self._cut = abort_soon(self._loop, self.transport)

    def _write_close(self, code: int, reason: str) -> None:
        self._outlet.mute()
        self._stop_pings()
        self._state = _State.CLOSING
        self.transport.write(
            self._inbound.close(code, reason) if self._inbound is not None else close_frame(code, reason)
        )

    def _stop_waiting(self) -> None:
        if self._closing is not None:
            self._closing.stop()
            self._closing = None

    def _stop_pings(self) -> None:
        if self._keepalive is not None:
            self._keepalive.stop()
            self._keepalive = None

    def shutdown(self) -> None:
        """uvicorn ends."""
        if self._state is _State.OPEN:
            self.end(Ending.GOING_AWAY, "restarting")
        elif self._state is _State.ASKED:
            self._failed()
            self._hang_up()

    # --- the transport

    def eof_received(self) -> bool:
        """It says no more, and so it leaves: whether it still reads cannot be told from here. ``False`` closes the transport."""
        self._outlet.mute()
        self._leave(1006 if self._state is _State.ASKED else 1005, "")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._outlet.mute()
        self._stop_pings()
        self._stop_waiting()
        if self._cut is not None:
            self._cut.cancel()
        self._inbox.put({"type": "websocket.disconnect", "code": 1006 if self._state is _State.ASKED else 1005})
        self._state = _State.CLOSED
        self.resume_writing()  # nobody will say it any more
        cast(set[Any], self._server.connections).discard(self)
        if exc is None:
            self.transport.close()

    def pause_writing(self) -> None:
        if self.writable is None and self._state is not _State.CLOSED:
            self.writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self.writable is not None:
            self.writable.set()
            self.writable = None

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()
