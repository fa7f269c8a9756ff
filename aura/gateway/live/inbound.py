"""What a client of a WebSocket says, from bytes to messages. Sans I/O: bytes in, what they mean and what to answer out.

Frames are taken apart by ``websockets``' own parser, which checks masks, opcodes, reserved bits, lengths and close codes (RFC 6455 §5).
Here fragments are put together and bounded in number, and text is checked to be text.

Invariants

* A message is given when it is whole. After :class:`Bad` nothing is given any more.
* Once a close frame went out (:meth:`Inbound.close`, or the parser's answer to the client's), no second one does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
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


class Inbound:
    """See the module docstring. ``closing``: our close frame went out before the client said anything."""

    __slots__ = ("_count", "_most", "_parser", "_parts", "_text")

    def __init__(self, *, max_bytes: int, max_fragments: int, closing: bool = False) -> None:
        self._parser = Protocol(SERVER, max_size=max_bytes, logger=_log)
        if closing:
            self.close(1000, "")
        self._most = max_fragments
        self._parts: list[bytes] = []
        self._count = 0
        self._text = False

    def feed(self, data: bytes) -> Iterator[Said]:
        """What the client says with these bytes, in order."""
        parser = self._parser
        parser.receive_data(data)
        if parser.parser_exc is not None:
            yield self._bad()
            return
        for frame in parser.events_received():
            assert isinstance(frame, Frame)
            match frame.opcode:
                case Opcode.TEXT | Opcode.BINARY:
                    self._text = frame.opcode is Opcode.TEXT
                    yield from self._part(frame)
                case Opcode.CONT:
                    self._count += 1
                    if self._count > self._most:
                        yield Endless()
                    else:
                        yield from self._part(frame)
                case Opcode.PONG:
                    yield Pong(bytes(frame.data))
                case Opcode.CLOSE:
                    assert parser.close_rcvd is not None
                    yield Closed(parser.close_rcvd.code, parser.close_rcvd.reason)
                case _:
                    pass  # the parser has an answer to a ping

    def _part(self, frame: Frame) -> Iterator[Said]:
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return
        data, self._parts, self._count = b"".join(self._parts), [], 0
        if not self._text:
            yield data
            return
        try:
            yield data.decode()
        except UnicodeDecodeError:
            if self._parser.state is OPEN:
                self._parser.send_close(1007)
            yield self._bad()

    def _bad(self) -> Bad:
        sent = self._parser.close_sent
        assert sent is not None
        return Bad(sent.code, sent.reason)

    def answer(self) -> bytes:
        """What is to be said to it by the protocol: pongs, a close."""
        return b"".join(self._parser.data_to_send())

    def close(self, code: int, reason: str) -> bytes:
        """Our close frame, after what is to be answered first."""
        if self._parser.state is OPEN:
            self._parser.send_close(code, short(reason))
        return self.answer()
