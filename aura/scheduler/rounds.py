"""One round of planning: fire what is due, take back and cancel what must be, report models, fill free slots."""

from __future__ import annotations

import heapq
from datetime import datetime
from typing import TYPE_CHECKING

from aura.domain import job_commands as c
from aura.domain import policy
from aura.domain.job_state import JobStatus
from aura.domain.retry import backoff_s
from aura.events.catalogue import AssignReason
from aura.scheduler import agenda as a
from aura.scheduler.ready import Lane
from aura.scheduler.rows import Decision, JobDecision, JobRow, ModelDecision

if TYPE_CHECKING:
    from aura.scheduler.planner import Planner

#: While a decision on the job is under way, its other deadlines are looked at again after this long.
_BUSY_S = 0.1
REOFFER_POLICY = "reoffer"


def plan(planner: Planner, wall: datetime, now: float, limit: int) -> list[Decision]:
    """See :meth:`aura.scheduler.planner.Planner.plan`."""
    planner.agenda.wall_s = wall.timestamp()
    out: list[Decision] = []
    _fire(planner, now, limit, out)
    _see_to_due(planner, limit, out)
    _report(planner, limit, out)
    _assign(planner, limit, out)
    return out


def _decide(row: JobRow, command: c.JobCommand, out: list[Decision]) -> JobDecision:
    row.pending = decision = JobDecision(row.head(), command)
    out.append(decision)
    return decision


# ---------------------------------------------------------------- deadlines


def _fire(planner: Planner, now: float, limit: int, out: list[Decision]) -> None:
    agenda = planner.agenda
    while len(out) < limit and (job_id := agenda.calendar.pop(agenda.wall_s)) is not None:
        _again(planner, job_id, now)
    while len(out) < limit and (key := agenda.timers.pop(now)) is not None:
        match key:
            case (a.WORKER, model, worker_id):
                pool = agenda.pool(model)
                if pool.lose(worker_id):
                    agenda.pool_changed(pool)
            case (a.GRACE, model):
                pool = agenda.pool(model)
                pool.grace = False
                pool.recount()
                agenda.pool_changed(pool)
            case (a.REPORT, model):
                agenda.reports[model] = None
            case (a.AGAIN, job_id):
                row = planner.rows.get(job_id)
                if row is not None and row.pending is not None:
                    out.append(row.pending)  # of unknown outcome: the same once more
                else:
                    _again(planner, job_id, now)
            case (kind, job_id):
                row = planner.rows.get(job_id)
                if row is None:
                    continue
                if row.pending is not None:
                    agenda.timers.arm(key, now + _BUSY_S)
                else:
                    _overdue(planner, row, kind, now, out)


def _again(planner: Planner, job_id: str, now: float) -> None:
    row = planner.rows.get(job_id)
    if row is not None and row.pending is None:
        planner.agenda.displace(row, keeps_key=a.holds_key(row.state.status))
        planner.agenda.place(row, now)


def _overdue(planner: Planner, row: JobRow, kind: str, now: float, out: list[Decision]) -> None:
    state = row.state
    running = state.status is JobStatus.IN_PROGRESS
    if kind == a.LEASE and running:
        retry_in = backoff_s(row.job_id, state.spent + 1)
        _decide(row, c.ExpireLease(state.attempt, planner.retention_s, retry_in), out)
    elif kind == a.TIMEOUT and running:
        command = c.FailJob(
            error_code="timeout",
            retryable=True,
            retention_s=planner.retention_s,
            retry_in_s=backoff_s(row.job_id, state.spent + 1),
            attempt=state.attempt,
        )
        _decide(row, command, out)
    elif kind == a.QUEUE and not running:
        _end_wait(planner, row, "queue_timeout", out)
    elif kind == a.OFFER and state.status is JobStatus.ASSIGNED and row.pool is not None:
        pool = row.pool
        if policy.closed(pool) or pool.free <= 0:
            planner.agenda.timers.arm((a.OFFER, row.job_id), now + policy.REOFFER_S)
            return
        if state.count >= a.EVENT_LIMIT:
            _end_wait(planner, row, "event_limit", out)
            return
        name = policy.MANUAL if row.manual else REOFFER_POLICY
        reason = AssignReason(policy=name, score=policy.score(pool))
        _decide(row, c.AssignJob(pool.name, reason, term=planner.term or 0, reoffer=True), out)


def _end_wait(planner: Planner, row: JobRow, error_code: str, out: list[Decision]) -> None:
    """Fail a job that waits; it leaves its lane at once, but stays counted where it is assigned."""
    if row.state.status is JobStatus.QUEUED:
        planner.agenda.displace(row)
    _decide(row, c.FailWaitingJob(error_code, planner.retention_s), out)


# ---------------------------------------------------------------- what must be ended or taken back


def _see_to_due(planner: Planner, limit: int, out: list[Decision]) -> None:
    agenda = planner.agenda
    while agenda.due and len(out) < limit:
        job_id = next(iter(agenda.due))
        del agenda.due[job_id]
        row = planner.rows.get(job_id)
        if row is None or row.pending is not None:
            continue
        command = _remedy(planner, row)
        if command is not None:
            _decide(row, command, out)


def _remedy(planner: Planner, row: JobRow) -> c.JobCommand | None:
    if row.state.status is JobStatus.QUEUED:
        if row.failed_deps:
            return c.CancelJob(f"scheduler:{planner.term}", planner.retention_s, "dependency_failed")
        if row.state.count >= a.EVENT_LIMIT:
            return c.FailWaitingJob("event_limit", planner.retention_s)
        return None
    if row.state.status is not JobStatus.ASSIGNED or row.manual or row.pool is None:
        return None
    if policy.closed(row.pool):
        shut = policy.obstacle(row.pool)
        return c.UnassignJob(shut.value if shut is not None else policy.Obstacle.OFFLINE.value)
    if planner.agenda.misplaced(row):
        return c.UnassignJob("role_declared_elsewhere")
    if row.key is not None and planner.agenda.keys.first_holder(row.key) != row.job_id:
        return c.UnassignJob("concurrency_key_busy")
    return None


def _report(planner: Planner, limit: int, out: list[Decision]) -> None:
    agenda = planner.agenda
    while agenda.reports and len(out) < limit:
        name = next(iter(agenda.reports))
        del agenda.reports[name]
        pool = agenda.pool(name)
        command = pool.report()
        if command is not None and pool.pending_report is None:
            pool.pending_report = decision = ModelDecision(name, command)
            out.append(decision)


# ---------------------------------------------------------------- filling free slots


def _assign(planner: Planner, limit: int, out: list[Decision]) -> None:
    """Give free slots to the best waiting jobs. Lanes that share a pool compete by the priority and place of their best job."""
    agenda = planner.agenda
    heads: list[tuple[int, int, int, Lane]] = []
    for lane in agenda.dirty:
        _offer(lane, heads)
    agenda.dirty.clear()
    heapq.heapify(heads)
    while heads:
        if len(out) >= limit:
            agenda.dirty.update((lane, None) for *_, lane in heads)
            return
        lane = heapq.heappop(heads)[3]
        chosen = policy.choose(lane.pools)
        if chosen is None:
            continue  # full: a change of one of its pools makes it dirty again
        row = lane.pop()
        if row is None:
            continue
        if agenda.keys.busy(row.key):
            agenda.keys.park(row, lane)
        else:
            pool, reason = chosen
            agenda.reserve(row, pool)
            _decide(row, c.AssignJob(pool.name, reason, term=planner.term or 0), out)
        _offer(lane, heads)


def _offer(lane: Lane, heads: list[tuple[int, int, int, Lane]]) -> None:
    best = lane.peek()
    if best is not None:
        heapq.heappush(heads, (best.state.priority, best.order, lane.number, lane))
