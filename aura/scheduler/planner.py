"""The planner: the state of every open job, folded from a snapshot and the log, and what the leader should do next. Pure.

No I/O, no clock of its own, no randomness: the same events, heartbeats and times give the same decisions. Cost is proportional to
what changed, never to what is queued.

Protocol with its owner (``service.py``, the simulation):

1. ``load`` a snapshot, then ``apply`` every event after it, in order. An event at or before ``seq`` is ignored.
2. Jobs in ``missing`` came back from a closed state (retried, rejected) or carry a state of another version: their facts are
   read from the log and handed to ``adopt`` before the next plan.
3. ``lead`` once the own ``system.leader_elected`` has been applied, so that everything the leaders before did is known.
4. ``plan`` gives commands on exact heads. Each is appended at its head's sequence or not at all, and its fate is told to
   ``settle``. Until an event of the job arrives (or it is refused) the job is ``pending`` and is not decided upon anew.

Invariants: a job has at most one decision under way; capacity, key and queue counts are those of the applied prefix plus the
pending decisions; whatever was refused is looked at again (``AGAIN``), so nothing is ever stuck on a lost decision (G7).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aura.clock import rfc3339
from aura.domain import job_state, policy
from aura.domain import model as model_domain
from aura.domain.job_state import JobState, JobStatus
from aura.domain.roles import RoleModels
from aura.log.store import Recorded
from aura.scheduler import rounds
from aura.scheduler.agenda import AGAIN, LEASE, REPORT, WORKER, Agenda, holds_key
from aura.scheduler.pools import Pool, heartbeat_of
from aura.scheduler.rows import Decision, Fate, JobDecision, JobRow, KnownModel, OpenJob, SnapshotData

_MOST_POISONED = 1_000
#: States that many jobs share.
_ALIKE: dict[tuple[tuple[str, Any], ...], JobState] = {}
_MOST_ALIKE = 4_096
#: How an attempt ends in a way that says something of its model.
_ENDINGS = frozenset({"completed", "submitted", "failed", "lease_expired"})


class Planner:
    """See the module. ``retention_s`` goes into the events that close a job."""

    def __init__(self, roles: RoleModels, retention_s: float) -> None:
        self.rows: dict[str, JobRow] = {}
        self.agenda = Agenda(roles)
        self.retention_s = retention_s
        self.seq = 0
        #: Job id → (project, sequence of its last event) of open jobs whose facts must be read before the next plan.
        self.missing: dict[str, tuple[int, int]] = {}
        #: Sequences of events that could not be read; their jobs are left alone (the projector raises the alarm, G17).
        self.poisoned: list[int] = []
        self._dependents: dict[str, dict[str, None]] = {}

    @property
    def term(self) -> int | None:
        """The term in which this planner decides, ``None`` while it only follows."""
        return self.agenda.term

    # ------------------------------------------------------------ what is known

    def load(self, data: SnapshotData, now: float) -> None:
        """Start from a snapshot."""
        self.seq = data.seq
        self.agenda.log_ns = data.stored_at_ns
        for known in data.models:
            self._load_model(known, now)
        for job in data.jobs:
            self.missing[job.job_id] = (job.project, job.seq)
            self.adopt(job, now)

    def _load_model(self, known: KnownModel, now: float) -> None:
        pool = self.agenda.pool(known.name)
        pool.succeeded, pool.failed, pool.latency_s = known.succeeded, known.failed, known.latency_s
        state = model_domain.from_json(known.state)
        if state is not None:
            pool.state = state
            self.agenda.declare(pool, (), state.roles, (), now)

    def adopt(self, job: OpenJob, now: float) -> None:
        """Take the facts of a job that was ``missing``; ignored when it has moved on since they were read."""
        if self.missing.get(job.job_id) != (job.project, job.seq):
            return
        state = _state_of(job.state, job.seq)
        if state is None:
            return
        del self.missing[job.job_id]
        trace = job_state.trace_of(job.state.get("trace"))
        row = JobRow(job.project, job.job_id, job.seq, state, job.created_seq, job.since_ns, trace)
        row.timeout_s, row.queue_timeout_s = job.timeout_s, job.queue_timeout_s
        row.key = None if job.concurrency_key is None else (job.project, job.concurrency_key)
        row.manual = job.assigned_by == policy.MANUAL
        if state.deps and state.status is JobStatus.QUEUED:
            row.waiting_ns = max(job.since_ns, self.agenda.log_ns)
            self._wait_for(row, job.unmet_deps)
            row.failed_deps = set(job.failed_deps) or None
        self.rows[row.job_id] = row
        if state.status is JobStatus.IN_PROGRESS:
            self.agenda.start_attempt(row, now)
        self.agenda.place(row, now)
        self._reopened(row.job_id, now)

    def _wait_for(self, row: JobRow, unmet: tuple[str, ...]) -> None:
        if unmet:
            row.unmet = set(unmet)
            for dependency in unmet:
                self._dependents.setdefault(dependency, {})[row.job_id] = None

    # ------------------------------------------------------------ events

    def apply(self, recorded: Recorded, now: float) -> None:
        """Take the next event of the log. ``now`` is monotonic seconds."""
        if recorded.seq <= self.seq:
            return
        self.seq = recorded.seq
        self.agenda.log_ns = max(self.agenda.log_ns, recorded.stored_at_ns)
        kind = recorded.subject[5:9]
        try:
            if kind == "job.":
                self._apply_job(recorded, now)
            elif kind == "mode":
                self._apply_model(recorded, now)
        except (ValueError, KeyError, TypeError, AttributeError):
            self._poison(recorded)

    def _poison(self, recorded: Recorded) -> None:
        if len(self.poisoned) < _MOST_POISONED:
            self.poisoned.append(recorded.seq)
        tokens = recorded.subject.split(".")
        if recorded.subject.startswith("aura.job.") and len(tokens) > 3:
            self.missing.pop(tokens[3], None)
            if (row := self.rows.get(tokens[3])) is not None:
                self._drop(row)

    def _apply_job(self, recorded: Recorded, now: float) -> None:
        _, _, project, job_id, event = recorded.subject.split(".", 4)
        row = self.rows.get(job_id)
        if row is None and event.startswith(("archive.", "late_result_rejected")):
            return
        flat = recorded.decode()
        carried = flat.get("state") or {}
        if carried.get("v") == job_state.STATE_VERSION:
            status = JobStatus(carried["status"])
            if status.closed:
                self.missing.pop(job_id, None)
                if row is not None:
                    self._close(row, recorded, event)
                self._ended(job_id, status, now)
                return
            if row is not None or event == "created":
                state = _state_of(carried, recorded.seq)
                if state is None:
                    raise ValueError("a state without a version")
                if row is not None:
                    self._move(row, recorded, state, event, flat, now)
                else:
                    self._created(int(project), job_id, recorded, state, flat, now)
                return
        if row is not None:
            self._drop(row)
        self.missing[job_id] = (int(project), recorded.seq)

    def _created(
        self, project: int, job_id: str, recorded: Recorded, state: JobState, flat: Mapping[str, Any], now: float
    ) -> None:
        trace = flat.get("trace_id")
        row = JobRow(project, job_id, recorded.seq, state, recorded.seq, recorded.stored_at_ns, trace)
        row.timeout_s = flat.get("timeout_s")
        row.queue_timeout_s = flat.get("queue_timeout_s")
        key = flat.get("concurrency_key")
        row.key = None if key is None else (project, key)
        self._wait_for(row, tuple(flat.get("depends_on") or ()))
        self.rows[job_id] = row
        self.agenda.place(row, now)

    def _move(
        self, row: JobRow, recorded: Recorded, state: JobState, event: str, flat: Mapping[str, Any], now: float
    ) -> None:
        before, after = row.state.status, state.status
        pool = row.pool
        self.agenda.displace(row, keeps_key=holds_key(after))
        row.seq, row.state = recorded.seq, state
        _count(pool, before, row, recorded, event)
        if after is not before or event.startswith("assigned"):
            row.since_ns = recorded.stored_at_ns
        if event.startswith("assigned"):
            row.offers = row.offers + 1 if before is after else 0
            row.manual = (flat.get("reason") or {}).get("policy") == policy.MANUAL
        elif event == "claimed":
            row.queue_until = 0.0
            self.agenda.start_attempt(row, now)
        elif event == "stage_changed":  # a sign of life from who holds the lease
            row.lease_until = max(row.lease_until, now + (state.lease_ttl_s or 0.0))
        if before is JobStatus.IN_PROGRESS and after is JobStatus.QUEUED:
            row.waiting_ns, row.queue_until = recorded.stored_at_ns, 0.0
        if holds_key(after) and row.unmet is not None:  # assigned by hand, or claimed: dependencies are no longer asked
            self._stop_waiting(row)
        self.agenda.place(row, now)

    def _close(self, row: JobRow, recorded: Recorded, event: str) -> None:
        _count(row.pool, row.state.status, row, recorded, event)
        self._drop(row)

    def _drop(self, row: JobRow) -> None:
        del self.rows[row.job_id]
        self.agenda.forget(row)
        self._stop_waiting(row)

    def _stop_waiting(self, row: JobRow) -> None:
        for dependency in row.unmet or ():
            dependents = self._dependents.get(dependency)
            if dependents is not None:
                dependents.pop(row.job_id, None)
                if not dependents:
                    del self._dependents[dependency]
        row.unmet = row.failed_deps = None

    def _ended(self, job_id: str, status: JobStatus, now: float) -> None:
        """A job left the open states: whoever depends on it may start, or must be cancelled."""
        verdict = policy.dependency(status)
        if job_id not in self._dependents or verdict is policy.Dependency.WAITING:
            return
        met = verdict is policy.Dependency.MET
        dependents = self._dependents.pop(job_id) if met else self._dependents[job_id]
        for dependent_id in dependents:
            row = self.rows[dependent_id]
            if met and row.unmet is not None:
                row.unmet.discard(job_id)
                if not row.unmet:
                    row.unmet, row.waiting_ns = None, self.agenda.log_ns
            else:
                row.failed_deps = (row.failed_deps or set()) | {job_id}
            self._replace(row, now)

    def _reopened(self, job_id: str, now: float) -> None:
        """A failed job is open again: its dependents may wait on."""
        for dependent_id in self._dependents.get(job_id, ()):
            row = self.rows[dependent_id]
            if row.failed_deps is not None and job_id in row.failed_deps:
                row.failed_deps = row.failed_deps - {job_id} or None
                self._replace(row, now)

    def _replace(self, row: JobRow, now: float) -> None:
        if row.pending is None:
            self.agenda.displace(row)
            self.agenda.place(row, now)

    def _apply_model(self, recorded: Recorded, now: float) -> None:
        pool = self.agenda.pool(recorded.subject.split(".")[2])
        state = model_domain.from_json(recorded.decode().get("state") or {})
        if state is None:
            return
        before, pool.state, pool.pending_report = pool.state, state, None
        pool.recount()
        self.agenda.declare(pool, before.roles if before is not None else (), state.roles, self.rows.values(), now)
        self.agenda.pool_changed(pool)

    # ------------------------------------------------------------ signs of life

    def apply_heartbeat(self, report: Mapping[str, Any], wall: datetime, now: float, *, age_s: float = 0.0) -> bool:
        """Take a worker's ``model.heartbeat``; renews the leases it names. ``age_s`` is how old it is. ``True`` when a pool
        changed, so that a plan may find something. Raises ``ValueError`` for rubbish."""
        model, worker_id, slots, interval_s, status, in_flight = heartbeat_of(report)
        pool = self.agenda.pool(model)
        until = now + policy.heartbeat_counts_s(interval_s) - age_s
        if until <= now:
            return False
        pool.last_seen = rfc3339(wall)
        for lease in in_flight:
            self.renew(str(lease.get("job_id")), lease.get("attempt"), worker_id, now)
        if self.term is None and worker_id not in pool.workers:  # a follower has no timers: it forgets the dead here
            for gone in [name for name, worker in pool.workers.items() if worker.until <= now]:
                pool.lose(gone)
        changed = pool.hear(worker_id, slots, status, until)
        if self.term is not None:
            if worker_id in pool.workers:
                self.agenda.timers.arm((WORKER, model, worker_id), until)
            else:
                self.agenda.timers.disarm((WORKER, model, worker_id))
        if changed:
            self.agenda.pool_changed(pool)
        return changed

    def renew(self, job_id: str, attempt: object, worker_id: str, now: float) -> bool:
        """A lease lives. ``False`` when worker and attempt are not those of the lease."""
        row = self.rows.get(job_id)
        if row is None or row.state.status is not JobStatus.IN_PROGRESS:
            return False
        if row.state.attempt != attempt or row.state.worker != worker_id:
            return False
        row.lease_until = now + (row.state.lease_ttl_s or 0.0)
        if self.term is not None and row.pending is None:
            self.agenda.timers.arm((LEASE, job_id), row.lease_until)
        return True

    # ------------------------------------------------------------ leading

    def lead(self, term: int, wall: datetime, now: float) -> None:
        """From here on :meth:`plan` decides. Every lease gets one full TTL from ``now``."""
        self.agenda.lead(term, self.rows.values(), now, wall)

    def step_down(self, wall: datetime, now: float) -> None:
        """From here on only follow; what is under way settles through the log."""
        self.agenda.lead(None, self.rows.values(), now, wall)

    def plan(self, wall: datetime, now: float, limit: int = 1_000) -> list[Decision]:
        """At most ``limit`` decisions, each on another entity; empty while not leading."""
        if self.term is None or limit <= 0:
            return []
        return rounds.plan(self, wall, now, limit)

    def settle(self, decision: Decision, fate: Fate, now: float, *, again_s: float = 0.25) -> None:
        """Tell the fate of a decision; one that no event will settle is looked at again in ``again_s`` seconds.

        An assignment of unknown outcome keeps its slot and its concurrency key, and is sent again as it was (the head's sequence lets
        at most one of them in): giving them to another job meanwhile could run two under one key.
        """
        if fate in (Fate.COMMITTED, Fate.MOVED_ON):
            return
        if isinstance(decision, JobDecision):
            row = self.rows.get(decision.head.job_id)
            if row is not None and row.pending is decision:
                if fate is Fate.REFUSED or row.pool is None or row.state.status is not JobStatus.QUEUED:
                    self._release(row)
                if self.term is not None:
                    self.agenda.timers.arm((AGAIN, row.job_id), now + again_s)
            return
        pool: Pool | None = self.agenda.pools.get(decision.model)
        if pool is not None and pool.pending_report is decision:
            pool.pending_report = None
            if self.term is not None:
                self.agenda.timers.arm((REPORT, pool.name), now + again_s)

    def _release(self, row: JobRow) -> None:
        """The job is free to be decided upon again."""
        if row.state.status is JobStatus.QUEUED:
            self.agenda.displace(row)
        row.pending = None

    def next_deadline_s(self, wall: datetime, now: float) -> float | None:
        """Seconds until :meth:`plan` may have something to say without any event; 0 when it has now."""
        agenda = self.agenda
        if agenda.term is None:
            return None
        if agenda.due or agenda.reports or agenda.dirty:
            return 0.0
        at, on = agenda.timers.next(), agenda.calendar.next()
        waits = [] if at is None else [at - now]
        if on is not None:
            waits.append(on - wall.timestamp())
        return max(0.0, min(waits)) if waits else None


def _state_of(carried: Mapping[str, Any], seq: int) -> JobState | None:
    """The state an event carries; ``None`` for another version. Jobs that just wait share theirs: most of a long queue is alike."""
    if carried.get("n") != 1 or "not_before" in carried or "keys" in carried:
        state = job_state.from_json(carried)
        return None if state is None else job_state.placed(state, seq)
    alike = tuple(item for item in carried.items() if item[0] != "trace")  # the row keeps that
    state = _ALIKE.get(alike)
    if state is None:
        state = job_state.from_json(dict(alike))
        if state is not None:
            if len(_ALIKE) >= _MOST_ALIKE:
                _ALIKE.clear()
            _ALIKE[alike] = state
    return state


def _count(pool: Pool | None, before: JobStatus, row: JobRow, recorded: Recorded, event: str) -> None:
    """Count how an attempt ended."""
    if pool is not None and before is JobStatus.IN_PROGRESS and event in _ENDINGS:
        pool.ended(event == "completed", max(0.0, (recorded.stored_at_ns - row.since_ns) / 1e9))
