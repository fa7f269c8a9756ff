"""Where a watcher of one job is: three numbers for the server, and what has been seen. Pure: no I/O, no clock.

The job's events have sequences of the log; its output has a ``cursor`` (a stored message) and ``i`` (a record, counted per attempt). A
server resumes with ``?since=<seq>&from=<cursor>&after=<i>``; what it repeats all the same is dropped here.

A job that was closed and retried has closing events in its past. Whoever watches from the start must not stop at those: ``until`` is the
newest event that left the job open when the watch began, and a closing event counts only after it.
"""

from __future__ import annotations

from typing import Any

from aura.client.items import Event, Record, record_of


class JobCursor:
    """See the module docstring."""

    def __init__(self, until: int = 0) -> None:
        self._until = until
        self._seq = 0
        self._cursor, self._after = 0, -1
        self._next_i: dict[int, int] = {}
        self.closed = False
        """The item taken last closed the job."""

    def query(self) -> dict[str, int]:
        """The query string to go on with."""
        asked = {"since": self._seq, "from": self._cursor, "after": self._after}
        return {name: value for name, value in asked.items() if value > 0 or (name == "after" and self._cursor)}

    def take(self, flat: dict[str, Any]) -> Event | Record | None:
        """The next message as an item; ``None`` for one that was seen or is not understood."""
        if isinstance(flat.get("i"), int) and isinstance(flat.get("attempt"), int):
            return self._record(flat)
        seq = flat.get("seq")
        if not isinstance(seq, int) or seq <= self._seq:
            return None
        self._seq = seq
        event = Event(seq, str(flat.get("type", "")), "", flat)
        self.closed = event.closes is not None and seq > self._until
        return event

    def _record(self, flat: dict[str, Any]) -> Record | None:
        attempt, i = flat["attempt"], flat["i"]
        if i < self._next_i.get(attempt, 0):
            return None
        self._next_i[attempt] = i + 1
        if isinstance(cursor := flat.get("cursor"), int):
            self._cursor, self._after = cursor, i
        return record_of(flat)


def open_until(events: list[dict[str, Any]]) -> int:
    """The newest sequence among a job's ``events`` after which it was not closed."""
    found = [event["seq"] for event in events if Event(event["seq"], event.get("type", ""), "", event).closes is None]
    return max(found, default=0)
