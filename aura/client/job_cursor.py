"""Where a watcher of one job is: three numbers for the server, the log they belong to, and what has been seen. Pure: no I/O, no clock.

The job's events have sequences of the log; its output has a ``cursor`` (a stored message) and ``i`` (a record, counted per attempt). A
server resumes with ``?since=<seq>&from=<cursor>&after=<i>&epoch=<epoch>``; what it repeats all the same is dropped here.

A job that was closed and retried has closing events in its past. Whoever watches from the start must not stop at those: ``until`` is the
newest event that left the job open when the watch began, and a closing event counts only after it.

Invariants (``tests/properties/test_client_cursor.py``)

* Numbers of one log are never held against another's: a handshake or a ``reset`` that names another epoch clears them all, and ``until``
  with them (it is ``None`` until somebody asked that log for the job's history).
* A reset, of whatever reason, is told from the start again: it is one :class:`Reset`, and then every item of the story anew.
"""

from __future__ import annotations

from typing import Any

from aura.client.items import Event, Record, Reset, record_of


class JobCursor:
    """See the module docstring. ``until`` is ``None`` where the job's history has still to be asked for."""

    def __init__(self, until: int | None = 0) -> None:
        self.until = until
        self.epoch: str | None = None
        self._seq = 0
        self._cursor, self._after = 0, -1
        self._next_i: dict[int, int] = {}
        self.closed = False
        """The item taken last closed the job."""

    def query(self) -> dict[str, int | str]:
        """The query string to go on with; empty at the start, which is the same in every log."""
        asked = {"since": self._seq, "from": self._cursor, "after": self._after}
        found: dict[str, int | str] = {
            name: value for name, value in asked.items() if value > 0 or (name == "after" and self._cursor)
        }
        return {**found, "epoch": self.epoch} if found and self.epoch is not None else found

    def welcome(self, epoch: str | None) -> Reset | None:
        """A connection began on the log ``epoch`` (``None``: it did not say)."""
        if epoch is None or epoch == self.epoch:
            return None
        known, told = self.epoch, self._told
        self.epoch = epoch
        if known is None:
            return None
        self._begin_again()
        return Reset(epoch, "the log has another epoch", 0) if told else None

    def take(self, flat: dict[str, Any]) -> Event | Record | Reset | None:
        """The next message as an item; ``None`` for one that was seen or is not understood."""
        if flat.get("type") == "reset":
            return self._reset(flat)
        if isinstance(flat.get("i"), int) and isinstance(flat.get("attempt"), int):
            return self._record(flat)
        seq = flat.get("seq")
        if not isinstance(seq, int) or seq <= self._seq:
            return None
        self._seq = seq
        event = Event(seq, str(flat.get("type", "")), "", flat)
        self.closed = event.closes is not None and self.until is not None and seq > self.until
        return event

    @property
    def _told(self) -> bool:
        return bool(self._seq or self._next_i)

    def _reset(self, flat: dict[str, Any]) -> Reset | None:
        epoch = str(flat.get("epoch") or self.epoch or "")
        if epoch == self.epoch and not self._told:
            return None  # the handshake said so, and it was handed out
        self.epoch = epoch or None
        self._begin_again()
        return Reset(epoch, str(flat.get("reason", "")), 0)

    def _begin_again(self) -> None:
        self.until, self.closed = None, False
        self._seq = 0
        self._cursor, self._after = 0, -1
        self._next_i.clear()

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
