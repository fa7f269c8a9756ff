"""The projection ``timeline``: every event of the log with the state its entity had after it (as-of is one statement)."""

from __future__ import annotations

from typing import Any

import orjson

from aura.projections.decoding import LogEvent
from aura.projections.projection import BLOCK_BITS, Projection, Table, Write

#: From so many rows on a batch is copied; below, a ``COPY`` costs more round trips than it saves.
COPY_FROM = 1_000
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class TimelineFold:
    """One batch of events of any kind."""

    def __init__(self, some_seq: int) -> None:
        self._block = some_seq >> BLOCK_BITS
        self._events: list[LogEvent] = []

    def add(self, event: LogEvent) -> None:
        self._events.append(event)

    def writes(self) -> list[Write]:
        if not self._events:
            return []
        if len(self._events) < COPY_FROM:
            return [
                Write(
                    "projections/timeline/write_events", [_row(event) for event in self._events], {"block": self._block}
                )
            ]
        earliest = min(event.stored_ns for event in self._events)
        return [
            Write("projections/timeline/copy_events", [], copy="".join([_line(event) for event in self._events])),
            Write("projections/timeline/write_blocks", [{"block": self._block, "min_stored_ns": earliest}]),
        ]


def _row(event: LogEvent) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "kind": event.kind,
        "entity": event.entity,
        "project_id": event.project,
        "type": event.type,
        "stored_ns": event.stored_ns,
        "ts": event.ts,
        "actor": event.actor,
        "state": event.state,
    }


def _line(event: LogEvent) -> str:
    project = "\\N" if event.project is None else event.project
    state = "\\N" if event.state is None else orjson.dumps(event.state).decode().replace("\\", "\\\\")
    actor, ts = event.actor.translate(_ESCAPES), event.ts.translate(_ESCAPES)
    return f"{event.seq}\t{event.kind}\t{event.entity}\t{project}\t{event.type}\t{event.stored_ns}\t{ts}\t{actor}\t{state}\n"


TIMELINE = Projection(
    name="timeline",
    tables=(Table("timeline", ("seq",)), Table("timeline_blocks", ("block",))),
    fold=TimelineFold,
)
