"""The socket of a connection without a task in between: what is read is handled where it is read.

nats-py reads through a stream, a future and a task, and each message of a quiet connection pays for all three. A process of this
system mostly wakes up for one message. Here the bytes go from the event loop's ``data_received`` into :meth:`DirectParser.take`, which
calls plain functions; only what is not a message for one of them (a ping, an error, a message for one of nats-py's own
subscriptions) is left to nats-py's parser in the read task.

::

    DIRECT ──take() leaves a rest──▶ HANDED OVER: whatever comes is kept behind the rest ──the task has parsed it all──▶ DIRECT
      │                          (reading pauses meanwhile, so what is kept is bounded)
      └──end of file, lost──▶ ENDED: the task reports it as nats-py's own read loop does

A connection with ``gather_s`` looks at its socket again only so long after a small read: who does not need every message at once is not
woken for every message, and whoever sent them does not pay for waking it.

Invariants: bytes are parsed once, in order, by one parser at a time; a handler that raises stops neither. Handlers may still be called
after the read task was cancelled (a close, a protocol error), until the transport is closed. The stream's protocol still hears of
everything but data, because nats-py waits on it for writing and closing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import structlog
from nats import errors as nats_errors
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

if TYPE_CHECKING:
    from aura.log.connection import Connection

log = structlog.get_logger("aura.log")

#: A read as large as this belongs to a stream of messages that is not to be slowed down.
_LARGE_READ = 16 * 1024

RawHandler = Callable[[bytes, bytes, bytes, "bytes | None"], None]
"""``(subject, reply, body, headers)``; called where the socket is read."""


class DirectParser(Parser):
    """nats-py's parser with a straight path for messages: no regular expressions, no buffer copies, no coroutine."""

    nc: Connection

    @property
    def between_lines(self) -> bool:
        """Whether the next byte begins a protocol line, so that :meth:`take` may be asked."""
        return bool(self.state == AWAITING_CONTROL_LINE)

    def take(self, data: bytes) -> bytes:
        """Hand over messages of plain functions, in order; returns from the first line on that is something else, for ``parse``. Only
        :attr:`between_lines`. An incomplete message is kept."""
        if self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        position, size = 0, len(data)
        handlers = self.nc.raw_handlers
        while position < size:
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                break
            with_headers = data.startswith(b"HMSG ", position)
            if not with_headers and not data.startswith(b"MSG ", position):
                return data[position:]
            fields = data[position:line_end].split(b" ")
            handler = handlers.get(int(fields[2]))
            if handler is None:
                return data[position:]
            start = line_end + 2
            end = start + int(fields[-1])
            if end + 2 > size:
                break
            payload = start + int(fields[-2]) if with_headers else start
            headers = data[start:payload] if with_headers else None
            reply = fields[3] if len(fields) == (6 if with_headers else 5) else b""
            position = end + 2
            try:
                handler(fields[1], reply, data[payload:end], headers)
            except Exception:  # the socket serves every subscription: one bad handler must not stop it
                log.exception("nats.handler_failed")
        if position < size:
            self.buf.extend(data[position:])
        return b""


class DirectReader(asyncio.Protocol):
    """Takes the place of a stream's protocol; :meth:`run` is the read task. See the module."""

    def __init__(self, connection: Connection, parser: DirectParser, writer: asyncio.StreamWriter) -> None:
        self._connection = connection
        self._parser = parser
        self._rest: deque[bytes] = deque()
        self._handed_over = True
        self._ended: Exception | None = None
        self._wake = asyncio.Event()
        self._transport = cast(asyncio.Transport, writer.transport)
        self._stream = cast(asyncio.StreamReaderProtocol, self._transport.get_protocol())

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Until the connection ends. ``reader`` may hold what came before. Raises ``OSError``, nats-py's ``Error``."""
        self._transport.set_protocol(self)
        if reader._eof or self._transport.is_closing():  # type: ignore[attr-defined]
            self._end(nats_errors.UnexpectedEOF())  # it ended before anybody listened here
        reader.feed_eof()  # nothing more is fed to it, so this is where what it has ends
        self._rest.appendleft(await reader.read(-1))
        while True:
            while self._rest:
                await self._parse(self._rest.popleft())
            if self._ended is not None:
                raise self._ended
            self._handed_over = not self._parser.between_lines
            self._transport.resume_reading()
            await self._wake.wait()
            self._wake.clear()

    async def _parse(self, data: bytes) -> None:
        if self._parser.between_lines:
            data = self._parser.take(data)
        if data:
            await self._parser.parse(data)

    # ------------------------------------------------------------ asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Bytes from the server."""
        rest = data if self._handed_over else self._parser.take(data)
        if rest:
            self._handed_over = True
            self._rest.append(rest)
            self._transport.pause_reading()
            self._wake.set()
        elif self._connection.gather_s and len(data) < _LARGE_READ:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(self._connection.gather_s, self._resume)

    def _resume(self) -> None:
        if self._ended is None and not self._handed_over and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool | None:
        """The server will send no more."""
        self._end(nats_errors.UnexpectedEOF())
        return self._stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end(exc if isinstance(exc, OSError) else nats_errors.UnexpectedEOF())
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """Too much waits to be sent."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """There is room again."""
        self._stream.resume_writing()

    def _end(self, why: Exception) -> None:
        if self._ended is None:
            self._ended = why
            self._wake.set()
