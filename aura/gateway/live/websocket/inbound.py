"""What a client of a WebSocket says, from bytes to messages. Sans I/O: bytes in, what they mean and what to answer out.

Frames are taken apart by ``websockets``' own parser, which checks masks, opcodes, reserved bits, lengths and close codes (RFC 6455 §5).
Here, frame by frame, fragments are put together and bounded in number, and text is checked to be text.

Invariants

* A message is given when it is whole. After :class:`Bad` nothing is given any more, after :class:`Endless` no message.
* However it is cut into pieces, it means the same: what came before an error is given, what came with it is not heard.
* Once a close frame went out (:meth:`Inbound.close`, or the parser's answer to the client's), no second one does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

#: Most bytes of a close frame's reason that we send; a control frame has room for 123 (RFC 6455 §5.5).
_REASON = 120
_log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, slots=True)
class Pong:
    """It answers a ping, or pretends to."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """It closes, or answers our close."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Bad:
    """What it said is not WebSocket. ``code`` closes the connection."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Endless:
    """More fragments than a message may have."""


Said = str | bytes | Pong | Closed | Bad | Endless


def close_frame(code: int, reason: str) -> bytes:
    """The reason may be shortened."""
    return Frame(Opcode.CLOSE, Close(code, short(reason)).serialize()).serialize(mask=False)


def short(reason: str) -> str:
    """As much of it as a control frame has room for."""
    return reason.encode()[:_REASON].decode(errors="ignore")


class _Messages(Protocol):
    """The parser, which hands on what each frame means before it looks at the next one: a frame is judged by what came before it, never
    by what came with it. Raising stops it for good, with the close code that belongs to the error."""

    def __init__(self, max_bytes: int, max_fragments: int) -> None:
        super().__init__(SERVER, max_size=max_bytes, logger=_log)
        self.said: list[Said] = []
        self._most = max_fragments
        self._parts: list[bytes] = []
        self._count = 0
        self._text = self._endless = False

    def recv_frame(self, frame: Frame) -> None:
        """Called by the parser for each frame. Raises ``ProtocolError``, ``UnicodeDecodeError``."""
        super().recv_frame(frame)
        self.events.clear()
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY:
                self._text = frame.opcode is Opcode.TEXT
                self._part(frame)
            case Opcode.CONT:
                self._count += 1
                if self._count <= self._most:
                    self._part(frame)
                elif not self._endless:
                    self._endless, self._parts = True, []
                    self.said.append(Endless())
            case Opcode.PONG:
                self.said.append(Pong(bytes(frame.data)))
            case Opcode.CLOSE:
                assert self.close_rcvd is not None
                self.said.append(Closed(self.close_rcvd.code, self.close_rcvd.reason))
            case _:
                pass  # the parser has an answer to a ping

    def _part(self, frame: Frame) -> None:
        if self._endless:
            return
        self._parts.append(bytes(frame.data))
        if frame.fin:
            data, self._parts, self._count = b"".join(self._parts), [], 0
            self.said.append(data.decode() if self._text else data)


class Inbound:
    """See the module docstring. ``closing``: our close frame went out before the client said anything."""

    __slots__ = ("_bad", "_parser")

    def __init__(self, *, max_bytes: int, max_fragments: int, closing: bool = False) -> None:
        self._parser = _Messages(max_bytes, max_fragments)
        self._bad = False
        if closing:
            self.close(1000, "")

    def feed(self, data: bytes) -> list[Said]:
        """What the client says with these bytes, in order."""
        parser = self._parser
        parser.receive_data(data)
        said, parser.said = parser.said, []
        if parser.parser_exc is not None and not self._bad:
            self._bad = True
            sent = parser.close_sent
            assert sent is not None
            said.append(Bad(sent.code, sent.reason))
        return said

    def answer(self) -> bytes:
        """What is to be said to it by the protocol: pongs, a close."""
        return b"".join(self._parser.data_to_send())

    def close(self, code: int, reason: str) -> bytes:
        """Our close frame, after what is to be answered first."""
        if self._parser.state is OPEN:
            self._parser.send_close(code, short(reason))
        return self.answer()
