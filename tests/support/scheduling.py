"""A planner on an in-memory log, driven step by step: what the scheduler's own tests stand on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from aura.clock import ManualClock, rfc3339
from aura.commands.handler import Caller, JobHandler, Outcome
from aura.commands.models import ModelHandler
from aura.domain import job_commands as c
from aura.domain import model as m
from aura.domain.job import evolve
from aura.domain.job_state import JobStatus
from aura.domain.roles import RoleModels
from aura.errors import Refused
from aura.events import catalogue as e
from aura.ids import SystemIds
from aura.log.memory import MemoryEventStore
from aura.scheduler.executor import carry_out
from aura.scheduler.planner import Planner
from aura.scheduler.recall import recall
from aura.scheduler.rows import Decision, Fate, JobDecision
from aura.scheduler.snapshot import FoldedSnapshot

ROLES = RoleModels("alpha", {"Employee": "alpha", "Validator": "beta"})
RETENTION_S = 3_600.0
USER = Caller("user:test", "test", "test")
SCHEDULER = Caller("scheduler:1", "test", "test")


class Bench:
    """One log, one planner; the clock stands still unless it is moved."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryEventStore(self.clock)
        self.jobs = JobHandler(self.store, self.clock, SystemIds())
        self.models = ModelHandler(self.store, self.clock, SystemIds())
        self.planner = Planner(ROLES, RETENTION_S)

    @property
    def now(self) -> float:
        return self.clock.monotonic_s()

    def job_id(self, number: int) -> str:
        return f"0199c000-0000-7000-8000-{number:012d}"

    async def submit(self, *numbers: int, project: int = 1, **facts: Any) -> None:
        """Jobs of one PRD; ``depends_on`` are numbers, ``run_in`` seconds."""
        depends_on = [self.job_id(number) for number in facts.pop("depends_on", ())]
        if (run_in := facts.pop("run_in", None)) is not None:
            facts["run_at"] = rfc3339(self.clock.now() + timedelta(seconds=run_in))
        for number in numbers:
            base: dict[str, Any] = {
                "root_job_id": self.job_id(0),
                "index": 0,
                "count": 1,
                "title": "t",
                "task_type": "task",
            }
            created = e.JobCreated(**{**base, "role": "Employee", "depends_on": depends_on, **facts})
            append = self.jobs.seal(project, self.job_id(number), created, evolve(None, created), USER, expected_seq=0)
            await self.store.append(append)

    async def ask(self, number: int, command: c.JobCommand) -> Outcome:
        """A command from outside."""
        return await self.jobs.execute(self.job_id(number), command, USER)

    async def claim(self, number: int, worker: str = "w", ttl_s: float = 10.0) -> None:
        await self.ask(number, c.ClaimJob(worker, ttl_s, "alpha"))

    async def complete(self, number: int, *, success: bool = True) -> None:
        await self.ask(number, c.CompleteJob(success, RETENTION_S))

    async def model(self, name: str, command: m.ModelCommand) -> None:
        await self.models.execute(name, command, USER)

    def beat(self, model: str = "alpha", worker: str = "w", slots: int = 1, status: str = "ok", **more: Any) -> bool:
        report = {
            "model": model,
            "worker_id": worker,
            "slots": slots,
            "interval_s": 10.0,
            "payload": {"status": status},
        }
        return self.planner.apply_heartbeat({**report, **more}, self.clock.now(), self.now)

    async def hear(self) -> None:
        """Apply what the log has, and read what is missing."""
        async for batch in self.store.read(self.planner.seq + 1):
            for recorded in batch:
                self.planner.apply(recorded, self.now)
        while self.planner.missing:
            for job_id, (project, seq) in list(self.planner.missing.items()):
                self.planner.adopt(await recall(self.store, project, job_id, seq), self.now)

    async def lead(self, term: int = 1) -> None:
        await self.hear()
        self.planner.lead(term, self.clock.now(), self.now)

    def plan(self, limit: int = 1_000) -> list[Decision]:
        return self.planner.plan(self.clock.now(), self.now, limit)

    async def round(self, limit: int = 1_000) -> list[Decision]:
        """Hear, plan, carry out, hear again; what was decided."""
        await self.hear()
        decisions = self.plan(limit)
        for decision in decisions:
            if isinstance(decision, JobDecision):
                [fate] = await carry_out(self.jobs, [decision], SCHEDULER)
            else:
                try:
                    await self.models.execute(decision.model, decision.command, SCHEDULER)
                    fate = Fate.COMMITTED
                except Refused:
                    fate = Fate.REFUSED
            self.planner.settle(decision, fate, self.now)
        await self.hear()
        return decisions

    async def settled(self) -> None:
        """Rounds until nothing is decided any more."""
        while await self.round():
            pass

    async def restart(self, term: int = 2) -> None:
        """Another process takes over from a snapshot of the log."""
        self.planner = Planner(ROLES, RETENTION_S)
        self.planner.load(await FoldedSnapshot(self.store).load(), self.now)
        await self.lead(term)

    def assigned(self, decisions: list[Decision]) -> list[int]:
        """The numbers of the jobs that were assigned, in order."""
        found = [d for d in decisions if isinstance(d, JobDecision) and isinstance(d.command, c.AssignJob)]
        return [int(d.head.job_id[-12:]) for d in found]

    def commands(self, decisions: list[Decision]) -> list[str]:
        return [type(decision.command).__name__ for decision in decisions]

    async def status(self, number: int) -> JobStatus:
        return (await self.jobs.head(self.job_id(number), consistent=True)).state.status
