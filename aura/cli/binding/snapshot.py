"""The scheduler's ``Snapshot`` port on ``projections.queries``: one Postgres transaction, nothing else."""

from __future__ import annotations

from typing import Any

from aura.domain import policy
from aura.domain.job_state import JobStatus
from aura.errors import LogRegression, Unavailable
from aura.log.store import EventStore
from aura.projections.queries import Queries
from aura.scheduler.recall import open_job
from aura.scheduler.rows import KnownModel, OpenJob, SnapshotData
from aura.scheduler.snapshot import FoldedSnapshot


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
            if data is None or identity.supersedes(data.epoch):
                raise Unavailable("the read models have not begun on this log")
            raise LogRegression("the read models are those of another log")
        return data

    async def _from_read_models(self) -> SnapshotData | None:
        async with self._queries.snapshot() as snapshot:
            if not snapshot.epoch:
                return None
            models = [_model(row) for row in snapshot.models]
            jobs = [_open(row) async for step in snapshot.jobs() for row in step]
        jobs.sort(key=lambda job: job.created_seq)
        place = snapshot.place
        return SnapshotData(place.epoch, place.seq, place.stored_ns, jobs, models, place.sha256)


def _model(row: dict[str, Any]) -> KnownModel:
    return KnownModel(row["model"], row["state"] or {}, row["succeeded"], row["failed"], row["latency_s"])


def _open(row: dict[str, Any]) -> OpenJob:
    unmet = row["unmet_deps"] or {}
    failed = tuple(
        job_id
        for job_id, status in unmet.items()
        if status is not None and policy.dependency(JobStatus(status)) is policy.Dependency.FAILED
    )
    return open_job(
        row["project_id"],
        row["id"],
        seq=row["seq"],
        state=row["state"],
        created_seq=row["created_seq"],
        facts=row,
        since_ns=row["since_ns"] or 0,
        unmet_deps=tuple(unmet),
        failed_deps=failed,
        assigned_by=row["assigned_by"],
    )
