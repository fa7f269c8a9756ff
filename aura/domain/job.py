"""The job decider: what may happen to a job, and what it then is. Pure.

States and arrows (event names on the arrows)::

    (none) ─created→ QUEUED ─assigned→ ASSIGNED ─claimed→ IN_PROGRESS ─completed→ COMPLETED
                       │ ↑ ↑              │                  │ ├─submitted→ SUBMITTED ─accepted→ COMPLETED
                       │ │ └─unassigned───┘                  │ │              └─rejected→ QUEUED | FAILED
                       │ └──── failed | lease_expired | released ┘ (QUEUED while attempts remain, else FAILED)
                       └─claimed→ IN_PROGRESS (directly, by a worker that knows the id)
    QUEUED | ASSIGNED | IN_PROGRESS ─cancelled→ CANCELLED
    FAILED | CANCELLED | SUBMITTED  ─retried→ QUEUED

Closed jobs (COMPLETED, SUBMITTED, FAILED, CANCELLED) are in the archive until ``retention_until``: held, released, purged.

Invariants: an attempt's number only rises and is the fencing token (G6); only the current attempt of an IN_PROGRESS job can
report (G8), a later report is recorded at most once per attempt and refused; ``spent`` never exceeds ``max_attempts`` (G7); a held
job and one that waits for a verdict cannot be purged, and a job whose purge was requested can leave its state no more (G15); a job
has at most :data:`MAX_EVENTS` events (G12), of which the last tenth is kept for ending it.

``decide`` refuses by raising :class:`~aura.errors.Conflict` or :class:`~aura.errors.Fenced`; ``[]`` means "already so".
``evolve`` is total: it never refuses history.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

from msgspec.structs import replace

from aura.clock import parse_rfc3339, rfc3339
from aura.domain import job_commands as c
from aura.domain.job_state import JobState, JobStatus, Purge, short_holder
from aura.errors import Conflict, Fenced, Forbidden, InvalidRequest
from aura.events import catalogue as e

#: Most events of one job. Commands that could repeat for ever are refused a little earlier than those that end the job.
MAX_EVENTS = 10_000
_REPEATABLE_EVENTS = MAX_EVENTS * 9 // 10
#: How many attempts' late results the state remembers one by one; below the lowest of them all count as recorded.
_KEPT_LATE = 8
_ENDING = (c.CompleteJob, c.FailJob, c.FailWaitingJob, c.CancelJob, c.ExpireLease, c.RequestPurge, c.RecordPurge)


def decide(state: JobState | None, command: c.JobCommand, *, now: datetime) -> list[e.JobEvent]:
    """The events that ``command`` leads to in ``state``. Raises ``Conflict`` (with the status), ``Fenced``, ``Forbidden``."""
    if isinstance(command, c.CreateJob):
        if state is not None:
            raise Conflict("the job exists", status=state.status)
        return [command.created]
    if state is None:
        raise Conflict("the job does not exist")
    limit = MAX_EVENTS if isinstance(command, _ENDING) else _REPEATABLE_EVENTS
    if state.count >= limit:
        raise Conflict(f"the job has {state.count} events; the limit is {MAX_EVENTS}", status=state.status)
    return _decide(state, command, now)


def _decide(state: JobState, command: c.JobCommand, now: datetime) -> list[e.JobEvent]:
    match command:
        case c.CreateJob():
            raise AssertionError("handled by decide")
        case c.AssignJob():
            return _assign(state, command, now)
        case c.UnassignJob(reason):
            return [e.JobUnassigned(reason=reason)] if state.status is JobStatus.ASSIGNED else []
        case c.ClaimJob():
            return _claim(state, command, now)
        case c.ChangeStage() | c.CompleteJob() | c.FailJob() | c.ReleaseJob():
            return _report(state, command, now)
        case c.FailWaitingJob(error_code, retention_s):
            if state.status not in (JobStatus.QUEUED, JobStatus.ASSIGNED):
                return []
            until = _after(now, retention_s)
            return [e.JobFailed(attempt=state.attempt, error_code=error_code, retryable=False, retention_until=until)]
        case c.ExpireLease():
            return _expire(state, command, now)
        case c.CancelJob(by, retention_s, reason):
            if state.status is JobStatus.CANCELLED:
                return []
            if state.status.closed:
                raise _not_in(state, "cancelled")
            return [e.JobCancelled(by=by, reason=reason, retention_until=_after(now, retention_s))]
        case c.RetryJob(by, reason):
            _refuse_purging(state)
            if state.status not in (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.SUBMITTED):
                raise _not_in(state, "retried")
            return [e.JobRetried(by=by, reason=reason)]
        case c.AcceptJob() | c.RejectJob():
            return _verdict(state, command, now)
        case c.ReprioritizeJob(by, priority):
            if state.status.closed:
                raise _not_in(state, "reprioritized")
            return [] if state.priority == priority else [e.JobReprioritized(by=by, priority=priority)]
        case c.HoldArchive() | c.ReleaseHold() | c.RequestPurge() | c.RecordPurge():
            return _archive(state, command, now)
        case _:
            assert_never(command)


def _assign(state: JobState, command: c.AssignJob, now: datetime) -> list[e.JobEvent]:
    assigned = e.JobAssigned(assigned_model=command.model, term=command.term, reason=command.reason)
    if state.status is JobStatus.QUEUED:
        if not command.override and state.not_before is not None and parse_rfc3339(state.not_before) > now:
            raise Conflict(f"the job is not due before {state.not_before}", status=state.status)
        return [assigned]
    if state.status is JobStatus.ASSIGNED:
        if state.model == command.model and not command.reoffer:
            return []
        if command.override or (command.reoffer and state.model == command.model):
            return [assigned]
    raise _not_in(state, "assigned")


def _claim(state: JobState, command: c.ClaimJob, now: datetime) -> list[e.JobEvent]:
    if state.status not in (JobStatus.QUEUED, JobStatus.ASSIGNED):
        raise _not_in(state, "claimed")
    if state.status is JobStatus.QUEUED:
        if command.offered:
            raise Conflict("the assignment was taken back", status=state.status)
        if state.not_before is not None and parse_rfc3339(state.not_before) > now:
            raise Conflict(f"the job is not due before {state.not_before}", status=state.status)
        if not command.dependencies_met:
            raise Conflict("the job waits for jobs it depends on", status=state.status)
    elif command.offered and command.pool is not None and state.model != command.pool:
        raise Conflict("the job was given to another pool", status=state.status)
    return [
        e.JobClaimed(
            worker_id=command.worker_id,
            attempt=state.attempt + 1,
            lease_ttl_s=command.lease_ttl_s,
            assigned_model=state.model or command.fallback_model,
            holder=command.holder,
        )
    ]


def _report(
    state: JobState, command: c.ChangeStage | c.CompleteJob | c.FailJob | c.ReleaseJob, now: datetime
) -> list[e.JobEvent]:
    """Anything only the holder of the current attempt may say."""
    attempt = state.attempt if command.attempt is None else command.attempt
    if attempt > state.attempt or attempt < 0:
        raise Fenced("no such attempt", status=state.status, attempt=attempt, current=state.attempt)
    if state.status is not JobStatus.IN_PROGRESS or attempt != state.attempt:
        return _late(state, command, attempt)
    match command:
        case c.ChangeStage(stage, status):
            return [e.JobStageChanged(attempt=attempt, stage=stage, status=status)]
        case c.CompleteJob(success, retention_s, _, result, output):
            until = _after(now, retention_s)
            if success:
                return [e.JobCompleted(attempt=attempt, result=result, output=output, retention_until=until)]
            return [e.JobSubmitted(attempt=attempt, result=result, output=output, retention_until=until)]
        case c.FailJob():
            again = command.retryable and state.spent + 1 < state.max_attempts
            return [
                e.JobFailed(
                    attempt=attempt,
                    error_code=command.error_code,
                    retryable=command.retryable,
                    next_run_at=_after(now, command.retry_in_s) if again else None,
                    retention_until=None if again else _after(now, command.retention_s),
                    error=command.error,
                    output=command.output,
                )
            ]
        case c.ReleaseJob(_, delay_s):
            due = _after(now, delay_s) if delay_s > 0 else None
            return [
                e.JobReleased(worker_id=state.worker or "unknown", attempt=attempt, delay_s=delay_s, next_run_at=due)
            ]
        case _:
            assert_never(command)


def _late(
    state: JobState, command: c.ChangeStage | c.CompleteJob | c.FailJob | c.ReleaseJob, attempt: int
) -> list[e.JobEvent]:
    """A report without a lease: one that the log holds already is "already so"; other results and failures are recorded at most once
    per attempt, and never out of the reserve for ending the job; everything else is only refused."""
    if isinstance(command, c.CompleteJob | c.FailJob):
        if command.repeated and attempt == state.attempt:
            return []
        room = state.count < _REPEATABLE_EVENTS
        if room and command.attempt is not None and attempt >= 1 and not _late_recorded(state, attempt):
            worker = state.worker or "unknown"
            return [e.JobLateResultRejected(worker_id=worker, attempt=attempt, current_attempt=state.attempt)]
    raise refused_late(state, attempt, named=command.attempt is not None)


def _late_recorded(state: JobState, attempt: int) -> bool:
    """Whether a late result of the attempt was, or may have been, recorded. The state keeps the highest :data:`_KEPT_LATE` attempts;
    once it is full, every lower attempt counts as recorded, so that there is never a second record of one attempt."""
    return attempt in state.late or (len(state.late) >= _KEPT_LATE and attempt < min(state.late))


def refused_late(state: JobState, attempt: int, *, named: bool = True) -> Conflict:
    """What a reporter without a lease is told. ``named``: it said which attempt it speaks for."""
    if named:
        return Fenced(
            f"attempt {attempt} does not hold the lease", status=state.status, attempt=attempt, current=state.attempt
        )
    return _not_in(state, "reported on")


def _expire(state: JobState, command: c.ExpireLease, now: datetime) -> list[e.JobEvent]:
    if state.status is not JobStatus.IN_PROGRESS or state.attempt != command.attempt:
        return []
    again = state.spent + 1 < state.max_attempts
    return [
        e.JobLeaseExpired(
            worker_id=state.worker or "unknown",
            attempt=command.attempt,
            next_run_at=_after(now, command.retry_in_s) if again else None,
            retention_until=None if again else _after(now, command.retention_s),
        )
    ]


def _verdict(state: JobState, command: c.AcceptJob | c.RejectJob, now: datetime) -> list[e.JobEvent]:
    _refuse_purging(state)
    if isinstance(command, c.AcceptJob):
        if state.status is JobStatus.COMPLETED:
            return []
        if state.status is not JobStatus.SUBMITTED:
            raise _not_in(state, "accepted")
        return [e.JobAccepted(by=command.by, reason=command.reason)]
    if state.status is not JobStatus.SUBMITTED:
        raise _not_in(state, "rejected")
    again = state.spent + 1 < state.max_attempts
    until = None if again else _after(now, command.retention_s)
    return [e.JobRejected(by=command.by, reason=command.reason, retention_until=until)]


def _archive(
    state: JobState, command: c.HoldArchive | c.ReleaseHold | c.RequestPurge | c.RecordPurge, now: datetime
) -> list[e.JobEvent]:
    if not state.status.closed:
        raise _not_in(state, "archived")
    match command:
        case c.HoldArchive(by, reason):
            _refuse_purging(state)
            return [] if state.held else [e.ArchiveHeld(by=by, reason=reason)]
        case c.ReleaseHold(by):
            return [e.ArchiveHoldReleased(by=by)] if state.held else []
        case c.RequestPurge(by, scope_digest, reason):
            if state.purge is not Purge.NONE:
                return []
            if state.status is JobStatus.SUBMITTED:
                raise Conflict("the job waits for a verdict, and others may wait for it", status=state.status)
            if state.held:
                raise Conflict("the archive is held", status=state.status)
            if state.retention_until is None or parse_rfc3339(state.retention_until) > now:
                raise Forbidden(f"retention ends at {state.retention_until}")
            return [e.ArchivePurgeRequested(by=by, reason=reason, scope_digest=scope_digest)]
        case c.RecordPurge(by, size, stores, reason):
            if state.purge is Purge.PURGED:
                return []
            if state.purge is not Purge.REQUESTED:
                raise Conflict("no purge was requested", status=state.status)
            return [e.ArchivePurged(by=by, reason=reason, bytes=size, stores=list(stores))]
        case _:
            assert_never(command)


def _refuse_purging(state: JobState) -> None:
    if state.purge is not Purge.NONE:
        raise Conflict("the job's content is purged or about to be", status=state.status)


def _not_in(state: JobState, participle: str) -> Conflict:
    return Conflict(f"a job that is {state.status} cannot be {participle}", status=state.status)


def _after(now: datetime, seconds: float) -> str:
    try:
        return rfc3339(now + timedelta(seconds=seconds))
    except OverflowError as error:
        raise InvalidRequest("the time is too far away") from error


def evolve(state: JobState | None, event: e.JobEvent) -> JobState:
    """The state after ``event``. Total; a history that does not begin with ``job.created`` folds from an empty QUEUED job."""
    if isinstance(event, e.JobCreated):
        return JobState(
            status=JobStatus.QUEUED,
            role=event.role,
            max_attempts=event.max_attempts,
            priority=event.priority,
            not_before=event.run_at,
            deps=len(event.depends_on),
            trace=event.trace_id,
        )
    state = state if state is not None else JobState(status=JobStatus.QUEUED, role="", count=0)
    return _evolve(replace(state, count=state.count + 1), event)


def _evolve(state: JobState, event: e.JobEvent) -> JobState:
    match event:
        case e.JobCreated():
            return state
        case e.JobAssigned(assigned_model=model):
            return replace(state, status=JobStatus.ASSIGNED, model=model, not_before=None, deps=0)
        case e.JobUnassigned():
            return replace(state, status=JobStatus.QUEUED, model=None)
        case e.JobClaimed():
            return replace(
                state,
                status=JobStatus.IN_PROGRESS,
                attempt=event.attempt,
                worker=event.worker_id,
                holder=short_holder(event.holder),
                lease_ttl_s=event.lease_ttl_s,
                model=event.assigned_model or state.model,
                not_before=None,
                deps=0,
            )
        case e.JobStageChanged():
            return state
        case e.JobCompleted():
            return _closed(state, JobStatus.COMPLETED, event.retention_until)
        case e.JobSubmitted():
            return _closed(state, JobStatus.SUBMITTED, event.retention_until)
        case e.JobAccepted():
            return replace(state, status=JobStatus.COMPLETED)
        case e.JobRejected():
            spent = replace(state, spent=state.spent + 1)
            if event.retention_until is not None:
                return _closed(spent, JobStatus.FAILED, event.retention_until)
            return _queued(spent, None)
        case e.JobFailed() | e.JobLeaseExpired():
            spent = replace(state, spent=state.spent + (state.status is JobStatus.IN_PROGRESS))
            if event.retention_until is not None:
                return _closed(spent, JobStatus.FAILED, event.retention_until)
            return _queued(spent, event.next_run_at)
        case e.JobReleased():
            return _queued(state, event.next_run_at)
        case e.JobRetried():
            return _queued(replace(state, spent=0), None)
        case e.JobReprioritized(priority=priority):
            return replace(state, priority=priority)
        case e.JobCancelled():
            return _closed(state, JobStatus.CANCELLED, event.retention_until)
        case e.JobLateResultRejected(attempt=attempt):
            late = (*state.late, attempt)
            return replace(state, late=late if len(late) <= _KEPT_LATE else tuple(a for a in late if a != min(late)))
        case e.ArchiveHeld():
            return replace(state, held=True)
        case e.ArchiveHoldReleased():
            return replace(state, held=False)
        case e.ArchivePurgeRequested():
            return replace(state, purge=Purge.REQUESTED)
        case e.ArchivePurged():
            return replace(state, purge=Purge.PURGED)
        case _:
            assert_never(event)


def _queued(state: JobState, not_before: str | None) -> JobState:
    return replace(
        state,
        status=JobStatus.QUEUED,
        model=None,
        worker=None,
        holder=None,
        lease_ttl_s=None,
        not_before=not_before,
        retention_until=None,
    )


def _closed(state: JobState, status: JobStatus, retention_until: str) -> JobState:
    return replace(state, status=status, retention_until=retention_until, lease_ttl_s=None, not_before=None)
