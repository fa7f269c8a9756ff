"""A WebSocket connection as an outlet, with two ways out for bytes: its transport, and past that the operating system.

::

    hub's groups ──past───────────────────────────▶ file descriptor
    history, words of the dialect ──write──┐             ▲
    protocol.py: pongs, pings, closes ─────┴──▶ transport┘

Invariants

* Nothing overtakes and nothing follows a close: whatever goes to the transport is announced to the lane that sends past it
  (``fanout/outlet.py``), the protocol's own frames included (:class:`_Announced`). The way past it is for who is that lane, and only while
  it holds nothing.
* The file descriptor is the transport's, which closes it after ``connection_lost``. We let go of it before (:meth:`WebSocketOutlet.mute`),
  so nothing is sent on one that has become somebody else's.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aura.gateway.live.fanout.outlet import Lane, Wire

if TYPE_CHECKING:
    from aura.gateway.live.websocket.protocol import WebSocketProtocol

#: Where Linux has ``tcpi_bytes_acked`` in its ``tcp_info``.
_BYTES_ACKED = 120


def untaken(transport: asyncio.Transport) -> int:
    """Bytes that the client's machine has not taken: ours, and what the operating system has of them."""
    unsent = transport.get_write_buffer_size()
    try:
        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError, AttributeError):  # closed meanwhile, or a system that cannot tell
        return unsent
    size: int = struct.unpack("i", queued)[0]
    return unsent + size


def taken(transport: asyncio.Transport) -> int:
    """How many bytes the client's machine has taken so far. Our own buffer shrinks in steps of a megabyte, too coarse to tell a slow
    reader from one that reads nothing; where the system cannot tell it has to do, and the number is negative."""
    try:
        info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        acknowledged: int = struct.unpack_from("Q", info, _BYTES_ACKED)[0]
    except (OSError, AttributeError, struct.error):
        return -transport.get_write_buffer_size()
    return acknowledged


class _Announced:
    """The transport as the protocol (``protocol.py``) knows it: the outlet hears of what is written or closed before it happens."""

    __slots__ = ("_outlet", "transport")

    def __init__(self, transport: asyncio.Transport, outlet: WebSocketOutlet) -> None:
        self.transport = transport
        self._outlet = outlet

    def write(self, data: bytes) -> None:
        self._outlet.leave_lane()
        self.transport.write(data)

    def close(self) -> None:
        self._outlet.mute()
        self.transport.close()

    def abort(self) -> None:
        self._outlet.mute()
        self.transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class WebSocketOutlet:
    """See the module docstring. Lives as long as its connection.

    ``buffered`` *is* the transport's, and what :meth:`past` gives is the system's: no method of ours runs for every client and tick.
    """

    __slots__ = ("_protocol", "buffered", "closed", "lane", "transport", "wire", "write")

    def __init__(self, protocol: WebSocketProtocol, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self.transport = _Announced(transport, self)
        """What the protocol is to take for the transport."""
        self.wire: Wire = "ws"
        self.closed = False
        self.lane: Lane | None = None
        self.write: Callable[[bytes], None] = self.transport.write
        self.buffered: Callable[[], int] = transport.get_write_buffer_size

    def past(self) -> int | None:
        transport = self.transport.transport
        if (
            self.closed or transport.get_extra_info("sslcontext") is not None
        ):  # what goes over the wire is not what is written
            return None
        held = transport.get_extra_info("socket")
        fd: int = held.fileno() if held is not None else -1  # gone, and we have yet to hear of it
        return fd if fd >= 0 else None

    def leave_lane(self) -> None:
        """Something is about to be queued: nobody sends past it."""
        if self.lane is not None:
            self.lane.queue(self)

    def mute(self) -> None:
        """A close frame is out, or the connection is gone: nothing is sent any more. Safe twice."""
        self.leave_lane()
        self.closed = True
        self.write = _ignore
        self.buffered = _none

    def forget_handshake(self) -> None:
        """Let go of the request and its headers, several kilobytes for each idle client: nobody asks for them any more."""
        self._protocol.scope.clear()

    async def drained(self, timeout_s: float) -> bool:
        while (writable := self._protocol.writable) is not None and not self.closed:
            before = taken(self._protocol.transport)
            try:
                async with asyncio.timeout(timeout_s):
                    await writable.wait()
            except TimeoutError:
                if taken(self._protocol.transport) <= before:
                    return False
        return True

    def end(self, code: int, reason: str) -> None:
        self._protocol.end(code, reason)


def _ignore(_data: bytes) -> None:
    """Where a muted outlet writes."""


def _none() -> int:
    return 0
