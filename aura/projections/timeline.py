"""The projection ``timeline``: every event of the log with the state its entity had after it (as-of is one statement)."""

from __future__ import annotations

from aura.projections import rows
from aura.projections.decoding import LogEvent
from aura.projections.projection import BLOCK_BITS, Projection, Table, Write


class TimelineFold:
    """One batch of events of any kind."""

    def __init__(self, some_seq: int) -> None:
        self._block = some_seq >> BLOCK_BITS
        self._events: list[LogEvent] = []
        self.add = self._events.append

    def writes(self) -> list[Write]:
        events = self._events
        if not events:
            return []
        if len(events) < rows.COPY_FROM:
            records = [rows.record(_row(one), "state") for one in events]
            return [Write("projections/timeline/write_events", records, {"block": self._block})]
        earliest = min([event.stored_ns for event in events])
        return [
            Write("projections/timeline/copy_events", [], copy=rows.lines([_row(one) for one in events])),
            Write("projections/timeline/write_blocks", [{"block": self._block, "min_stored_ns": earliest}]),
        ]


def _row(event: LogEvent) -> rows.Row:
    return {
        "seq": event.seq,
        "kind": event.kind,
        "entity": event.entity,
        "project_id": event.project,
        "type": event.type,
        "stored_ns": event.stored_ns,
        "ts": event.body.ts,
        "actor": event.body.actor,
        "state": event.state_json,
    }


TIMELINE = Projection(
    name="timeline",
    tables=(Table("timeline", ("seq",)), Table("timeline_blocks", ("block",))),
    fold=TimelineFold,
)
