"""Scheduling policy: which pool may take a job, which one should, and why a job is where it is. Pure.

``scheduler/planner.py`` decides with these predicates and :func:`explain` tells with the same ones, so that the explanation
cannot drift from the decision.

Rules (DECISIONS.md, Pools and Dependencies):

* A job may start when it is due, every job it depends on is COMPLETED, and nobody runs under its concurrency key.
* A role runs on the model that configuration maps it to, or on any model that declares the role. A model that configuration gives every
  role it does not name (``*``) is no candidate for a role that some model declares: who wrote a worker for a role did not mean that
  another one may take its jobs whenever it is full or away.
* A pool's capacity is the sum of the slots of its live workers. Unclaimed ASSIGNED jobs of a pool are at most
  ``max(1, free slots)``, so that priority still decides; a pool that was never seen holds at most :data:`NEVER_SEEN_LIMIT`.
* A pool that was seen and went offline, and a paused one, get nothing new.
* A pool that was never seen gets nothing while another candidate is served: a full pool is a wait, an imagined one is for ever.
* Among several open pools: one with a free slot before one without, healthy before degraded, then the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from aura.clock import parse_rfc3339
from aura.domain.job_state import JobStatus
from aura.domain.roles import RoleModels
from aura.events.catalogue import AssignReason

#: Most unclaimed jobs of a pool that nobody has ever served.
NEVER_SEEN_LIMIT = 100
#: Seconds after which an unclaimed job is offered again while its pool has free slots.
REOFFER_S = 30.0
#: How long a heartbeat without ``interval_s`` counts, and how many intervals one with it does.
HEARTBEAT_COUNTS_S = 300.0
MISSED_INTERVALS = 3
#: The name under which an operator's own choice of pool stands in ``job.assigned``.
MANUAL = "manual"

ROLE_POLICY = "role"
BEST_POLICY = "best"
_MOST_REJECTED = 8

P = TypeVar("P", bound="PoolView")


class Dependency(StrEnum):
    """What the status of a job means for those that depend on it."""

    MET = "met"
    WAITING = "waiting"
    FAILED = "failed"


class Obstacle(StrEnum):
    """Why a pool takes no further job now."""

    PAUSED = "model_paused"
    OFFLINE = "model_offline"
    FULL = "pool_full"
    UNSEEN_FULL = "pool_unseen_full"


class PoolView(Protocol):
    """What the policy must know of a pool. The planner's pools and the read model's rows both look like this."""

    @property
    def name(self) -> str:
        """The model."""

    @property
    def seen(self) -> bool:
        """Some worker of it was once heard of."""

    @property
    def degraded(self) -> bool:
        """Its heartbeats report trouble."""

    @property
    def paused(self) -> bool:
        """An operator stopped new assignments."""

    @property
    def slots(self) -> int:
        """Sum over live workers; 0 when there are none."""

    @property
    def busy(self) -> int:
        """Jobs in progress."""

    @property
    def unclaimed(self) -> int:
        """Jobs assigned, or being assigned, and not yet claimed."""

    @property
    def succeeded(self) -> int:
        """Attempts that ended well."""

    @property
    def failed(self) -> int:
        """Attempts that did not."""

    @property
    def latency_s(self) -> float:
        """Typical seconds from claim to result; 0 when unknown."""


def dependency(status: JobStatus) -> Dependency:
    """Met only by COMPLETED; FAILED and CANCELLED fail the dependents; SUBMITTED waits for its verdict."""
    if status is JobStatus.COMPLETED:
        return Dependency.MET
    if status in (JobStatus.FAILED, JobStatus.CANCELLED):
        return Dependency.FAILED
    return Dependency.WAITING


def due(not_before: str | None, now: datetime) -> bool:
    """Whether the job's earliest start has come."""
    return not_before is None or parse_rfc3339(not_before) <= now


def heartbeat_counts_s(interval_s: float | None) -> float:
    """How many seconds one heartbeat keeps its worker alive."""
    return HEARTBEAT_COUNTS_S if interval_s is None else MISSED_INTERVALS * interval_s


def room(pool: PoolView) -> int:
    """How many more jobs the pool may be given now."""
    if pool.paused:
        return 0
    if pool.slots > 0:
        return max(1, pool.slots - pool.busy) - pool.unclaimed
    return 0 if pool.seen else NEVER_SEEN_LIMIT - pool.unclaimed


def obstacle(pool: PoolView) -> Obstacle | None:
    """Why :func:`room` is none."""
    if pool.paused:
        return Obstacle.PAUSED
    if pool.slots == 0 and pool.seen:
        return Obstacle.OFFLINE
    if room(pool) > 0:
        return None
    return Obstacle.FULL if pool.slots > 0 else Obstacle.UNSEEN_FULL


def closed(pool: PoolView) -> bool:
    """Paused or offline: gets nothing new, and what it has not claimed goes back."""
    return pool.paused or (pool.slots == 0 and pool.seen)


def candidates(role: str, roles: RoleModels, declared: Sequence[str]) -> tuple[str, ...]:
    """The pools that may run a role: the one that configuration maps it to first, then those that declare it, by name. One that merely
    gets what is left is none of them once somebody declares the role."""
    if declared and not roles.names(role):
        return tuple(sorted(set(declared)))
    mapped = roles.model(role)
    return (mapped, *sorted(name for name in set(declared) if name != mapped))


def with_room(pools: Sequence[P]) -> list[P]:
    """The candidates that may be given a job now."""
    served = any(pool.slots > 0 and not pool.paused for pool in pools)
    return [pool for pool in pools if room(pool) > 0 and (pool.slots > 0 or not served)]


def score(pool: PoolView) -> float:
    """How good a choice the pool is, 0 to 1: smoothed success rate × speed, damped while degraded or never seen."""
    success = (pool.succeeded + 2) / (pool.succeeded + pool.failed + 2)
    speed = 60.0 / (60.0 + pool.latency_s)
    health = 0.25 if pool.slots == 0 else 0.5 if pool.degraded else 1.0
    return round(success * speed * health, 3)


def choose(pools: Sequence[P]) -> tuple[P, AssignReason] | None:
    """The pool that gets the next job, and the reason to record; ``None`` when all of them are shut or full."""
    open_pools = with_room(pools)
    if not open_pools:
        return None
    if len(pools) == 1:
        return pools[0], AssignReason(policy=ROLE_POLICY, score=score(pools[0]))
    best = max(open_pools, key=_preference)
    rejected = []
    for pool in pools:
        if pool is not best:
            shut = obstacle(pool)
            rejected.append(f"{pool.name}: {shut.value if shut is not None else f'score {score(pool)}'}")
    return best, AssignReason(policy=BEST_POLICY, score=score(best), rejected=tuple(rejected[:_MOST_REJECTED]))


def _preference(pool: PoolView) -> tuple[bool, int, float, int]:
    free = pool.slots - pool.busy - pool.unclaimed
    health = 0 if pool.slots == 0 else 1 if pool.degraded else 2
    return free > 0, health, score(pool), free


# ---------------------------------------------------------------- explain


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as the read models know it: a :class:`PoolView`, plus where its last change stands in the log."""

    name: str
    roles: tuple[str, ...] = ()
    seen: bool = False
    degraded: bool = False
    paused: bool = False
    slots: int = 0
    busy: int = 0
    unclaimed: int = 0
    succeeded: int = 0
    failed: int = 0
    latency_s: float = 0.0
    since: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class DependencyView:
    """A job that another one depends on, and its last event."""

    status: JobStatus
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as the read models know it. ``roles`` is configuration's word on who runs which role, ``key_holder`` the other job that runs
    under its concurrency key, ``since`` and ``seq`` the event that led to its status."""

    status: JobStatus
    role: str
    roles: RoleModels
    model: str | None = None
    not_before: str | None = None
    attempt: int = 0
    worker: str | None = None
    concurrency_key: str | None = None
    key_holder: str | None = None
    since: str | None = None
    seq: int | None = None


def explain(
    job: JobView, models: Mapping[str, ModelView], deps: Mapping[str, DependencyView], now: datetime
) -> list[dict[str, Any]]:
    """Why the job is where it is: ``[{"code", "text", …facts}]``, most important first, never empty.

    ``models`` are all known models by name, ``deps`` the jobs it depends on by id. ``seq`` names the event that a reason rests on.
    """
    match job.status:
        case JobStatus.QUEUED:
            return _queued(job, models, deps, now)
        case JobStatus.ASSIGNED:
            found = [
                _reason("waits_for_claim", f"assigned to {job.model}, waits for a worker to claim it", seq=job.seq)
            ]
            pool = models.get(job.model or "", ModelView(job.model or ""))
            if closed(pool) or not pool.seen:
                found.append(_pool_reason(pool))
            elif pool.busy >= pool.slots:
                found.append(_reason("pool_full", _full(pool), model=pool.name))
            return found
        case JobStatus.IN_PROGRESS:
            text = f"attempt {job.attempt} is running on worker {job.worker}"
            return [_reason("running", text, attempt=job.attempt, worker_id=job.worker, since=job.since, seq=job.seq)]
        case JobStatus.SUBMITTED:
            return [
                _reason("waits_for_verdict", "handed in without success, waits to be accepted or rejected", seq=job.seq)
            ]
        case _:
            return [_reason("ended", f"the job is {job.status.value}", since=job.since, seq=job.seq)]


def _queued(
    job: JobView, models: Mapping[str, ModelView], deps: Mapping[str, DependencyView], now: datetime
) -> list[dict[str, Any]]:
    found = []
    for job_id, view in deps.items():
        verdict = dependency(view.status)
        if verdict is Dependency.FAILED:
            text = f"dependency {job_id} is {view.status.value}: the job will be cancelled"
            found.append(_reason("dependency_failed", text, job_id=job_id, seq=view.seq))
        elif verdict is Dependency.WAITING:
            text = f"waits for dependency {job_id}, which is {view.status.value}"
            found.append(_reason("waits_for_dependency", text, job_id=job_id, seq=view.seq))
    if not due(job.not_before, now):
        found.append(_reason("not_due", f"not due before {job.not_before}", not_before=job.not_before, seq=job.seq))
    if job.key_holder is not None:
        text = f"concurrency key {job.concurrency_key} is busy: job {job.key_holder} has it"
        found.append(_reason("concurrency_key_busy", text, job_id=job.key_holder))
    declared = [model.name for model in models.values() if job.role in model.roles]
    pools = [models.get(name, ModelView(name)) for name in candidates(job.role, job.roles, declared)]
    if not with_room(pools):
        found.extend(_pool_reason(pool) for pool in pools)
    return found or [
        _reason("ready", "ready: the scheduler assigns it in its next round, jobs of higher priority first")
    ]


def _pool_reason(pool: ModelView) -> dict[str, Any]:
    match obstacle(pool):
        case Obstacle.PAUSED:
            text = f"model {pool.name} is paused" + (f" since {pool.since}" if pool.since else "")
            code = Obstacle.PAUSED.value
        case Obstacle.OFFLINE:
            text = f"model {pool.name} is offline" + (f" since {pool.since}" if pool.since else "")
            code = Obstacle.OFFLINE.value
        case Obstacle.FULL:
            text, code = _full(pool), Obstacle.FULL.value
        case Obstacle.UNSEEN_FULL:
            text = f"no worker of model {pool.name} was ever seen, and {pool.unclaimed} jobs already wait for one"
            code = Obstacle.UNSEEN_FULL.value
        case None:
            text, code = f"no worker of model {pool.name} was ever seen", "model_never_seen"
    return _reason(code, text, model=pool.name, since=pool.since, seq=pool.seq)


def _full(pool: ModelView) -> str:
    return f"pool {pool.name} is full: {min(pool.busy, pool.slots)} of {pool.slots} slots busy, {pool.unclaimed} jobs assigned"


def _reason(code: str, text: str, **facts: object) -> dict[str, Any]:
    return {"code": code, "text": text, **{name: value for name, value in facts.items() if value is not None}}
