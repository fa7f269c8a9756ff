"""The projection ``archives``: closed jobs, from their terminal event until they are retried; purged ones as tombstones.

The row is made from the terminal event (``archived_at`` is its time); holds, releases and purges change it; ``retried`` and a
``rejected`` that queues the job again withdraw it.
"""

from __future__ import annotations

from typing import Any

from aura.domain.job_state import JobStatus
from aura.projections.decoding import LogEvent
from aura.projections.projection import Projection, Table, Write

_CLOSED = frozenset(status.value for status in JobStatus if status.closed)


class ArchivesFold:
    """One batch of job events."""

    def __init__(self, some_seq: int) -> None:
        del some_seq  # nothing here is kept per block
        self._withdrawn: dict[str, None] = {}
        self._archived: dict[str, dict[str, Any]] = {}

    def add(self, event: LogEvent) -> None:
        state = event.state
        assert state is not None
        if state["status"] in _CLOSED:
            self._keep(event, state)
        elif event.type in ("job.retried", "job.rejected"):
            self._withdrawn[event.entity] = None
            self._archived.pop(event.entity, None)

    def _keep(self, event: LogEvent, state: dict[str, Any]) -> None:
        patch = {
            "id": event.entity,
            "project_id": event.project,
            "final_status": state["status"],
            "retention_until": state.get("retention_until"),
            "role": state["role"],
            "model": state.get("model"),
            "attempt": state.get("attempt", 0),
            "held": state.get("held", False),
            "purge": state.get("purge", "none"),
            "seq": event.seq,
        }
        if event.type == "archive.purge_requested":
            patch["purge_requested_at"] = event.ts
            patch["purge_reason"] = event.flat.get("reason") or None
        elif event.type == "archive.purged":
            flat = event.flat
            patch["purged_at"], patch["purged_by"] = event.ts, flat["by"]
            patch["purged_bytes"], patch["purged_stores"] = flat["bytes"], flat["stores"]
        row = self._archived.setdefault(event.entity, {"closed_seq": event.seq, "archived_at": event.ts})
        row.update(patch)

    def writes(self) -> list[Write]:
        found = []
        if self._withdrawn:
            found.append(Write("projections/archives/write_withdrawn", [{"id": job_id} for job_id in self._withdrawn]))
        if self._archived:
            found.append(Write("projections/archives/write_archived", list(self._archived.values())))
        return found


ARCHIVES = Projection(
    name="archives", tables=(Table("archives", ("id",)),), fold=ArchivesFold, kinds=frozenset({"job"})
)
