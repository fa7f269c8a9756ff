"""Several subscriptions of one connection as one way through the log. Pure: no I/O, no clock.

The shared frame of ``aura.v1`` names no subscription, so a connection is a single reader that serves all its subscriptions at once::

    add ──▶ BEHIND at its own position ──┐
                                         ▼
    walk: next() → the subscriptions furthest behind, together, up to the next one's position ──▶ … ──▶ all at the head: join the hub
                                         ▲
    a subscription comes or goes ── leave the hub (all that were live are now at the head) ──┘

What was being read when a subscription came or went is not written: the walk goes on from where all of them are now.

Invariants (``tests/properties/test_subscriptions.py``, under every interleaving)

* Between its start and the end of the walk, every subscription gets each matching event exactly once and in order (G11), whatever
  overlaps it; an event that several subscriptions want at the same position of the walk is sent once.
* A later subscription that asks for history gets all of it, also what an earlier one was sent before: otherwise it would have a silent
  hole. So a client hands an event to the subscriptions whose pattern matches *and* that are behind its sequence.
* Memory is one number per subscription (G12).
"""

from __future__ import annotations

from dataclasses import dataclass

from aura.errors import Conflict, InvalidRequest, NotFound, Overloaded
from aura.events.subjects import LOG_SUBJECTS
from aura.gateway.live.feed import Cursor, FromLog, FromRing, GoLive, LogView, Reset, start, step


@dataclass(slots=True)
class Subscription:
    """``position``: everything up to it was sent or does not match. ``None``: live only, there is no history to be behind in."""

    id: str
    patterns: tuple[str, ...]
    position: int | None
    announced: bool = False
    """Whether the client knows that it is live."""


class Subscriptions:
    """See the module docstring. ``most`` bounds how many there are."""

    def __init__(self, *, most: int, page_events: int) -> None:
        self._most = most
        self._page_events = page_events
        self._by_id: dict[str, Subscription] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def check(self, id: str, others: int = 0) -> None:
        """Whether ``id`` may be added, beside ``others`` that are counted elsewhere. Raises ``Conflict``, ``Overloaded``."""
        if id in self._by_id:
            raise Conflict("a subscription of that id is open")
        if len(self._by_id) + others >= self._most:
            raise Overloaded(f"a connection has at most {self._most} subscriptions")

    def add(self, id: str, patterns: tuple[str, ...], cursor: Cursor, view: LogView) -> tuple[int, Reset | None]:
        """Begin at ``cursor``. Returns the sequence it begins after, and the reset when the cursor cannot be honoured."""
        self.check(id)
        position, reset = start(cursor, view)
        self._by_id[id] = Subscription(id, patterns, position)
        return position, reset

    def add_live_only(self, id: str, patterns: tuple[str, ...]) -> None:
        """Something without history."""
        self.check(id)
        self._by_id[id] = Subscription(id, patterns, None)

    def remove(self, id: str) -> None:
        """Raises ``NotFound``."""
        if self._by_id.pop(id, None) is None:
            raise NotFound("subscription", id)

    def patterns(self) -> tuple[str, ...]:
        """All of them, in an order that connections with the same subscriptions share."""
        return tuple(sorted({pattern for found in self._by_id.values() for pattern in found.patterns}))

    def left_live(self, head: int) -> None:
        """The connection was live and has everything up to ``head``."""
        for found in self._by_id.values():
            if found.announced and found.position is not None:
                found.position = head

    def next(self, view: LogView) -> FromRing | FromLog | GoLive:
        """How the walk goes on; :class:`GoLive` when all are at the head (or there are none)."""
        positions = sorted({found.position for found in self._by_id.values() if found.position is not None})
        if not positions or positions[0] == view.head:
            return GoLive()
        return step(positions[0], view, self._page_events, positions[1] if len(positions) > 1 else None)

    def stop_at(self) -> int | None:
        """The position that the ones furthest behind must not pass alone: the next one's, if there is one."""
        positions = sorted({found.position for found in self._by_id.values() if found.position is not None})
        return positions[1] if len(positions) > 1 else None

    def behind(self) -> tuple[Subscription, ...]:
        """The ones that the next step is for: furthest behind, together."""
        positions = [found.position for found in self._by_id.values() if found.position is not None]
        lowest = min(positions, default=-1)
        return tuple(found for found in self._by_id.values() if found.position == lowest)

    def still(self, served: tuple[Subscription, ...]) -> tuple[Subscription, ...]:
        """Those of ``served`` that were not removed while a page was read."""
        return tuple(found for found in served if self._by_id.get(found.id) is found)

    def reached(self, served: tuple[Subscription, ...], seq: int) -> None:
        """``served`` have everything up to ``seq``."""
        for found in self.still(served):
            assert found.position is not None
            if seq < found.position:
                raise ValueError(f"a subscription went back from {found.position} to {seq}")
            found.position = seq

    def announce(self) -> list[str]:
        """The ids that have just become live."""
        fresh = [found.id for found in self._by_id.values() if not found.announced]
        for found in self._by_id.values():
            found.announced = True
        return fresh

    def lowest(self, head: int) -> int:
        """The sequence after which this connection must resume so that nothing is missing."""
        return min((found.position for found in self._by_id.values() if found.position is not None), default=head)


_KINDS = ("job", "model", "session", "system")


def log_patterns(pattern: str) -> tuple[str, ...]:
    """A checked ``aura.…`` pattern as patterns of the log alone: a wildcard for the kind never means output."""
    match pattern.split("."):
        case [_, kind, _, *_] if kind in _KINDS:
            return (pattern,)
        case [_, ">"]:
            return LOG_SUBJECTS
        case [root, "*", first, *rest]:
            return tuple(".".join((root, kind, first, *rest)) for kind in _KINDS)
        case _:
            pass
    raise InvalidRequest(
        "a subject of the log is aura.job…, aura.model…, aura.session… or aura.system…", field="subject"
    )
