"""Whether the client of a WebSocket is still there: a ping every ``ping_s``, answered within as long.

::

    wait ──ping_s──▶ ping ──its pong──▶ wait (so much less as the answer took)
                      └──ping_s──▶ LATE, unless the client still takes what was written before the ping: then wait as long again

A ping goes the way of all bytes, behind what is unsent: a slow reader gets to it late, and is not gone for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import getrandbits

from aura.gateway.live.websocket.outlet import taken, untaken

#: The head of a ping of four bytes, and of the pong that answers it (masked, RFC 6455 §5.2).
_PING = b"\x89\x04"
_PONG = b"\x8a\x84"
_PONG_BYTES = 10


class Keepalive:
    """See the module docstring. ``late`` is called once, and then no more pings are sent."""

    __slots__ = (
        "_every_s",
        "_late",
        "_loop",
        "_owed",
        "_payload",
        "_rtt_s",
        "_seen",
        "_sent_at",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        every_s: float,
        late: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._every_s = every_s
        self._late = late
        self._payload: bytes | None = None
        """What is to be answered."""
        self._sent_at = self._rtt_s = 0.0
        self._seen = self._owed = 0
        """What the client had taken when it was last looked at, and what it will have taken with the last ping."""
        self._timer: asyncio.TimerHandle | None = loop.call_later(every_s, self._ping)

    def stop(self) -> None:
        """Ask no more. Safe twice."""
        self._payload = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pong(self, payload: bytes) -> None:
        """Others than to the last ping mean nothing (RFC 6455 §5.5.3)."""
        if payload == self._payload:
            self._rtt_s = self._loop.time() - self._sent_at
            self.stop()
            self._timer = self._loop.call_later(max(0.0, self._every_s - self._rtt_s), self._ping)

    def takes(self, data: bytes) -> bool:
        """Whether ``data`` is the pong to the last ping, whole and nothing else, which is all that most clients ever say: then it needs
        no parser."""
        if self._payload is None or len(data) != _PONG_BYTES or data[:2] != _PONG:
            return False
        unmasked = (int.from_bytes(data[2:6]) ^ int.from_bytes(data[6:])).to_bytes(4)
        if unmasked != self._payload:
            return False
        self.pong(unmasked)
        return True

    def _ping(self) -> None:
        self._timer = None
        transport = self._transport
        if transport.is_closing():
            return
        self._seen = taken(transport)
        self._owed = self._seen + untaken(transport)
        self._payload = getrandbits(32).to_bytes(4)
        self._sent_at = self._loop.time()
        transport.write(_PING + self._payload)
        self._timer = self._loop.call_later(self._every_s, self._unanswered)

    def _unanswered(self) -> None:
        self._timer = None
        if self._transport.is_closing():
            return
        now = taken(self._transport)
        if self._seen < now < self._owed:
            self._seen = now
            self._timer = self._loop.call_later(self._every_s, self._unanswered)
            return
        self._payload = None
        self._late()
