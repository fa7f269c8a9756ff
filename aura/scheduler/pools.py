"""Pools: the live workers of each model, what they are busy with, and how their attempts ended.

Liveness is measured on the monotonic clock from the heartbeats this process heard. A model that the log calls online and of
which a new leader has not heard yet is taken at its registered size for :data:`GRACE_S`, so that a change of leaders neither stalls
the pool nor declares it offline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura.domain.model import ModelCommand, ModelState, ModelStatus, ReportDegraded, ReportOffline, ReportOnline
from aura.scheduler.rows import JobRow, ModelDecision

#: How long a new leader waits for the first heartbeat of a model that the log calls online.
GRACE_S = 30.0
#: What a worker says when it leaves (it is forgotten) and while it finishes its last jobs (it lives, without slots).
GOODBYE = frozenset({"offline", "stopped", "stopping", "goodbye"})
DRAINING = "draining"
HEALTHY = frozenset({"ok", "online", "healthy", "idle", "busy", "running", "ready", "starting", DRAINING})
_LATENCY_WEIGHT = 0.1


class Worker:
    """One live process. ``until`` is on the monotonic clock."""

    __slots__ = ("slots", "status", "until")

    def __init__(self, slots: int, status: str, until: float) -> None:
        self.slots = slots
        self.status = status
        self.until = until


class Pool:
    """The planner's :class:`~aura.domain.policy.PoolView` of one model."""

    __slots__ = (
        "assigned",
        "busy",
        "degraded",
        "failed",
        "grace",
        "heard",
        "last_seen",
        "latency_s",
        "name",
        "pending_report",
        "reserved",
        "slots",
        "state",
        "succeeded",
        "workers",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: ModelState | None = None
        self.workers: dict[str, Worker] = {}
        self.assigned: dict[str, JobRow] = {}
        self.busy = 0
        #: Assignments decided and not yet seen in the log.
        self.reserved = 0
        self.slots = 0
        self.degraded = False
        self.grace = False
        self.heard = False
        self.last_seen: str | None = None
        self.succeeded = 0
        self.failed = 0
        self.latency_s = 0.0
        self.pending_report: ModelDecision | None = None

    @property
    def paused(self) -> bool:
        """An operator stopped new assignments."""
        return self.state is not None and self.state.paused

    @property
    def seen(self) -> bool:
        """The log says that it was online once, or a heartbeat was heard here."""
        return self.heard or (self.state is not None and self.state.status is not ModelStatus.REGISTERED)

    @property
    def unclaimed(self) -> int:
        """Assigned and not claimed, or about to be assigned."""
        return len(self.assigned) + self.reserved

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self.slots - self.busy

    def hear(self, worker_id: str, slots: int, status: str, until: float) -> bool:
        """Take a heartbeat. ``True`` when it changed the pool's size or health."""
        before = self._shape()
        self.heard = True
        if status in GOODBYE:
            self.workers.pop(worker_id, None)
        else:
            self.grace = False
            slots = 0 if status == DRAINING else slots
            worker = self.workers.get(worker_id)
            if worker is not None and (worker.slots, worker.status) == (slots, status):
                worker.until = until
                return before != self._shape()
            self.workers[worker_id] = Worker(slots, status, until)
        self.recount()
        return before != self._shape()

    def lose(self, worker_id: str) -> bool:
        """A worker is gone. ``True`` when that changed the pool."""
        before = self._shape()
        self.workers.pop(worker_id, None)
        self.recount()
        return before != self._shape()

    def recount(self) -> None:
        """Size and health from the workers (or, in grace, from the registration)."""
        if self.grace and not self.workers and self.state is not None:
            self.slots, self.degraded = max(1, self.state.slots), self.state.status is ModelStatus.DEGRADED
        else:
            self.slots = sum(worker.slots for worker in self.workers.values())
            self.degraded = bool(self.workers) and all(w.status not in HEALTHY for w in self.workers.values())

    def _shape(self) -> tuple[int, bool, bool, bool]:
        return self.slots, self.degraded, bool(self.workers), self.seen

    def report(self) -> ModelCommand | None:
        """What the log should be told about this model's health, if it does not say so already."""
        if self.state is None or self.grace:
            return None
        status = self.state.status
        if self.workers:
            if not self.degraded:
                return None if status is ModelStatus.ONLINE else ReportOnline()
            if status is ModelStatus.DEGRADED:
                return None
            troubles = sorted({worker.status for worker in self.workers.values()})
            return ReportDegraded(reason=("workers report: " + ", ".join(troubles))[:200])
        if status in (ModelStatus.ONLINE, ModelStatus.DEGRADED):
            return ReportOffline(reason="no worker was heard of for three intervals", last_seen=self.last_seen)
        return None

    def ended(self, success: bool, duration_s: float) -> None:
        """Count how an attempt ended."""
        if success:
            self.succeeded += 1
        else:
            self.failed += 1
        if self.latency_s:
            self.latency_s += _LATENCY_WEIGHT * (duration_s - self.latency_s)
        else:
            self.latency_s = duration_s


def heartbeat_of(report: Mapping[str, Any]) -> tuple[str, str, int, float | None, str, list[Mapping[str, Any]]]:
    """(model, worker, slots, interval_s, status, in_flight) of a ``model.heartbeat``. Raises ``ValueError`` for rubbish."""
    try:
        model, worker_id, slots = str(report["model"]), str(report["worker_id"]), int(report.get("slots", 1))
        interval = report.get("interval_s")
        interval_s = None if interval is None else float(interval)
        status = str((report.get("payload") or {}).get("status", "ok"))
        in_flight = list(report.get("in_flight") or ())
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a heartbeat") from error
    if not 0 <= slots <= 10_000 or (interval_s is not None and not 0 < interval_s <= 3_600):
        raise ValueError("a heartbeat out of bounds")
    return model, worker_id, slots, interval_s, status, in_flight


def assumed_online(pool: Pool) -> bool:
    """The log calls the model online and nobody was heard here yet."""
    online = pool.state is not None and pool.state.status in (ModelStatus.ONLINE, ModelStatus.DEGRADED)
    return online and not pool.workers
