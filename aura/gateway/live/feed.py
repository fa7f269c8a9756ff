"""One client's way through the log: catch up, then live. Pure: no I/O, no clock.

::

    asked ──cursor cannot be honoured──▶ RESET (said once) ──▶ continues from the head
      │
      ▼
    CATCHING UP at ``position`` ──next step──▶ page from the ring │ page from the log
      │   position == head, checked and joined in one turn of the event loop
      ▼
    LIVE: the hub writes the shared bytes; nothing is tracked per event

Invariants (``tests/properties/test_feed.py`` checks them under every interleaving of pages and live events)

* What a client gets is the matching events of ``start + 1, start + 2, …``: no gap, no duplicate, no reorder (G11), or
  one reset first.
* ``position`` is the last sequence that was written to the client *or* that does not match its subjects; it only rises.
* Live joining needs ``position == head``: there is no queue of live events per catching-up client, so a client that
  is behind costs no memory (G12); the ring and the log are the queue.
"""

from __future__ import annotations

from dataclasses import dataclass

from aura.errors import InvalidRequest

#: The largest sequence a client may name. Above it is a malformed request, not a future one.
MAX_SEQ = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FromRing:
    """Write the ring's frames after ``after``."""

    after: int


@dataclass(frozen=True, slots=True)
class FromLog:
    """Read ``from_seq … to_seq`` of the log and write what matches."""

    from_seq: int
    to_seq: int


@dataclass(frozen=True, slots=True)
class GoLive:
    """Nothing is missing: join the hub before anything else happens."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Tell the client that its cursor cannot be honoured and that it goes on after ``seq``."""

    reason: str
    seq: int


Step = FromRing | FromLog | GoLive | Reset


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a client wants to start: after ``since``, or ``last`` events before the head, else at the head.

    ``epoch`` is the log it thinks it follows, if it says so.
    """

    since: int | None = None
    last: int | None = None
    epoch: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("since", self.since), ("last", self.last)):
            if value is not None and not 0 <= value <= MAX_SEQ:
                raise InvalidRequest(f"{name} must be an integer from 0 to 2^63 - 1", field=name)
        if self.since is not None and self.last is not None:
            raise InvalidRequest("give since or last, not both", field="since")


@dataclass(frozen=True, slots=True)
class LogView:
    """What the hub knows of the log now. ``first`` is the log's own first sequence, ``ring_first`` the ring's."""

    epoch: str
    first: int
    ring_first: int
    head: int


def start(cursor: Cursor, view: LogView) -> tuple[int, Reset | None]:
    """After which sequence a client begins, and the reset it gets first when its cursor cannot be honoured."""
    if cursor.epoch is not None and cursor.epoch != view.epoch:
        return view.head, Reset("the log has another epoch", view.head)
    if cursor.since is not None:
        if cursor.since > view.head:
            return view.head, Reset("the cursor is ahead of the log", view.head)
        if cursor.since + 1 < view.first:
            return view.head, Reset("the log no longer reaches back that far", view.head)
        return cursor.since, None
    if cursor.last is not None:
        return max(view.head - cursor.last, view.first - 1, 0), None
    return view.head, None


def step(position: int, view: LogView, page_events: int, stop: int | None = None) -> FromRing | FromLog | GoLive:
    """How a client at ``position`` goes on. ``stop`` bounds a read of the log (not of the ring)."""
    if position == view.head:
        return GoLive()
    if position + 1 >= view.ring_first:
        return FromRing(position)
    page_end = (position // page_events + 1) * page_events
    to_seq = page_end if page_end <= view.head else view.ring_first - 1
    return FromLog(position + 1, to_seq if stop is None else min(to_seq, stop))


class Feed:
    """See the module docstring. ``page_events`` bounds one step."""

    def __init__(self, cursor: Cursor, view: LogView, *, page_events: int = 1_000) -> None:
        self._page_events = page_events
        self.position, self._reset = start(cursor, view)

    def next(self, view: LogView) -> Step:
        """What to do now. After :class:`GoLive` the feed is not asked again."""
        if self._reset is not None:
            reset, self._reset = self._reset, None
            return reset
        return step(self.position, view, self._page_events)

    def reached(self, seq: int) -> None:
        """Everything up to ``seq`` was written or does not match."""
        if seq < self.position:
            raise ValueError(f"the feed went back from {self.position} to {seq}")
        self.position = seq
