"""The scheduler process: follows the log, plans at once after every batch of events, and carries the plan out while it leads.

::

    start ──snapshot──▶ CATCHING UP ──feed has delivered the log's end──▶ FOLLOWING ⇄ LEADING ──stop──▶ drained, lease released
                                                                             └──log is another one──▶ FAILED (``wait`` raises)

A follower keeps the same state as a leader, so taking over costs one pass over the open jobs and no database. There is no polling
interval: a round runs after a batch of events, a settled command, a heartbeat that changed a pool, a change of leadership, and at
the next deadline (one timer).

Invariants

* Events are applied in order and one at a time. While facts of reopened jobs are read (``recall.py``) the feed is held.
* No round unless ``Leadership.leading`` is true at that moment, nor any append of a round.
* The state is exact up to ``planner.seq``; what was decided and is not yet in it is ``pending`` there.

Failure cases: no snapshot (Postgres down) → a new scheduler waits, a running one does not notice; the log does not answer →
decisions are refused and tried again; an event that cannot be read → its job is left alone and logged, the projector raises the
alarm; the log is another one → ``LogRegression`` out of :meth:`SchedulerService.wait`, nothing more is decided.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from aura.clock import Clock
from aura.commands.handler import Caller, JobHandler
from aura.commands.models import ModelHandler
from aura.domain.roles import RoleModels
from aura.errors import AuraError, LogRegression, NotFound, PoisonEvent, Unavailable
from aura.ids import IdSource
from aura.log.identity import Checkpoint
from aura.log.store import EventStore, LogIdentity, Recorded
from aura.scheduler.executor import Executor
from aura.scheduler.feeds import HealthFeed, RenewalsFeed, tail_of
from aura.scheduler.leader import Leadership, Lease
from aura.scheduler.planner import Planner
from aura.scheduler.recall import recall
from aura.scheduler.rows import Decision, Fate, SnapshotData
from aura.scheduler.snapshot import Snapshot

log = structlog.get_logger("aura.scheduler")

#: The wall clock may jump: what waits for it is looked at again at least this often.
LONGEST_SLEEP_S = 30.0
SWEEP_S = 600.0
_RETRY_S = 0.5
_DRAIN_S = 5.0


async def nothing() -> None:
    """A callback that does nothing."""


@dataclass(frozen=True, slots=True)
class SchedulerPorts:
    """What the scheduler stands on. ``resume_purges`` runs once per term, ``sweep_content`` every ten minutes while leading."""

    store: EventStore
    jobs: JobHandler
    models: ModelHandler
    lease: Lease
    snapshot: Snapshot
    health: HealthFeed
    renewals: RenewalsFeed
    ensure_pool: Callable[[str], Awaitable[None]]
    clock: Clock
    ids: IdSource
    resume_purges: Callable[[], Awaitable[object]] = nothing
    sweep_content: Callable[[], Awaitable[object]] = nothing


class SchedulerService:
    """See the module. ``holder`` names this process in the lease and in ``system.leader_elected``."""

    def __init__(
        self,
        ports: SchedulerPorts,
        *,
        roles: RoleModels,
        retention_s: float,
        holder: str,
    ) -> None:
        self._ports = ports
        self._clock = ports.clock
        self.planner = Planner(roles, retention_s)
        self.leadership = Leadership(
            ports.lease,
            ports.store,
            ports.clock,
            ports.ids,
            holder,
            seen=self._seen,
            on_elected=self._on_elected,
            on_lost=self._on_lost,
        )
        self._executor = Executor(
            ports.jobs,
            ports.models,
            ports.ensure_pool,
            permitted=lambda caller: caller is self._caller and self.leadership.leading,
            settle=self._settle,
            on_room=self.round_soon,
        )
        self._caller = Caller("scheduler:0", "", "")
        self._held: list[Recorded] | None = None
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._chores: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._round_scheduled = False
        self._running = False
        self._stopped = False
        self._tail: Any = None
        self._failed: asyncio.Future[None] | None = None

    @property
    def leading(self) -> bool:
        """Whether this process decides now."""
        return self.leadership.leading

    async def start(self) -> None:
        """Load, catch up, begin to compete for the lease. Returns when following; waits for a snapshot as long as it takes.

        Raises ``LogRegression`` when the snapshot is of another log.
        """
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        self._running = True
        identity, known = await self._load()
        self._tail = tail_of(self._ports.store, self.planner.seq + 1, self._on_batch, self._fail, known=known)
        await self._tail.start()
        await self._recall()
        await self._seen(identity.last_seq)
        await self._ports.renewals.start(self._on_renewed)
        await self._ports.health.start(self._on_report)
        await self.leadership.start()
        log.info("scheduler.following", seq=self.planner.seq, open_jobs=len(self.planner.rows))

    async def stop(self) -> None:
        """Decide nothing more, wait for what is under way, release the lease. Safe twice."""
        if self._stopped:
            return
        self._stopped = True
        self._running = False
        for timer in (self._timer, self._sweep):
            if timer is not None:
                timer.cancel()
        await self._executor.drain(_DRAIN_S)
        await self.leadership.stop()
        for chore in list(self._chores):
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._ports.health.stop()
        await self._ports.renewals.stop()
        if self._tail is not None:
            await self._tail.stop()
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(None)

    async def wait(self) -> None:
        """Wait until stopped. Raises what made it fail (``LogRegression``)."""
        if self._failed is not None:
            await asyncio.shield(self._failed)

    # ------------------------------------------------------------ the log

    async def _load(self) -> tuple[LogIdentity, Checkpoint | None]:
        """The snapshot into the planner. A hundred thousand jobs live long and are no garbage: the collector need not look at them
        while they are made, nor ever after."""
        gc.disable()
        try:
            data = await self._snapshot()
            identity = await self._ports.store.identity()
            if data.epoch != identity.epoch or data.seq > identity.last_seq:
                raise LogRegression("the snapshot is of another log")
            self.planner.load(data, self._clock.monotonic_s())
            known = Checkpoint(data.epoch, data.seq, data.sha256) if data.sha256 else None
            del data
            gc.freeze()
        finally:
            gc.enable()
        return identity, known

    async def _snapshot(self) -> SnapshotData:
        while True:
            try:
                return await self._ports.snapshot.load()
            except Unavailable as error:
                log.warning("scheduler.waits_for_snapshot", error=error.detail)
                await asyncio.sleep(_RETRY_S)

    def _on_batch(self, batch: list[Recorded]) -> None:
        if self._held is not None:
            self._held.extend(batch)
            return
        planner, now = self.planner, self._clock.monotonic_s()
        for recorded in batch:
            planner.apply(recorded, now)
        if planner.poisoned:
            for seq in planner.poisoned:
                log.error("scheduler.poison", seq=seq)
            planner.poisoned.clear()
        if planner.missing:
            self._chore(self._recall())
        else:
            self._round()
        if self._waiters:
            self._release_waiters()

    async def _recall(self) -> None:
        """Read the facts of reopened jobs; the feed is held meanwhile (``recall.py`` says why)."""
        if self._held is not None or not self.planner.missing:
            return
        self._held = []
        self._tail.pause()
        try:
            while self.planner.missing:
                await self._recall_missing()
                held, self._held = self._held, []
                now = self._clock.monotonic_s()
                for recorded in held:
                    self.planner.apply(recorded, now)
        finally:
            self._held = None
            self._tail.resume()
        self._release_waiters()
        self.round_soon()

    async def _recall_missing(self) -> None:
        missing = list(self.planner.missing.items())[:256]
        found = await asyncio.gather(
            *(recall(self._ports.store, project, job_id, seq) for job_id, (project, seq) in missing),
            return_exceptions=True,
        )
        unanswered = False
        for (job_id, _), result in zip(missing, found, strict=True):
            match result:
                case Unavailable():
                    unanswered = True
                case NotFound() | PoisonEvent():
                    log.error("scheduler.unreadable_job", job_id=job_id, error=result.detail)
                    self.planner.missing.pop(job_id, None)
                case BaseException():
                    raise result
                case job:
                    self.planner.adopt(job, self._clock.monotonic_s())
        if unanswered:
            await asyncio.sleep(_RETRY_S)

    async def _seen(self, seq: int) -> None:
        """Wait until the event at ``seq`` is applied and nothing is held."""
        if self.planner.seq >= seq and self._held is None:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((seq, waiter))
        await waiter

    def _release_waiters(self) -> None:
        if self._held is not None or self.planner.missing:
            return
        for waiting in [waiting for waiting in self._waiters if waiting[0] <= self.planner.seq]:
            self._waiters.remove(waiting)
            if not waiting[1].done():
                waiting[1].set_result(None)

    def _fail(self, error: AuraError) -> None:
        log.error("scheduler.failed", code=error.code, error=error.detail)
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)
        if self._running:
            self._running = False
            self._chore(self.leadership.stop())

    # ------------------------------------------------------------ rounds

    def round_soon(self) -> None:
        """Plan in this turn of the event loop, once however often it is asked for."""
        if not self._round_scheduled and self._running:
            self._round_scheduled = True
            asyncio.get_running_loop().call_soon(self._scheduled_round)

    def _scheduled_round(self) -> None:
        self._round_scheduled = False
        self._round()

    def _round(self) -> None:
        if not self._running or self._held is not None or not self.leadership.leading:
            return
        if not self._executor.has_room:
            return  # asked again when there is
        decisions = self.planner.plan(self._clock.now(), self._clock.monotonic_s())
        if decisions:
            self._executor.dispatch(decisions, self._caller)
        self._arm()

    def _arm(self) -> None:
        """One timer for the next deadline."""
        wait_s = self.planner.next_deadline_s(self._clock.now(), self._clock.monotonic_s())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wait_s is None:
            wait_s = LONGEST_SLEEP_S
        if wait_s > 0 or self._executor.has_room:
            delay = min(wait_s, LONGEST_SLEEP_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self._round)

    def _settle(self, decision: Decision, fate: Fate, again_s: float) -> None:
        self.planner.settle(decision, fate, self._clock.monotonic_s(), again_s=again_s)

    # ------------------------------------------------------------ signs of life

    def _on_report(self, report: Mapping[str, Any], age_s: float) -> None:
        try:
            changed = self.planner.apply_heartbeat(report, self._clock.now(), self._clock.monotonic_s(), age_s=age_s)
        except ValueError:
            log.warning("scheduler.heartbeat_unreadable", model=report.get("model"), worker_id=report.get("worker_id"))
            return
        if changed:
            self.round_soon()

    def _on_renewed(self, job_id: str, attempt: int, worker_id: str) -> None:
        self.planner.renew(job_id, attempt, worker_id, self._clock.monotonic_s())

    # ------------------------------------------------------------ terms

    def _on_elected(self, term: int) -> None:
        request_id = self._ports.ids.uuid7()
        self._caller = Caller(f"scheduler:{term}", request_id, request_id)
        self._executor.forget_pools()
        self.planner.lead(term, self._clock.now(), self._clock.monotonic_s())
        self._chore(self._callback("resume_purges", self._ports.resume_purges))
        self._arm_sweep()
        self.round_soon()

    def _on_lost(self) -> None:
        self.planner.step_down(self._clock.now(), self._clock.monotonic_s())
        for timer in (self._timer, self._sweep):
            if timer is not None:
                timer.cancel()
        self._timer = self._sweep = None

    def _arm_sweep(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_now)

    def _sweep_now(self) -> None:
        if self._running and self.leadership.leading:
            self._chore(self._callback("sweep_content", self._ports.sweep_content))
            self._arm_sweep()

    async def _callback(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except AuraError as error:  # it is tried again in the next term, or in ten minutes
            log.error("scheduler.chore_failed", chore=name, code=error.code, error=error.detail)

    def _chore(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chore_done)

    def _chore_done(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("scheduler.chore_crashed", exc_info=error)
            self._fail(error if isinstance(error, AuraError) else AuraError(f"a chore failed: {type(error).__name__}"))
