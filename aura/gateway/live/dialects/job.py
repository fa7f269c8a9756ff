"""One job's feed as clients see it: how a merged feed of events and records becomes bytes, and where a client resumes. Pure.

``Telling`` is what a vocabulary over a job's feed decides; :class:`PlainJob` is ``/ws/job`` and ``/sse/job`` (everything, as it is),
:class:`JobRecords` is a subscription of ``aura.v1`` to ``aura.output.<project>.<job>.>`` (records only), and ``orchestrator.py`` the third.
"""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from aura.clock import parse_rfc3339
from aura.errors import InvalidRequest
from aura.gateway.live.dialects import native
from aura.gateway.live.fanout.frames import Frame, native_messages, sse_event
from aura.gateway.live.fanout.outlet import Wire
from aura.gateway.live.taps import OutputFrame

Shown = Frame | OutputFrame


class Position(NamedTuple):
    """Where a client resumes that got everything so far: the newest event, the newest message of output, ``i`` in that message."""

    seq: int = 0
    cursor: int = 0
    after: int = -1

    def past(self, frame: Shown) -> Position:
        """With one more."""
        if isinstance(frame, OutputFrame):
            return Position(self.seq, frame.cursor, frame.i)
        return Position(frame.seq, self.cursor, self.after)

    @property
    def query(self) -> str:
        """The query string to connect with again: the reason of 4408."""
        return f"since={self.seq}&from={self.cursor}&after={self.after}"

    @property
    def event_id(self) -> bytes:
        """``id:`` of a server-sent event."""
        return b"%d.%d.%d" % (self.seq, self.cursor, self.after)


START = Position()


def parse_event_id(sent: str, parts: int) -> list[int] | None:
    """``Last-Event-ID`` as ``parts`` numbers, or as one: a sequence. ``None`` when there is none. Raises ``InvalidRequest``."""
    sent = sent.strip()
    if not sent:
        return None
    found = sent.split(".")
    try:
        numbers = [int(part) if len(part) < 20 else -2 for part in found]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, parts) or any(number < -1 for number in numbers):
        raise InvalidRequest("Last-Event-ID is not one of ours", field="Last-Event-ID")
    return numbers


class Telling(Protocol):
    """A vocabulary over one job's merged feed."""

    by_time: ClassVar[bool]
    """Whether history is told in the order of its store times, records between events, instead of each attempt's records together."""

    @property
    def over(self) -> bool:
        """Nothing more will be told: the shell says goodbye."""

    def tell(self, frame: Shown, flat: Mapping[str, Any] | None, position: Position) -> bytes:
        """The bytes of the next item, not joined yet; ``b""`` for nothing. ``flat`` is an event's decoded body."""

    def skip(self, flat: Mapping[str, Any]) -> None:
        """An event that the client has already."""

    def caught_up(self) -> Sequence[bytes]:
        """What is said where history ends, as far as it was known when the client came."""

    def join(self, parts: Sequence[bytes]) -> bytes:
        """Several items as one write."""


class PlainJob:
    """Events and records as flat JSON."""

    by_time: ClassVar[bool] = False
    over = False

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def tell(self, frame: Shown, flat: Mapping[str, Any] | None, position: Position) -> bytes:
        del flat
        note = frame.note if isinstance(frame, OutputFrame) else frame
        return note.ws if self._wire == "ws" else sse_event(note.text, position.event_id)

    def skip(self, flat: Mapping[str, Any]) -> None:
        """Nothing to remember."""

    def caught_up(self) -> Sequence[bytes]:
        return ()

    def join(self, parts: Sequence[bytes]) -> bytes:
        return b"".join(parts)


class JobRecords:
    """Records as objects of ``aura.v1``: those after message ``after``, or of them what was said after ``since_time``.

    :class:`LastRecords` begins with the newest n, which are only known once history has been read.
    """

    by_time: ClassVar[bool] = False
    over = False

    def __init__(self, id: str, *, after: int = 0, since_time: str | None = None) -> None:
        self._id = id
        self._cursor = after
        self._since = parse_rfc3339(since_time) if since_time is not None else None
        self._live = False

    def tell(self, frame: Shown, flat: Mapping[str, Any] | None, position: Position) -> bytes:
        del flat
        if not isinstance(frame, OutputFrame):
            return b""
        self._cursor = position.cursor
        return self._history(frame) if not self._live else frame.note.native(frame.subject)

    def _history(self, frame: OutputFrame) -> bytes:
        return b"" if self._is_older(frame) else frame.note.native(frame.subject)

    def _is_older(self, frame: OutputFrame) -> bool:
        if self._since is None:
            return False
        try:
            return parse_rfc3339(frame.ts) <= self._since
        except (ValueError, OverflowError):
            return False

    def skip(self, flat: Mapping[str, Any]) -> None:
        """Events are another subscription's."""

    def caught_up(self) -> Sequence[bytes]:
        self._live = True
        return [native.marker("live", self._id, self._cursor)]

    def join(self, parts: Sequence[bytes]) -> bytes:
        return native_messages(parts)


class LastRecords(JobRecords):
    """The newest ``last`` records, and then what comes. What is kept until history has been read is bounded: at most ``records`` and
    ``bytes``; when that is less than was asked for, ``subscribed`` says so and a ``reset`` follows. Both come once it is known."""

    def __init__(self, id: str, last: int, *, epoch: str, records: int, bytes: int) -> None:
        super().__init__(id)
        self._last = last
        self._epoch = epoch
        self._records, self._bytes = min(last, records), bytes
        self._kept: deque[tuple[int, builtins.bytes]] = deque()
        self._kept_bytes = 0
        self._seen = 0

    def _history(self, frame: OutputFrame) -> builtins.bytes:
        message = frame.note.native(frame.subject)
        self._seen += 1
        self._kept.append((frame.cursor, message))
        self._kept_bytes += len(message)
        while len(self._kept) > self._records or (self._kept_bytes > self._bytes and len(self._kept) > 1):
            self._kept_bytes -= len(self._kept.popleft()[1])
        return b""

    def caught_up(self) -> Sequence[builtins.bytes]:
        kept, self._kept = self._kept, deque()
        after = kept[0][0] - 1 if kept else self._cursor
        recovered = len(kept) == min(self._last, self._seen)
        told = [native.subscribed(self._id, after, recovered)]
        if not recovered:
            told.append(native.reset(self._id, self._epoch, "that much output is not kept at once", after))
        return [*told, *(message for _, message in kept), *super().caught_up()]
