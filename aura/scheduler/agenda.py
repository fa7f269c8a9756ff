"""Where every open job stands and what becomes due: counts per pool, keys, ready lanes, deadlines.

Each open job is in exactly one place at a time::

    QUEUED       waits for dependencies (nowhere) | for its time (calendar) | for its key (parked) | for a slot (lane)
                 | is being assigned (``pending``: counted in ``pool.reserved``, holds its key)
    ASSIGNED     ``pool.assigned``, holds its key, deadline of the offer
    IN_PROGRESS  ``pool.busy``, holds its key, deadlines of lease and attempt

:meth:`Agenda.place` puts a job where its state says, :meth:`Agenda.displace` takes it away again; everything else follows from
calling them in pairs. Lanes and deadlines exist only while leading (``term``); a follower keeps the counts.

Deadlines are monotonic, except the calendar (``not_before`` is wall time, and the decider checks it again).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from aura.clock import parse_rfc3339
from aura.domain import policy
from aura.domain.job import MAX_EVENTS
from aura.domain.job_state import JobStatus
from aura.domain.roles import RoleModels
from aura.scheduler.pools import GRACE_S, Pool, assumed_online
from aura.scheduler.ready import ConcurrencyKeys, Lane, Tickets
from aura.scheduler.rows import JobRow
from aura.scheduler.timers import Timers

#: Near :data:`~aura.domain.job.MAX_EVENTS` the decider refuses to assign or claim; such a job is ended instead of left stuck. The
#: margin is what one more attempt may need.
EVENT_LIMIT = MAX_EVENTS * 9 // 10 - 32
_MOST_ROLES = 10_000
_LONGEST_OFFER_S = 600.0

LEASE, TIMEOUT, QUEUE, OFFER, AGAIN, WORKER, GRACE, REPORT = (
    "lease",
    "timeout",
    "queue",
    "offer",
    "again",
    "worker",
    "grace",
    "report",
)
_HOLDING = (JobStatus.ASSIGNED, JobStatus.IN_PROGRESS)


class Agenda:
    """See the module. ``roles`` is configuration's word on who runs which role."""

    def __init__(self, roles: RoleModels) -> None:
        self.term: int | None = None
        self.log_ns = 0
        self.wall_s = 0.0
        self.pools: dict[str, Pool] = {}
        tickets = Tickets()
        self.keys = ConcurrencyKeys(tickets)
        self.timers: Timers[tuple[str, ...]] = Timers()
        self.calendar: Timers[str] = Timers()
        #: Jobs to look at in the next plan (cancel, fail, take back), models to report, lanes to fill.
        self.due: dict[str, None] = {}
        self.reports: dict[str, None] = {}
        self.dirty: dict[Lane, None] = {}
        self._roles = roles
        self._tickets = tickets
        self._declared: dict[str, dict[str, None]] = {}
        self._lanes: dict[tuple[str, ...], Lane] = {}
        self._lane_of_role: dict[str, Lane] = {}
        self._lanes_of_pool: dict[str, dict[Lane, None]] = {}

    # ------------------------------------------------------------ pools and lanes

    def pool(self, name: str) -> Pool:
        """The pool of a model, known or not."""
        pool = self.pools.get(name)
        if pool is None:
            self.pools[name] = pool = Pool(name)
        return pool

    def declare(
        self, pool: Pool, before: tuple[str, ...], after: tuple[str, ...], waiting: Iterable[JobRow], now: float
    ) -> None:
        """A model declares other roles than before: the jobs of ``waiting`` move to the lanes this makes."""
        if set(before) == set(after):
            return
        for role in before:
            self._declared.get(role, {}).pop(pool.name, None)
        for role in after:
            self._declared.setdefault(role, {})[pool.name] = None
        self._lane_of_role.clear()
        if self.term is None:
            return
        for row in waiting:
            if row.lane is not None:
                self.displace(row)
                self.place(row, now)
            elif row.state.status is JobStatus.ASSIGNED and self.misplaced(row):
                self.due[row.job_id] = None

    def misplaced(self, row: JobRow) -> bool:
        """Whether an unclaimed job was given to a pool that would not get it now: since then, a model has declared its role."""
        return not row.manual and row.pool is not None and row.pool not in self.lane(row.state.role).pools

    def lane(self, role: str) -> Lane:
        """Where ready jobs of a role wait."""
        lane = self._lane_of_role.get(role)
        if lane is not None:
            return lane
        declared = tuple(self._declared.get(role, ()))
        names = policy.candidates(role, self._roles, declared)
        lane = self._lanes.get(names)
        if lane is None:
            self._lanes[names] = lane = Lane(len(self._lanes), tuple(self.pool(name) for name in names), self._tickets)
            for name in names:
                self._lanes_of_pool.setdefault(name, {})[lane] = None
        if len(self._lane_of_role) >= _MOST_ROLES:
            self._lane_of_role.clear()
        self._lane_of_role[role] = lane
        return lane

    def pool_changed(self, pool: Pool) -> None:
        """Size, health or pause of a pool changed: its lanes want a look, and what it may not have goes back."""
        if self.term is None:
            return
        if pool.report() is not None:
            self.reports[pool.name] = None
        if policy.closed(pool):
            self.due.update((job_id, None) for job_id, row in pool.assigned.items() if not row.manual)
        self._room_in(pool)

    def _room_in(self, pool: Pool) -> None:
        for lane in self._lanes_of_pool.get(pool.name, ()):
            if lane.live:
                self.dirty[lane] = None

    # ------------------------------------------------------------ leading

    def lead(self, term: int | None, rows: Iterable[JobRow], now: float, wall: datetime) -> None:
        """Start (or, with ``None``, stop) leading: everything is placed anew and every lease gets one full TTL from now."""
        self.term = term
        self.wall_s = wall.timestamp()
        self.timers.clear()
        self.calendar.clear()
        self.due.clear()
        self.reports.clear()
        self.dirty.clear()
        self.keys.clear()
        self._lanes.clear()
        self._lane_of_role.clear()
        self._lanes_of_pool.clear()
        for pool in self.pools.values():
            self._take_stock(pool, now)
        # Those in progress first, then by when they were assigned: the order in which they came to hold their keys.
        for row in sorted(rows, key=_seniority):
            row.pending, row.pool, row.lane, row.ticket, row.queue_until = None, None, None, 0, 0.0
            if row.state.status is JobStatus.IN_PROGRESS:
                self.start_attempt(row, now)
            self.place(row, now)

    def _take_stock(self, pool: Pool, now: float) -> None:
        pool.assigned.clear()
        pool.busy = pool.reserved = 0
        pool.pending_report = None
        for worker_id in [worker_id for worker_id, worker in pool.workers.items() if worker.until <= now]:
            del pool.workers[worker_id]
        pool.grace = self.term is not None and assumed_online(pool)
        pool.recount()
        if self.term is None:
            return
        for worker_id, worker in pool.workers.items():
            self.timers.arm((WORKER, pool.name, worker_id), worker.until)
        if pool.grace:
            self.timers.arm((GRACE, pool.name), now + GRACE_S)
        if pool.report() is not None:
            self.reports[pool.name] = None

    # ------------------------------------------------------------ one job

    def start_attempt(self, row: JobRow, now: float) -> None:
        """The attempt's deadlines: a full lease, and what is left of its time limit by the log's own clock."""
        row.lease_until = now + (row.state.lease_ttl_s or 0.0)
        row.timeout_at = 0.0 if row.timeout_s is None else now + max(0.0, row.timeout_s - self._age_s(row.since_ns))

    def place(self, row: JobRow, now: float) -> None:
        """Put an open job where its state says."""
        status = row.state.status
        if status is JobStatus.QUEUED:
            if self.term is not None:
                self._place_queued(row, now)
            return
        row.pool = pool = self.pool(row.state.model or self._roles.model(row.state.role))
        if status is JobStatus.ASSIGNED:
            pool.assigned[row.job_id] = row
            self.keys.take(row)
            if self.term is not None:
                self._place_assigned(row, pool, now)
        else:
            pool.busy += 1
            others = self.keys.run(row)
            if self.term is not None:
                self.due.update((job_id, None) for job_id in others)
                self.timers.arm((LEASE, row.job_id), row.lease_until)
                if row.timeout_at:
                    self.timers.arm((TIMEOUT, row.job_id), row.timeout_at)
                self.timers.disarm((QUEUE, row.job_id))

    def _place_queued(self, row: JobRow, now: float) -> None:
        if row.failed_deps or row.state.count >= EVENT_LIMIT:
            self.due[row.job_id] = None
            return
        if row.unmet:
            return
        if row.state.not_before is not None:
            at = parse_rfc3339(row.state.not_before).timestamp()
            if at > self.wall_s:
                self.calendar.arm(row.job_id, at)
                return
        self._start_wait(row, now)
        lane = self.lane(row.state.role)
        if self.keys.busy(row.key):
            self.keys.park(row, lane)
        else:
            lane.push(row)
            self.dirty[lane] = None

    def _start_wait(self, row: JobRow, now: float) -> None:
        if row.queue_timeout_s is None:
            return
        if not row.queue_until:
            age = self._age_s(row.waiting_ns)
            if row.state.not_before is not None:
                age = min(age, max(0.0, self.wall_s - parse_rfc3339(row.state.not_before).timestamp()))
            row.queue_until = now + max(0.0, row.queue_timeout_s - age)
        self.timers.arm((QUEUE, row.job_id), row.queue_until)

    def _place_assigned(self, row: JobRow, pool: Pool, now: float) -> None:
        self._start_wait(row, now)
        self.timers.arm((OFFER, row.job_id), now + min(_LONGEST_OFFER_S, policy.REOFFER_S * 2.0**row.offers))
        crowded = row.key is not None and self.keys.first_holder(row.key) != row.job_id
        if (crowded or policy.closed(pool) or self.misplaced(row)) and not row.manual:
            self.due[row.job_id] = None

    def displace(self, row: JobRow, *, keeps_key: bool = False) -> None:
        """Take an open job from where it is; ``keeps_key`` when it will hold its key in its next place too."""
        if row.lane is not None:
            row.lane.discard(row)
            if row.key is not None and not self.keys.busy(row.key):
                self.dirty.update((lane, None) for lane in self.keys.wake(row.key))
        pool, row.pool = row.pool, None
        if pool is not None:
            match row.state.status:
                case JobStatus.ASSIGNED:
                    pool.assigned.pop(row.job_id, None)
                case JobStatus.IN_PROGRESS:
                    pool.busy -= 1
                case _:
                    pool.reserved -= 1
            self._room_in(pool)
            if not keeps_key:
                self.dirty.update((lane, None) for lane in self.keys.give_back(row))
        row.pending = None
        if self.term is None:
            return
        self.due.pop(row.job_id, None)
        self.timers.disarm((AGAIN, row.job_id))
        match row.state.status:
            case JobStatus.QUEUED:
                self.calendar.disarm(row.job_id)
            case JobStatus.ASSIGNED:
                self.timers.disarm((OFFER, row.job_id))
            case _:
                self.timers.disarm((LEASE, row.job_id))
                self.timers.disarm((TIMEOUT, row.job_id))

    def forget(self, row: JobRow) -> None:
        """The job is closed (or unreadable): nothing of it stays."""
        self.displace(row)
        self.timers.disarm((QUEUE, row.job_id))

    def reserve(self, row: JobRow, pool: Pool) -> None:
        """The job is being assigned to the pool."""
        row.pool = pool
        pool.reserved += 1
        self.keys.take(row)

    def _age_s(self, since_ns: int) -> float:
        """How long ago by the log's own clock, never by this machine's (G10)."""
        return max(0.0, (self.log_ns - since_ns) / 1e9)


def _seniority(row: JobRow) -> tuple[bool, int, int]:
    return row.state.status is not JobStatus.IN_PROGRESS, row.since_ns, row.seq


def holds_key(status: JobStatus) -> bool:
    """Whether a job in this status occupies its concurrency key."""
    return status in _HOLDING
