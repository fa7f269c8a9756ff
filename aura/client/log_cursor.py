"""Where a follower of the log is, and what to do with each frame of ``aura.v1``. Pure: no I/O, no clock.

::

    open ──welcome──▶ ask(): a subscription from the cursor ──frame──▶ Event, once and in order
      ▲                  │                                    │
      └── it broke off ──┴────────────────────────────────────┘

Invariants (``tests/properties/test_client_cursor.py``)

* ``seq`` is the newest sequence that was handed out, or that the server said does not concern us; it only rises within an epoch.
* "From now" is fixed by the first welcome, so what is committed while a first connection breaks is not missed.
* Another epoch, or a cursor that the server cannot honour, is one :class:`Reset` and a new start at the sequence it names; never silence.
"""

from __future__ import annotations

from typing import Any

from aura.client.items import Event, Note, Reset
from aura.errors import Unavailable
from aura.problems import described_by


class LogCursor:
    """One subscription's place. Start after ``since`` (of the log ``epoch``, if known), with the ``last`` n events, or now."""

    def __init__(self, *, since: int | None = None, last: int | None = None, epoch: str | None = None) -> None:
        self.seq = since
        self.epoch = epoch
        self._last = last

    def welcome(self, epoch: str, seq: int) -> Reset | None:
        """A connection began on a log that ends at ``seq``."""
        known, self.epoch = self.epoch, epoch
        if known is not None and known != epoch:
            self.seq, self._last = seq, None
            return Reset(epoch, "the log has another epoch", seq)
        if self.seq is None and self._last is None:
            self.seq = seq
        return None

    def ask(self) -> dict[str, Any]:
        """The ``from`` of the subscription."""
        if self.seq is not None:
            return {"seq": self.seq + 1}
        return {"last": self._last}

    def take(self, frame: dict[str, Any]) -> Event | Note | Reset | None:
        """What a frame means. Raises what an ``error`` frame says, or ``Unavailable`` when the server speaks otherwise."""
        op = frame.get("op")
        if op is None:
            return self._event(frame)
        if op == "reset":
            self.epoch = str(frame.get("epoch", self.epoch))
            self.seq, self._last = int(frame.get("seq") or 0), None
            return Reset(self.epoch, str(frame.get("reason", "")), self.seq)
        if op == "live":
            self._reached(int(frame["seq"]))
        elif op == "error":
            raise described_by(422, frame)
        return None

    def _event(self, frame: dict[str, Any]) -> Event | Note | None:
        seq, event = frame.get("seq"), frame.get("event")
        if not isinstance(event, dict) or not isinstance(seq, int | None):
            raise Unavailable("the gateway sent something that is no aura.v1 frame")
        if seq is None:
            return Note(str(event.get("type", "")), str(frame.get("subject", "")), event)
        if self.seq is not None and seq <= self.seq:
            return None
        self._reached(seq)
        return Event(seq, str(event.get("type", "")), str(frame.get("subject", "")), {"seq": seq} | event)

    def _reached(self, seq: int) -> None:
        self.seq, self._last = max(self.seq or 0, seq), None
