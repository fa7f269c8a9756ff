"""Where a scheduler starts from: all open jobs and all models at one sequence of the log.

:class:`Snapshot` is the port. The composition root binds it to ``projections.queries`` (one Postgres transaction);
:class:`FoldedSnapshot` folds the log itself from the carried states and needs no database, only time proportional to the log.
"""

from __future__ import annotations

from typing import Any, Protocol

import structlog

from aura.domain import policy
from aura.domain.job_state import JobStatus
from aura.events import subjects
from aura.log.store import EventStore, Recorded
from aura.scheduler.recall import open_job, recall
from aura.scheduler.rows import KnownModel, OpenJob, SnapshotData

log = structlog.get_logger("aura.scheduler")

_FACTS = ("concurrency_key", "timeout_s", "queue_timeout_s", "depends_on")
_QUIET = frozenset({"job.stage_changed", "job.reprioritized", "job.late_result_rejected"})


class Snapshot(Protocol):
    """Open jobs, models and per-model counters at one checkpoint."""

    async def load(self) -> SnapshotData:
        """Raises ``Unavailable`` (the caller waits and asks again), ``LogRegression``."""


class _Open:
    """An open job while the log is being folded."""

    __slots__ = ("assigned_by", "created_seq", "facts", "project", "seq", "since_ns", "state")

    def __init__(self, project: int, created_seq: int, facts: dict[str, Any]) -> None:
        self.project = project
        self.created_seq = created_seq
        self.facts = facts
        self.seq = 0
        self.since_ns = 0
        self.state: dict[str, Any] = {}
        self.assigned_by: str | None = None


class FoldedSnapshot:
    """Implements :class:`Snapshot` by reading the log once from its first event."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def load(self) -> SnapshotData:
        identity = await self._store.identity()
        self._open: dict[str, _Open] = {}
        self._closed: dict[str, JobStatus] = {}
        self._reopened: dict[str, tuple[int, int]] = {}
        self._models: dict[str, dict[str, Any]] = {}
        stored_at_ns = 0
        async for batch in self._store.read(to_seq=identity.last_seq):
            for recorded in batch:
                stored_at_ns = max(stored_at_ns, recorded.stored_at_ns)
                self._take(recorded)
        jobs = [self._row(job_id, found) for job_id, found in self._open.items()]
        for job_id, (project, seq) in self._reopened.items():
            jobs.append(await recall(self._store, project, job_id, seq))
        jobs.sort(key=lambda job: job.created_seq)
        models = [KnownModel(name, state) for name, state in self._models.items()]
        return SnapshotData(identity.epoch, identity.last_seq, stored_at_ns, jobs, models)

    def _take(self, recorded: Recorded) -> None:
        """An event that cannot be read takes its job out and nothing else (G17)."""
        where = subjects.parse(recorded.subject)
        try:
            if where.kind == "model":
                self._models[where.entity] = recorded.decode().get("state") or {}
            elif where.kind == "job" and where.project is not None:
                self._take_job(recorded, where, where.project)
        except (ValueError, KeyError, TypeError, AttributeError):
            log.error("snapshot.poison", seq=recorded.seq, subject=recorded.subject)
            self._open.pop(where.entity, None)
            self._reopened.pop(where.entity, None)

    def _take_job(self, recorded: Recorded, where: subjects.Subject, project: int) -> None:
        job_id = where.entity
        flat = recorded.decode()
        state = flat["state"]
        status = JobStatus(state["status"])
        if status.closed:
            self._open.pop(job_id, None)
            self._reopened.pop(job_id, None)
            self._closed[job_id] = status
            return
        found = self._open.get(job_id)
        if found is None:
            if where.type != "job.created":
                self._closed.pop(job_id, None)
                self._reopened[job_id] = (project, recorded.seq)
                return
            facts = {name: flat[name] for name in _FACTS if flat.get(name)}
            self._open[job_id] = found = _Open(project, recorded.seq, facts)
        found.seq, found.state = recorded.seq, state
        if where.type not in _QUIET:
            found.since_ns = recorded.stored_at_ns
        if where.type == "job.assigned":
            found.assigned_by = (flat.get("reason") or {}).get("policy")

    def _row(self, job_id: str, found: _Open) -> OpenJob:
        unmet: list[str] = []
        failed: list[str] = []
        for wanted in found.facts.get("depends_on") or ():
            verdict = policy.dependency(self._closed.get(wanted, JobStatus.QUEUED))
            if verdict is not policy.Dependency.MET:
                unmet.append(wanted)
            if verdict is policy.Dependency.FAILED:
                failed.append(wanted)
        return open_job(
            found.project,
            job_id,
            seq=found.seq,
            state=found.state,
            created_seq=found.created_seq,
            facts=found.facts,
            since_ns=found.since_ns,
            unmet_deps=tuple(unmet),
            failed_deps=tuple(failed),
            assigned_by=found.assigned_by,
        )
