"""One schedule: a seed decides who runs, what is lost, who dies, whose clock jumps. Then the faults stop and everything must end."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta

from aura.domain.job_commands import AssignJob
from aura.domain.roles import RoleModels
from aura.errors import Unavailable, WrongExpectedSequence
from aura.events.catalogue import JobCreated
from aura.log.memory import MemoryEventStore
from aura.log.store import Append, LogIdentity, Recorded
from aura.scheduler.agenda import AGAIN
from aura.scheduler.rows import Decision, JobDecision
from tests.properties.simulation.checker import Checker, SeenJob, Violation
from tests.properties.simulation.loop import Loop, pause, sleep
from tests.properties.simulation.nodes import Pool, Scheduler, Worker
from tests.properties.simulation.operator import Operator

BASE = datetime(2026, 1, 1, tzinfo=UTC)
ROLE_MODELS = {"Employee": "alpha", "Validator": "beta", "Either": "alpha"}
DECLARED = {"alpha": (), "beta": ("Either",)}
MAX_STEPS = 40_000
MAX_SECONDS = 40_000.0


class NodeClock:
    """A process's clocks: monotonic is virtual time, the wall may be wrong."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.offset_s = 0.0

    def now(self) -> datetime:
        return BASE + timedelta(seconds=self._loop.now + self.offset_s)

    def monotonic_s(self) -> float:
        return self._loop.now


class SeededIds:
    """Ids from the seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def uuid7(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def random_bytes(self, n: int) -> bytes:
        return self._rng.randbytes(n)


class LeaseBoard:
    """Who holds the scheduler's lease; a term only rises. A holder that dies or is stopped loses it after two seconds."""

    def __init__(self) -> None:
        self.holder: str | None = None
        self._expires: float | None = None
        self._term = 0
        self._terms: dict[str, int] = {}

    def free(self, now: float) -> bool:
        return self.holder is None or (self._expires is not None and now >= self._expires)

    def take(self, name: str) -> int:
        self._term += 1
        self.holder, self._expires = name, None
        self._terms[name] = self._term
        return self._term

    def silent(self, name: str, now: float) -> None:
        """The process no longer renews."""
        if self.holder == name:
            self._expires = now + 2.0

    def back(self, name: str) -> None:
        """The process renews again, if nobody else was faster."""
        if self.holder == name:
            self._expires = None

    def release(self, name: str) -> None:
        if self.holder == name:
            self.holder = None

    def term_of(self, name: str) -> int:
        return self._terms.get(name, 0)


class Network:
    """One process's connection to the log: requests and answers get lost, late, or doubled."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def append(self, append: Append) -> int:
        return (await self.append_batch([append]))[0]

    async def append_batch(self, appends: Sequence[Append]) -> list[int]:
        world = self._world
        if world.faulty and world.rng.random() < world.ghosts:
            world.loop.spawn("network", self._land(appends, world.rng.random() * 10))
            raise Unavailable("on its way")
        seqs = await world.store.append_batch(appends) if len(appends) > 1 else [await world.store.append(appends[0])]
        if world.faulty and world.rng.random() < 0.02:
            world.loop.spawn("network", self._land(appends, world.rng.random()))
        return seqs

    async def _land(self, appends: Sequence[Append], after_s: float) -> None:
        """A message that arrives when nobody waits for its answer any more."""
        await sleep(after_s)
        try:
            await self._world.store.append_batch(appends)
        except (WrongExpectedSequence, Unavailable):
            pass

    async def last(self, guard: str, *, consistent: bool = False) -> Recorded | None:
        return await self._world.store.last(guard, consistent=consistent)

    async def get(self, seq: int) -> Recorded | None:
        return await self._world.store.get(seq)

    async def read(
        self, from_seq: int = 1, *, to_seq: int | None = None, subject: str | None = None, batch: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        async for found in self._world.store.read(from_seq, to_seq=to_seq, subject=subject, batch=batch):
            yield found

    def follow(self, from_seq: int) -> AsyncIterator[list[Recorded]]:
        raise NotImplementedError("schedulers of the simulation are fed by hand")

    async def identity(self) -> LogIdentity:
        return await self._world.store.identity()

    async def close(self) -> None:
        """Nothing to release."""


class World:
    """Everything of one schedule. ``run`` raises :class:`Violation` with the seed in it."""

    def __init__(self, seed: int, make_store: Callable[..., MemoryEventStore] = MemoryEventStore) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.loop = Loop(rng)
        self.ids = SeededIds(rng)
        self.faulty = True
        calm = rng.random() < 0.3  # no two leaders and nothing by hand: here even concurrency keys are exclusive
        self.lost = rng.choice((0.0, 0.02, 0.1))
        self.ghosts = 0.0 if calm else rng.choice((0.0, 0.05))
        self.overlap = not calm and rng.random() < 0.7
        self.by_hand = not calm and rng.random() < 0.4
        self.kills = 0 if calm else rng.choice((0, 1, 3))
        self.jumps = rng.random() < 0.5
        self.models = tuple(DECLARED)
        self.roles = RoleModels("nobody", ROLE_MODELS)
        self._clocks: list[NodeClock] = []
        self.store = make_store(self.clock(), switch=self._switch)
        self.events: list[Recorded] = self.store._events
        self.lease = LeaseBoard()
        self.checker = Checker(keys_exclusive=calm)
        self.pools = {model: Pool(self, model) for model in self.models}
        self.schedulers = [Scheduler(self, f"scheduler{i}") for i in range(rng.choice((1, 2)))]
        self.workers = [
            Worker(self, f"w{i}", self.models[i % 2], rng.choice((1, 2, 3))) for i in range(rng.choice((2, 3)))
        ]
        self.operator = Operator(self, "operator")
        self.job_ids: list[str] = []
        self.rounds_judged = 0

    # ------------------------------------------------------------ what the processes see

    @property
    def length(self) -> int:
        return len(self.events)

    def clock(self) -> NodeClock:
        clock = NodeClock(self.loop)
        self._clocks.append(clock)
        return clock

    def connection(self) -> Network:
        return Network(self)

    async def _switch(self, point: str) -> None:
        await pause()
        if self.faulty and self.rng.random() < self.lost and point != "deliver":
            raise Unavailable(point)

    def tell_renewal(self, job_id: str, attempt: int, worker: str) -> None:
        for scheduler in self.schedulers:
            if not (self.faulty and self.rng.random() < 0.2):
                self.loop.spawn(scheduler.name, self._renewal(scheduler, job_id, attempt, worker))

    async def _renewal(self, scheduler: Scheduler, job_id: str, attempt: int, worker: str) -> None:
        await sleep(self.rng.random() * (2.0 if self.faulty else 0.01))
        scheduler.planner.renew(job_id, attempt, worker, self.loop.now)

    def tell_health(self, worker: Worker) -> None:
        report = {
            "model": worker.model,
            "worker_id": worker.name,
            "slots": worker.slots,
            "interval_s": worker.interval_s,
            "payload": {"status": "tired" if self.faulty and self.rng.random() < 0.1 else "ok"},
            "in_flight": [{"job_id": job_id, "attempt": attempt} for job_id, attempt in worker.active.items()],
        }
        for scheduler in self.schedulers:
            if not (self.faulty and self.rng.random() < 0.2):
                scheduler.planner.apply_heartbeat(report, scheduler.clock.now(), self.loop.now)
                scheduler.poked = True

    def note_leader(self, scheduler: Scheduler) -> None:
        """A term begins. At times the one before does not notice that it ended."""
        if self.faulty and self.overlap and self.rng.random() < 0.6:
            for other in self.schedulers:
                if other is not scheduler and other.planner.term is not None:
                    other.zombie_until = self.loop.now + self.rng.random() * 20

    # ------------------------------------------------------------ the schedule

    def run(self) -> World:
        """Faults, then peace; raises :class:`Violation`."""
        try:
            self._begin()
            self._trouble()
            self._peace()
        except Violation as violation:
            raise Violation(f"{violation} [AURA_SIM_SEED={self.seed}]") from violation
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
            raise RuntimeError(f"the simulation crashed: {error!r} [AURA_SIM_SEED={self.seed}]") from error
        finally:
            self.loop.close()
        return self

    def _begin(self) -> None:
        for model, roles in DECLARED.items():
            if self.rng.random() < 0.7:
                self.loop.spawn("operator", self.operator.register(model, roles))
        for _ in range(self.rng.randint(1, 3)):
            self.loop.spawn("operator", self._submit(self.rng.random() * 10))
        self.loop.spawn("operator", self.operator.interfere(self.rng.randint(0, 12)))
        for node in (*self.schedulers, *self.workers):
            self.loop.spawn(node.name, self._after(self.rng.random() * 5, node))

    async def _after(self, seconds: float, node: Scheduler | Worker) -> None:
        await sleep(seconds)
        await node.run()

    async def _submit(self, after_s: float) -> None:
        await sleep(after_s)
        rng = self.rng
        root, project = self.ids.uuid7(), rng.choice((1, 2))
        job_ids = [self.ids.uuid7() for _ in range(rng.randint(1, 5))]
        created = []
        for index, job_id in enumerate(job_ids):
            depends_on = [other for other in job_ids[:index] if rng.random() < 0.3]
            run_at = None
            if rng.random() < 0.2:
                run_at = (self.operator.clock.now() + timedelta(seconds=rng.random() * 30)).isoformat()
            event = JobCreated(
                root_job_id=root,
                index=index,
                count=len(job_ids),
                title="t",
                task_type="task",
                role=rng.choice(tuple(ROLE_MODELS)),
                priority=rng.randrange(10),
                depends_on=depends_on,
                max_attempts=rng.randint(1, 4),
                timeout_s=rng.choice((None, None, 6.0)),
                queue_timeout_s=rng.choice((None, None, None, 20.0)),
                run_at=run_at,
                concurrency_key=rng.choice((None, None, "red", "blue")),
            )
            created.append((job_id, event))
        rng.shuffle(created)
        await self.operator.submit(created, project)
        self.job_ids.extend(job_ids)

    def _trouble(self) -> None:
        ends_at = 15.0 + self.rng.random() * 45
        moments = sorted(self.rng.random() * ends_at for _ in range(self.kills * 2 + 4))
        while self.loop.now < ends_at and self._step():
            while moments and self.loop.now >= moments[0]:
                moments.pop(0)
                self._strike()

    def _strike(self) -> None:
        node = self.rng.choice([*self.schedulers, *self.workers])
        roll = self.rng.random()
        if roll < 0.4 and self.kills:
            self.loop.kill(node.name)
            self.lease.silent(node.name, self.loop.now)
            node.boot()
            self.loop.spawn(node.name, self._after(self.rng.random() * 15, node))
        elif roll < 0.6 and self.overlap:
            self.loop.stall(node.name, self.rng.random() * 20)
            self.lease.silent(node.name, self.loop.now)
        elif self.jumps:
            self.rng.choice(self._clocks).offset_s = self.rng.choice((-3600.0, 3600.0, 0.0))

    def _peace(self) -> None:
        self.faulty = False
        for clock in self._clocks:
            clock.offset_s = 0.0
        for worker in self.workers:  # whatever they believed: they start afresh
            self.loop.kill(worker.name)
            worker.boot()
            self.loop.spawn(worker.name, worker.run())
        self.loop.spawn("operator", self.operator.tidy())
        limit = self.loop.now + MAX_SECONDS
        while self.checker.unfinished():
            if self.loop.now > limit or self.loop.steps > MAX_STEPS or not self._step():
                stuck = {job_id: job.status for job_id, job in self.checker.unfinished().items()}
                raise Violation(f"G7: jobs never end: {stuck} after {self.loop.steps} steps, {self.loop.now:.0f} s")

    def _step(self) -> bool:
        stepped = self.loop.step()
        if self._judged < len(self.events):
            for recorded in self.events[self._judged :]:
                self.checker.take(recorded)
            self._judged = len(self.events)
        return stepped

    _judged = 0

    # ------------------------------------------------------------ the plan

    def judge_round(self, scheduler: Scheduler, decisions: list[Decision]) -> None:
        """Priority among the eligible, dependencies and capacity, judged from the prefix of the log that the leader knew."""
        assigned = {
            d.head.job_id: d.command.model
            for d in decisions
            if isinstance(d, JobDecision) and isinstance(d.command, AssignJob) and not d.command.reoffer
        }
        if not assigned or self.rng.random() < 0.5:
            return
        self.rounds_judged += 1
        known = Checker().take_all(self.events[: scheduler.planner.seq])
        agenda, rows = scheduler.planner.agenda, scheduler.planner.rows
        wall = scheduler.clock.now().timestamp()
        taken = {
            (job.created["project_id"], job.created.get("concurrency_key"))
            for job_id, job in known.jobs.items()
            if job.status in ("ASSIGNED", "IN_PROGRESS")
            or (rows.get(job_id) is not None and rows[job_id].pending is not None)
        }
        prefix = self.events[: scheduler.planner.seq]
        registered = {r.subject.split(".")[2] for r in prefix if r.subject.endswith(".registered")}
        for job_id, model in assigned.items():
            job = known.jobs[job_id]
            for other_id, other in known.jobs.items():
                if other.status != "QUEUED" or other_id in assigned or other.priority >= job.priority:
                    continue
                if not _may_run(other, model, registered):
                    continue
                served = {name for name, pool in agenda.pools.items() if pool.slots > 0 and not pool.paused}
                if model not in served and any(_may_run(other, name, registered) for name in served):
                    continue  # it waits for a worker that lives
                if other.not_before and datetime.fromisoformat(other.not_before).timestamp() > wall:
                    continue
                wanted = [known.jobs.get(dep) for dep in other.created.get("depends_on", [])]
                if any(dep is None or dep.status != "COMPLETED" for dep in wanted):
                    continue
                key = other.created.get("concurrency_key")
                if key is not None and (other.created["project_id"], key) in taken:
                    continue
                row = rows.get(other_id)
                if row is None or row.pending is not None or (AGAIN, other_id) in agenda.timers:
                    continue
                raise Violation(
                    f"priority: {job_id} ({job.priority}) went to {model} before {other_id} ({other.priority})"
                )


def _may_run(job: SeenJob, model: str, registered: set[str]) -> bool:
    role = job.created["role"]
    return ROLE_MODELS[role] == model or (model in registered and role in DECLARED[model])
