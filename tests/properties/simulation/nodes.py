"""The processes of the simulation: schedulers (the real planner, handler and deciders), workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aura.clock import rfc3339
from aura.commands.handler import Caller, JobHandler, KeyUse
from aura.commands.heads import HeadCache, JobHead, load_job
from aura.commands.models import ModelHandler
from aura.domain import job_commands as c
from aura.domain.job_state import JobStatus
from aura.domain.retry import backoff_s
from aura.errors import Conflict, NotFound, Refused, Unavailable, WrongExpectedSequence
from aura.events import envelope, subjects
from aura.events.catalogue import JobClaimed, JobCreated, SystemLeaderElected
from aura.log.store import Append, Recorded
from aura.scheduler.executor import carry_out
from aura.scheduler.planner import Planner
from aura.scheduler.recall import recall
from aura.scheduler.rows import Decision, Fate, JobDecision
from aura.scheduler.snapshot import FoldedSnapshot
from tests.properties.simulation.loop import sleep

if TYPE_CHECKING:
    from tests.properties.simulation.world import World

RETENTION_S = 1_000.0
LEASE_TTL_S = 10.0


class Node:
    """A process with its own clock, store connection and head cache. Dies and returns without memory."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.clock = world.clock()
        self.store = world.connection()
        self.boot()

    def boot(self) -> None:
        self.jobs = JobHandler(self.store, self.clock, self.world.ids, HeadCache(limit=4))
        self.models = ModelHandler(self.store, self.clock, self.world.ids)

    @property
    def now(self) -> float:
        return self.world.loop.now

    def chance(self, probability: float) -> bool:
        return self.world.faulty and self.world.rng.random() < probability

    def caller(self, actor: str) -> Caller:
        return Caller(actor, "simulation", "simulation")


class Scheduler(Node):
    """What ``service.py`` does, with awaits where the simulation can reach them."""

    def boot(self) -> None:
        super().boot()
        self.planner = Planner(self.world.roles, RETENTION_S)
        self.elected: tuple[int, int] | None = None
        self.announcing: Append | None = None
        self.zombie_until = 0.0
        self.holds = False
        self.sent: dict[int, Decision] = {}
        self.poked = False

    @property
    def believes(self) -> bool:
        """Whether it thinks that it leads; a zombie is wrong about that."""
        return (self.holds and self.world.lease.holder == self.name) or self.now < self.zombie_until

    async def run(self) -> None:
        while True:
            try:
                data = await FoldedSnapshot(self.store).load()
                break
            except Unavailable:
                await sleep(0.5)
        self.planner.load(data, self.now)
        while True:
            await self._hear()
            await self._compete()
            if self.believes and self.planner.term is not None:
                self._round()
            deadline = self.planner.next_deadline_s(self.clock.now(), self.now)
            longest = min(5.0 if self.world.faulty else 30.0, 30.0 if deadline is None else max(deadline, 0.01))
            self.poked = False
            if self.chance(0.2):
                await sleep(self.world.rng.random() * 3)
            else:
                await sleep(longest, lambda: self.poked or self.world.length > self.planner.seq)

    async def _hear(self) -> None:
        planner, events = self.planner, self.world.events
        behind = len(events) - planner.seq
        count = self.world.rng.randint(0, behind) if self.chance(0.3) else behind
        for recorded in events[planner.seq : planner.seq + count]:
            planner.apply(recorded, self.now)
            if self.chance(0.05):  # the network says it twice
                planner.apply(events[self.world.rng.randrange(planner.seq)], self.now)
        while planner.missing:
            for job_id, (project, seq) in list(planner.missing.items()):
                try:
                    planner.adopt(await recall(self.store, project, job_id, seq), self.now)
                except Unavailable:
                    await sleep(0.2)

    async def _compete(self) -> None:
        lease = self.world.lease
        if self.holds:
            lease.back(self.name)
        if self.believes and self.chance(0.01):
            lease.release(self.name)
        if not self.believes:
            self.announcing = self.elected = None
            self.holds = False
            if self.planner.term is not None:
                self.planner.step_down(self.clock.now(), self.now)
            if (lease.free(self.now) or lease.holder == self.name) and not self.chance(0.3):
                self.holds = True
                self._announce(lease.take(self.name))
        if self.announcing is not None:
            try:
                seq = await self.store.append(self.announcing)
            except Unavailable:
                return
            self.announcing = None
            self.elected = (lease.term_of(self.name), seq)
        if self.elected is not None and self.planner.seq >= self.elected[1] and self.believes:
            term, self.elected = self.elected[0], None
            self.planner.lead(term, self.clock.now(), self.now)
            self.world.note_leader(self)

    def _announce(self, term: int) -> None:
        event = SystemLeaderElected(role="scheduler", term=term, holder=self.name)
        event_id = self.world.ids.uuid7()
        stamp = envelope.Stamp(rfc3339(self.clock.now()), f"scheduler:{term}", event_id, event_id)
        body = envelope.seal(event, event_id=event_id, stamp=stamp, ids={})
        self.announcing = Append(subjects.system_event(event.TYPE), None, 0, event_id, body)

    def _round(self) -> None:
        limit = self.world.rng.choice((1, 3, 1_000)) if self.world.faulty else 1_000
        decisions = self.planner.plan(self.clock.now(), self.now, limit)
        again = [decision for decision in decisions if id(decision) in self.sent]  # of unknown outcome, sent once more
        self.sent.update((id(decision), decision) for decision in decisions)
        self.world.judge_round(self, [decision for decision in decisions if decision not in again])
        jobs = [decision for decision in decisions if isinstance(decision, JobDecision)]
        term = self.planner.term or 0
        if len(jobs) > 1 and self.world.rng.random() < 0.5:
            self.world.loop.spawn(self.name, self._carry(jobs, term))
        else:
            for job in jobs:
                self.world.loop.spawn(self.name, self._carry([job], term))
        for decision in decisions:
            if not isinstance(decision, JobDecision):
                self.world.loop.spawn(self.name, self._report(decision, term))

    async def _carry(self, decisions: list[JobDecision], term: int) -> None:
        if self.chance(0.1):
            await sleep(self.world.rng.random() * 4)
        fates = [Fate.REFUSED] * len(decisions)
        if self.world.overlap or (self.planner.term == term and self.believes):
            try:
                fates = await carry_out(self.jobs, decisions, self.caller(f"scheduler:{term}"))
            except WrongExpectedSequence:
                for decision in decisions:
                    self.world.loop.spawn(self.name, self._carry([decision], term))
                return
        for decision, fate in zip(decisions, fates, strict=True):
            self.planner.settle(decision, fate, self.now)
        self.poked = True

    async def _report(self, decision: Decision, term: int) -> None:
        assert not isinstance(decision, JobDecision)
        fate = Fate.COMMITTED
        try:
            await self.models.execute(decision.model, decision.command, self.caller(f"scheduler:{term}"))
        except (Unavailable, Refused):
            fate = Fate.REFUSED
        self.planner.settle(decision, fate, self.now)
        self.poked = True


class Pool:
    """A pool's durable consumer: at least once, to any worker, again after 30 s without an acknowledgement."""

    def __init__(self, world: World, model: str) -> None:
        self._world = world
        self._suffix = f".assigned.{model}"
        self._read = 0
        self._offers: dict[int, tuple[Recorded, float]] = {}

    def waiting(self) -> bool:
        self._advance()
        now = self._world.loop.now
        return bool(self._offers) and any(not_before <= now for _, not_before in self._offers.values())

    def pull(self) -> Recorded | None:
        self._advance()
        now = self._world.loop.now
        for seq, (recorded, not_before) in self._offers.items():
            if not_before <= now:
                self._offers[seq] = (recorded, now + 30.0)
                return recorded
        return None

    def ack(self, seq: int) -> None:
        self._offers.pop(seq, None)

    def _advance(self) -> None:
        events = self._world.events
        if self._read == len(events):
            return
        for recorded in events[self._read :]:
            if recorded.subject.endswith(self._suffix):
                self._offers[recorded.seq] = (recorded, 0.0)
        self._read = len(events)


class Worker(Node):
    """Pulls, claims, heartbeats and reports, or vanishes, stalls, reports late, reports twice."""

    def __init__(self, world: World, name: str, model: str, slots: int) -> None:
        self.model = model
        self.slots = slots
        super().__init__(world, name)

    def boot(self) -> None:
        super().boot()
        self.active: dict[str, int] = {}
        self.busy = 0

    async def run(self) -> None:
        next_beat = 0.0
        pool = self.world.pools[self.model]
        while True:
            if self.now >= next_beat:
                self.world.tell_health(self)
                next_beat = self.now + self.interval_s
            while self.busy < self.slots and (offer := pool.pull()) is not None:
                self.busy += 1
                self.world.loop.spawn(self.name, self._serve(offer))
            wait = max(0.1, next_beat - self.now)
            await sleep(wait, lambda: self.busy < self.slots and pool.waiting())

    @property
    def interval_s(self) -> float:
        return 5.0 if self.world.faulty else 60.0

    async def _serve(self, offer: Recorded) -> None:
        job_id = offer.subject.split(".")[3]
        try:
            await self._attempt(offer, job_id)
        finally:
            self.busy -= 1
            self.active.pop(job_id, None)

    async def _attempt(self, offer: Recorded, job_id: str) -> None:
        attempt = await self.claim(job_id, f"k{offer.seq}{self.name}")
        if attempt is None:
            self.world.pools[self.model].ack(offer.seq)
            return
        if not self.chance(0.1):
            self.world.pools[self.model].ack(offer.seq)
        await self.work(job_id, attempt)

    async def claim(self, job_id: str, key: str) -> int | None:
        """The attempt's number, ``None`` when the claim was refused."""

        async def intent(head: JobHead) -> c.JobCommand:
            met = head.state.deps == 0 or head.state.status is not JobStatus.QUEUED or await self._met(head)
            return c.ClaimJob(self.name, LEASE_TTL_S, self.model, dependencies_met=met, offered=not self.world.by_hand)

        while True:
            try:
                outcome = await self.jobs.execute(job_id, intent, self.caller(f"worker:{self.name}"), KeyUse(key, "b"))
            except Unavailable:
                await sleep(0.5)
                continue
            except (Conflict, NotFound):
                return None
            if isinstance(outcome.event, JobClaimed):
                return outcome.event.attempt
            recorded = self.world.events[outcome.seq - 1].decode()
            return int(recorded["attempt"]) if recorded["type"] == "job.claimed" else None

    async def _met(self, head: JobHead) -> bool:
        created = await self.store.last(subjects.job_event(head.project, head.job_id, JobCreated.TYPE))
        assert created is not None
        for wanted in created.decode().get("depends_on", []):
            if (await load_job(self.store, wanted)).state.status is not JobStatus.COMPLETED:
                return False
        return True

    async def work(self, job_id: str, attempt: int) -> None:
        """Run an attempt to some end."""
        rng = self.world.rng
        self.active[job_id] = attempt
        if self.chance(0.1):
            return  # forgets it
        deaf = self.chance(0.15)  # no heartbeats, then a result: late if the lease ran out
        ends_at = self.now + (rng.random() * (25.0 if deaf else 8.0) if self.world.faulty else rng.random())
        while self.now < ends_at:
            await sleep(min(3.0, ends_at - self.now))
            if not deaf and not await self._beat(job_id, attempt):
                return
            if self.chance(0.1):
                await self._say(job_id, c.ChangeStage("build", "running", attempt))
        await self._say(job_id, self._result(job_id, attempt), key=f"r{job_id[-6:]}{attempt}{self.name}")
        if self.chance(0.1):
            await self._say(job_id, c.CompleteJob(True, RETENTION_S, attempt))

    def _result(self, job_id: str, attempt: int) -> c.JobCommand:
        roll = self.world.rng.random()
        if not self.world.faulty or roll < 0.6:
            return c.CompleteJob(True, RETENTION_S, attempt)
        if roll < 0.7:
            return c.CompleteJob(False, RETENTION_S, attempt)
        if roll < 0.8:
            return c.ReleaseJob(attempt, delay_s=self.world.rng.choice((0.0, 5.0)))
        return c.FailJob("broken", roll < 0.95, RETENTION_S, backoff_s(job_id, 1), attempt)

    async def _beat(self, job_id: str, attempt: int) -> bool:
        """Renew the lease as the command service does: against a consistent head."""
        try:
            head = await self.jobs.head(job_id, consistent=True)
        except Unavailable:
            return True
        if head.state.status is not JobStatus.IN_PROGRESS or head.state.attempt != attempt:
            return False
        self.world.tell_renewal(job_id, attempt, self.name)
        return True

    async def _say(self, job_id: str, command: c.JobCommand, key: str | None = None) -> None:
        use = KeyUse(key, "b") if key is not None else None
        while True:
            try:
                await self.jobs.execute(job_id, command, self.caller(f"worker:{self.name}"), use)
                return
            except Unavailable:
                await sleep(0.5)
            except Refused:
                return
