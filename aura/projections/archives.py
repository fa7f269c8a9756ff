"""The projection ``archives``: closed jobs, from their terminal event until they are retried; purged ones as tombstones.

The row is made from the terminal event (``archived_at`` is its time); holds, releases and purges change it; ``retried`` and a
``rejected`` that queues the job again withdraw it. The row of a job that was created in the same batch is surely new: many of
those are copied.
"""

from __future__ import annotations

from typing import Any

import orjson

from aura.domain.job_state import JobStatus
from aura.projections import rows
from aura.projections.decoding import LogEvent, scalar
from aura.projections.projection import Projection, Table, Write

_CLOSED = frozenset(status.value for status in JobStatus if status.closed)
_NOT_PURGED = dict.fromkeys(
    ("purge_requested_at", "purged_at", "purged_by", "purge_reason", "purged_bytes", "purged_stores")
)


class ArchivesFold:
    """One batch of job events. ``_archived`` holds, per job, its first closing event, its last one, and what single events settle."""

    def __init__(self, some_seq: int) -> None:
        del some_seq  # nothing here is kept per block
        self._created: set[str] = set()
        self._withdrawn: dict[str, None] = {}
        self._archived: dict[str, tuple[LogEvent, LogEvent, dict[str, Any]]] = {}

    def add(self, event: LogEvent) -> None:
        job_id = event.entity
        if event.job.status in _CLOSED:
            known = self._archived.get(job_id)
            own = _own(event)
            if known is None:
                self._archived[job_id] = (event, event, own)
            else:
                self._archived[job_id] = (known[0], event, known[2] | own)
        elif event.type == "job.created":
            self._created.add(job_id)
        elif event.type in ("job.retried", "job.rejected"):
            self._withdrawn[job_id] = None
            self._archived.pop(job_id, None)

    def writes(self) -> list[Write]:
        found = []
        if self._withdrawn:
            found.append(Write("projections/archives/write_withdrawn", [{"id": job_id} for job_id in self._withdrawn]))
        fresh = [one for job_id, one in self._archived.items() if job_id in self._created]
        known = list(self._archived.values())
        if len(fresh) >= rows.COPY_FROM:
            known = [one for job_id, one in self._archived.items() if job_id not in self._created]
            lines = rows.lines([_row(*one) for one in fresh])
            found.append(Write("projections/archives/copy_archived", [], copy=lines))
        if known:
            records = [rows.record(_row(*one), "purged_stores") for one in known]
            found.append(Write("projections/archives/write_archived", records))
        return found


def _own(event: LogEvent) -> dict[str, Any]:
    """The columns that one type of event settles."""
    if event.type == "archive.purge_requested":
        return {"purge_requested_at": event.body.ts, "purge_reason": scalar(event.body.reason) or None}
    if event.type == "archive.purged":
        flat = event.flat
        own = {"purged_at": event.body.ts, "purged_by": scalar(flat["by"]), "purged_bytes": scalar(flat["bytes"])}
        return own | {"purged_stores": orjson.dumps(flat["stores"]).decode()}
    return {}


def _row(first: LogEvent, last: LogEvent, own: dict[str, Any]) -> rows.Row:
    carried = last.job
    return {
        "id": last.entity,
        "project_id": last.project,
        "closed_seq": first.seq,
        "final_status": carried.status,
        "archived_at": first.body.ts,
        "retention_until": carried.retention_until,
        "role": carried.role,
        "model": carried.model,
        "attempt": carried.attempt,
        "held": carried.held,
        "purge": carried.purge,
        **_NOT_PURGED,
        **own,
        "seq": last.seq,
    }


ARCHIVES = Projection(
    name="archives", tables=(Table("archives", ("id",)),), fold=ArchivesFold, kinds=frozenset({"job"})
)
