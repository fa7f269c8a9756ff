"""One job's events and output, merged in an order that a viewer can trust. Pure: no I/O, no clock.

Two streams meet here: the job's events (the log, always complete and in order) and its output records
(``AURA_OUTPUT``: read from storage, or pushed live, which may lose or repeat). Rules

* records of an attempt come in the order of ``i``, each once, and only after the attempt's ``job.claimed``;
* an event that ends an attempt and says ``output {count}`` comes only after the attempt's records 0 … count - 1, and
  holds back what follows it;
* what storage does not have any more (purged, or before the client's cursor) is not waited for: a read that began
  after the event was known and reached the end of storage lets it go.

::

    event ──▶ [held back by an unfinished attempt?] ──no──▶ out
    live message ──next i?──▶ out;  older ──▶ dropped;  newer or unclaimed ──▶ dropped, ``wants_read``
    begin_read ─ stored message … ─ end_read: everything missing has come, or is gone

The shell reads storage whenever :attr:`wants_read` is set; live messages are only a faster way to learn what storage
holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)


class Message(NamedTuple, Generic[F_co]):
    """One message of output: ``cursor`` is its sequence in ``AURA_OUTPUT``, ``first`` the ``i`` of its first record, ``frames`` what is
    written for each record."""

    cursor: int
    attempt: int
    first: int
    frames: Sequence[F_co]


@dataclass(slots=True)
class _Held(Generic[F]):
    frame: F
    attempt: int
    claims: bool
    count: int
    reads: int
    """How many reads had begun when the event came."""


@dataclass(slots=True)
class JobFeed(Generic[F]):
    """See the module docstring. Start with the client's cursor: ``from_cursor`` is the first message wanted, and of
    that message only records with ``i > after``. Every method returns what to write, in order."""

    from_cursor: int = 0
    after: int = -1
    wants_read: bool = True
    position: int = field(init=False)
    """The newest message of which anything was written; the next read begins with it."""
    _claimed: set[int] = field(default_factory=set)
    _read_to: int = 1
    """The newest attempt that reads have covered."""
    _next_i: dict[int, int] = field(default_factory=dict)
    _skipped_from: int | None = None
    """The oldest message that was left out because its attempt was not claimed yet."""
    _left_out: set[int] = field(default_factory=set)
    """Attempts of which this read has left something out: the rest of them comes with the next read, in order."""
    _queue: deque[_Held[F]] = field(default_factory=deque)
    _reads: int = 0
    _reading: bool = False

    def __post_init__(self) -> None:
        self.position = self.from_cursor

    def event(self, flat: Mapping[str, Any], frame: F) -> list[F]:
        """The job's next event; ``flat`` is its decoded body."""
        attempt = _whole(flat.get("attempt"))
        output = flat.get("output")
        count = _whole(output.get("count")) if isinstance(output, Mapping) else 0
        self._queue.append(_Held(frame, attempt, flat.get("type") == "job.claimed", count, self._reads))
        out = self._release()
        if self._queue:
            self.wants_read = True
        return out

    def live(self, message: Message[F]) -> Sequence[F]:
        """A pushed message. While a read is under way or due it only says that there is more to read."""
        if self._reading or self.wants_read:
            self.wants_read = True
            return ()
        if message.attempt not in self._claimed:
            self._skip(message)
            return ()
        expected = self._next_i.get(message.attempt, 0)
        if message.first > expected:
            self.wants_read = True
            return ()
        taken = self._take(message, expected)
        return [*taken, *self._release()] if self._queue else taken

    def missed(self) -> None:
        """Storage has something that was not pushed: there is more to read."""
        self.wants_read = True

    def begin_read(self) -> tuple[int, range]:
        """A read of storage begins: the cursor to read from (inclusive) and the attempts to read.

        One attempt more than is claimed: its claim may be on its way. What is there is left out and remembered.
        """
        self.wants_read = False
        self._reading = True
        self._reads += 1
        self._left_out.clear()
        self._read_to = max(self._claimed, default=0) + 1
        attempts = range(1, self._read_to + 1)
        if self._skipped_from is None:
            return self.position, attempts
        start, self._skipped_from = min(self.position, self._skipped_from), None
        return start, attempts

    def stored(self, message: Message[F]) -> list[F]:
        """The next message of the read. Storage is the truth: what it skips is gone."""
        if message.attempt not in self._claimed or message.attempt in self._left_out:
            self._left_out.add(message.attempt)
            self._skip(message)
            return []
        expected = self._next_i.get(message.attempt, message.first)
        if message.cursor == self.from_cursor:
            expected = max(expected, min(self.after + 1, message.first + len(message.frames)))
        return [*self._take(message, max(expected, message.first)), *self._release()]

    def end_read(self) -> list[F]:
        """Storage has nothing more: events that were known when the read began wait no longer."""
        self._reading = False
        out: list[F] = []
        while self._queue and self._was_read(self._queue[0]):
            out.append(self._emit())
            out += self._release()
        if self._queue:
            self.wants_read = True
        return out

    def _was_read(self, held: _Held[F]) -> bool:
        """The read that ends saw all there is of the attempt, and began after the event was known."""
        return held.reads < self._reads and held.attempt <= self._read_to and held.attempt not in self._left_out

    def _skip(self, message: Message[F]) -> None:
        older = self._skipped_from
        self._skipped_from = message.cursor if older is None else min(older, message.cursor)

    def _take(self, message: Message[F], expected: int) -> Sequence[F]:
        cursor, attempt, first, frames = message
        if cursor > self.position:
            self.position = cursor
        end = first + len(frames)
        if end <= expected:
            self._next_i[attempt] = expected
            return ()
        self._next_i[attempt] = end
        return frames if expected == first else frames[expected - first :]

    def _release(self) -> list[F]:
        out: list[F] = []
        while self._queue:
            held = self._queue[0]
            if held.attempt in self._claimed and self._next_i.get(held.attempt, 0) < held.count:
                break
            out.append(self._emit())
        return out

    def _emit(self) -> F:
        held = self._queue.popleft()
        if held.claims:
            self._claimed.add(held.attempt)
            if held.attempt > self._read_to:
                self._skipped_from = self.from_cursor
            if self._skipped_from is not None:
                self.wants_read = True
        return held.frame


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
