"""The operator of the simulation: submits PRDs, interferes at random, and tidies up when the faults are over."""

from __future__ import annotations

from aura.domain import job_commands as c
from aura.domain import model as m
from aura.domain.job import evolve
from aura.errors import Refused, Unavailable, WrongExpectedSequence
from aura.events.catalogue import AssignReason, JobCreated
from tests.properties.simulation.loop import sleep
from tests.properties.simulation.nodes import RETENTION_S, Node


class Operator(Node):
    """Submits PRDs and interferes."""

    async def register(self, model: str, roles: tuple[str, ...]) -> None:
        while True:
            try:
                await self.models.execute(model, m.RegisterModel(slots=1, roles=roles), self.caller("user:operator"))
                return
            except Unavailable:
                await sleep(0.2)

    async def submit(self, created: list[tuple[str, JobCreated]], project: int) -> None:
        """One atomic batch, repeated until it is in."""
        caller = self.caller("user:operator")
        appends = []
        for job_id, event in created:
            appends.append(self.jobs.seal(project, job_id, event, evolve(None, event), caller, expected_seq=0))
        while True:
            try:
                await self.store.append_batch(appends)
                return
            except Unavailable:
                await sleep(0.3)
            except WrongExpectedSequence:
                return  # it was in after all

    async def act(self, job_id: str, command: c.JobCommand) -> None:
        try:
            await self.jobs.execute(job_id, command, self.caller("user:operator"))
        except (Refused, Unavailable):
            pass

    async def interfere(self, moments: int) -> None:
        """Random commands at random moments."""
        rng, world = self.world.rng, self.world
        for _ in range(moments):
            await sleep(rng.random() * 6)
            if not world.job_ids:
                continue
            job_id = rng.choice(world.job_ids)
            match rng.randrange(9):
                case 0 | 1:
                    await self.act(job_id, c.CancelJob("user:operator", RETENTION_S, "why not"))
                case 2 | 3:
                    await self.act(job_id, c.RetryJob("user:operator"))
                case 4:
                    await self.act(job_id, c.AcceptJob("user:operator"))
                case 5:
                    await self.act(job_id, c.RejectJob("user:operator", RETENTION_S))
                case 6:
                    await self.act(job_id, c.ReprioritizeJob("user:operator", rng.randrange(10)))
                case 7:
                    model = rng.choice(world.models)
                    verb = m.PauseModel if rng.random() < 0.5 else m.ResumeModel
                    try:
                        await self.models.execute(model, verb("user:operator"), self.caller("user:operator"))
                    except (Refused, Unavailable):
                        pass
                case _:
                    if world.by_hand:
                        command = c.AssignJob(rng.choice(world.models), AssignReason(policy="manual"), override=True)
                        await self.act(job_id, command)

    async def tidy(self) -> None:
        """After the faults: nothing stays paused, every verdict is given."""
        while True:
            for model in self.world.models:
                try:
                    await self.models.execute(model, m.ResumeModel("user:operator"), self.caller("user:operator"))
                except Refused:
                    pass
            for job_id, job in self.world.checker.jobs.items():
                if job.status == "SUBMITTED":
                    await self.act(job_id, c.AcceptJob("user:operator"))
            await sleep(20.0)
