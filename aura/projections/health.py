"""The projection ``health``: heartbeats of the last 24 hours, from the stream ``AURA_HEALTH`` with a checkpoint of its own.

Its stream forgets, so a gap is not a fault here, and rebuild and verify cover what the stream still holds.
"""

from __future__ import annotations

from typing import Any

from aura.projections.decoding import LogEvent
from aura.projections.projection import Projection, Table, Write


class HealthFold:
    """One batch of heartbeats."""

    def __init__(self, some_seq: int) -> None:
        del some_seq  # nothing here is kept per block
        self._rows: list[dict[str, Any]] = []
        self._newest: dict[str, dict[str, Any]] = {}

    def add(self, event: LogEvent) -> None:
        flat = event.flat
        model, worker = event.entity.split("/")
        payload = flat["payload"]
        interval, slots = flat.get("interval_s"), flat.get("slots")
        row = {
            "seq": event.seq,
            "model": model,
            "worker": worker,
            "reported_at": flat["ts"],
            "stored_ns": event.stored_ns,
            "status": str(payload.get("status") or "ok")[:200],
            # A worker that drains offers none; one that does not say (curl) offers one.
            "slots": 1 if slots is None else int(slots),
            "interval_s": float(interval) if interval else None,
            "payload": payload,
            "in_flight": flat.get("in_flight") or [],
        }
        self._rows.append(row)
        self._newest[event.entity] = row

    def writes(self) -> list[Write]:
        if not self._rows:
            return []
        return [
            Write("projections/health/write_heartbeats", self._rows),
            Write("projections/health/write_workers", list(self._newest.values())),
        ]


HEALTH = Projection(
    name="health",
    tables=(Table("heartbeats", ("seq",)), Table("workers", ("model", "worker"))),
    fold=HealthFold,
)
