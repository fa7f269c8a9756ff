"""Clients that get the same bytes, and how each is written to: straight to the operating system, or through its transport.

::

    join ─▶ queued ──a tick finds nothing unsent──▶ direct ──something else is written to it, or the system takes less──▶ queued
              └─ more unsent than the budget ──▶ slow: out of the group

*direct* (a :class:`~aura.gateway.live.fanout.fan.Fan`) costs one system call for all of them where the kernel can do that, else one for
each client and tick: nothing of a client is looked at or kept, because everything that there is to know of it holds for the lane: it has
all up to the last flush, and nothing of it is unsent. *queued* asks each client how much is unsent.

Invariants

* A member is in exactly one lane, and in *direct* exactly while it is its outlet's ``lane``.
* Bytes leave in the order in which they were written (G11): nothing is sent past a transport that holds bytes. Whoever writes to one says
  so first (``Lane.queue``), and what the system did not take goes to the transport at once.
* All members of a group have the same subjects, which were checked against each one's visibility when it asked (G13); when somebody's
  rights change its connection is ended, which takes it out of the lane at once.
* Unsent bytes of a member are bounded by the budget and one write (G12).

Failure cases: a send that fails is not the end here. The transport gets the bytes, finds the same error, and ends the connection the way
it always does.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from aura.gateway.live.fanout.fan import Fan
from aura.gateway.live.fanout.frames import Frame, Note, native_messages
from aura.gateway.live.fanout.outlet import Outlet, Wire

_TAKE: dict[Wire, Callable[[Frame], bytes]] = {
    "ws": attrgetter("ws"),
    "sse": attrgetter("sse"),
    "native": attrgetter("native"),
}


class Group:
    """Clients with the same subjects and the same framing. ``flushed``: they have everything up to this sequence."""

    __slots__ = ("_direct", "_pending", "_queued", "_take", "flushed", "patterns", "wire")

    def __init__(self, patterns: tuple[str, ...], wire: Wire, flushed: int, direct: Fan) -> None:
        self.patterns = patterns
        self.wire = wire
        self.flushed = flushed
        self._take = _TAKE[wire]
        self._direct = direct
        self._queued: dict[Outlet, None] = {}
        self._pending: list[bytes] = []

    @property
    def members(self) -> list[Outlet]:
        """All clients."""
        return [*self._direct, *self._queued]

    @property
    def empty(self) -> bool:
        """Nobody is left."""
        return not (self._direct or self._queued)

    def join(self, outlet: Outlet) -> None:
        """Write to it from the next :meth:`write` on."""
        self._queued[outlet] = None

    def leave(self, outlet: Outlet) -> None:
        """Write to it no more. Safe twice."""
        if self._direct.remove(outlet):
            outlet.lane = None
        self._queued.pop(outlet, None)

    def queue(self, outlet: Outlet) -> None:
        """See :class:`~aura.gateway.live.fanout.outlet.Lane`."""
        self._direct.remove(outlet)
        self._queued[outlet] = None
        outlet.lane = None

    def add(self, frame: Frame) -> None:
        """An event for all of them."""
        self._pending.append(self._take(frame))

    def add_note(self, note: Note, subject: str) -> None:
        """Something live only for all of them."""
        if self.wire == "native":
            self._pending.append(note.native(subject))
        else:
            self._pending.append(note.ws if self.wire == "ws" else note.sse)

    def write(self, budget: int) -> tuple[int, int, list[Outlet]]:
        """Write what is pending in one piece. How many messages and bytes that were for all together; and who has more than ``budget``
        bytes unsent: it got nothing and is no member any more."""
        if not self._pending:
            return 0, 0, []
        messages, data = len(self._pending), self._joined()
        self._pending = []
        slow = self._write_queued(data, budget)
        self._write_direct(data)
        taken = len(self._direct) + len(self._queued)
        return messages * taken, len(data) * taken, slow

    def _joined(self) -> bytes:
        if self.wire == "native":
            return native_messages(self._pending)
        return self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)

    def _write_queued(self, data: bytes, budget: int) -> list[Outlet]:
        """Those with nothing unsent are not written to here: they are in the other lane from now on."""
        slow: list[Outlet] = []
        idle: list[tuple[Outlet, int]] = []
        for outlet in self._queued:
            unsent = outlet.buffered()
            if unsent > budget:
                slow.append(outlet)
            elif unsent or outlet.lane is not None or (fd := outlet.past()) is None:
                outlet.write(data)  # who is direct in another group has its order there
            else:
                idle.append((outlet, fd))
        for outlet in slow:
            del self._queued[outlet]
        for outlet, fd in idle:
            del self._queued[outlet]
            self._direct.add(outlet, fd)
            outlet.lane = self
        return slow

    def _write_direct(self, data: bytes) -> None:
        for outlet, taken in self._direct.send(data):
            outlet.write(data[taken:])  # takes it out of this lane
