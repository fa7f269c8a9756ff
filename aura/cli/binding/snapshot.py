"""The scheduler's ``Snapshot`` port on ``projections.queries``: one Postgres transaction, then what only the log knows."""

from __future__ import annotations

import asyncio
from typing import Any

from aura.clock import parse_rfc3339
from aura.domain import policy
from aura.domain.job_state import JobStatus
from aura.errors import LogRegression, Unavailable
from aura.events import subjects
from aura.log.store import EventStore
from aura.projections.queries import Queries
from aura.scheduler.recall import open_job
from aura.scheduler.rows import KnownModel, OpenJob, SnapshotData
from aura.scheduler.snapshot import FoldedSnapshot

_SINCE = {"QUEUED": "queued_at", "ASSIGNED": "assigned_at", "IN_PROGRESS": "claimed_at"}
#: Assigned jobs whose reason is read from the log at once.
_AT_ONCE = 64


class ReadModelSnapshot:
    """Implements :class:`aura.scheduler.snapshot.Snapshot`.

    Read models that have no checkpoint yet (the projector has not run on this log) are no reason to wait while the log is short: then
    the log itself is folded.
    """

    def __init__(self, queries: Queries, store: EventStore, *, fold_up_to: int = 10_000) -> None:
        self._queries = queries
        self._store = store
        self._fold_up_to = fold_up_to

    async def load(self) -> SnapshotData:
        """Raises ``Unavailable``, ``LogRegression``."""
        identity = await self._store.identity()
        try:
            data = await self._from_read_models()
        except Unavailable:
            if identity.last_seq > self._fold_up_to:
                raise
            data = None
        if data is None or data.epoch != identity.epoch:
            if identity.last_seq <= self._fold_up_to:
                return await FoldedSnapshot(self._store).load()
            if data is None or not data.epoch:
                raise Unavailable("the read models have not begun on this log")
            raise LogRegression("the read models are those of another log")
        return data

    async def _from_read_models(self) -> SnapshotData | None:
        async with self._queries.snapshot() as snapshot:
            if not snapshot.epoch:
                return None
            models = [KnownModel(row["model"], row["state"] or {}) for row in snapshot.models]
            rows = [row async for step in snapshot.jobs() for row in step]
        assigned = [row for row in rows if row["status"] == JobStatus.ASSIGNED]
        reasons: dict[str, str | None] = {}
        for start in range(0, len(assigned), _AT_ONCE):
            some = assigned[start : start + _AT_ONCE]
            found = await asyncio.gather(*(self._assigned_by(row) for row in some))
            reasons.update(zip((row["id"] for row in some), found, strict=True))
        last = await self._store.get(snapshot.seq)
        stored_at_ns = last.stored_at_ns if last is not None else 0
        jobs = [_open(row, reasons.get(row["id"])) for row in rows]
        jobs.sort(key=lambda job: job.created_seq)
        return SnapshotData(snapshot.epoch, snapshot.seq, stored_at_ns, jobs, models)

    async def _assigned_by(self, row: dict[str, Any]) -> str | None:
        """The policy that assigned a job; who chose by hand is not overruled."""
        subject = subjects.job_event(row["project_id"], row["id"], "job.assigned", model=row["assigned_model"])
        last = await self._store.last(subject)
        return (last.decode().get("reason") or {}).get("policy") if last is not None else None


def _open(row: dict[str, Any], assigned_by: str | None) -> OpenJob:
    unmet = row["unmet_deps"] or {}
    failed = tuple(
        job_id
        for job_id, status in unmet.items()
        if status is not None and policy.dependency(JobStatus(status)) is policy.Dependency.FAILED
    )
    since = row[_SINCE[row["status"]]]
    return open_job(
        row["project_id"],
        row["id"],
        seq=row["seq"],
        state=row["state"],
        created_seq=row["created_seq"],
        facts=row,
        since_ns=int(parse_rfc3339(since).timestamp() * 1e9) if since else 0,
        unmet_deps=tuple(unmet),
        failed_deps=failed,
        assigned_by=assigned_by,
    )
