"""Histories for the read side: real events, made by the deciders and sealed like the command service does."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from aura.clock import ManualClock, rfc3339
from aura.domain import job as job_decider
from aura.domain import job_commands as c
from aura.domain import job_state, model
from aura.domain.job_state import JobState, JobStatus
from aura.errors import Refused
from aura.events import catalogue as e
from aura.events import envelope, subjects
from aura.ids import derived
from aura.log.memory import MemoryEventStore
from aura.log.store import Append, EventStore, Recorded

ROLES = ("Employee", "Validator", "Auditor")
MODELS = {"Employee": "employee_ollama", "Validator": "validator_service", "Auditor": "auditor_service"}
RETENTION_S = 3600.0


class JobLog:
    """Appends real histories to a store. Deterministic for a seed."""

    def __init__(self, store: EventStore | None = None, *, seed: int = 1, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.store: EventStore = store or MemoryEventStore(self.clock, epoch="log-1")
        self.random = random.Random(seed)
        self.jobs: dict[str, tuple[int, JobState, int]] = {}
        self.models: dict[str, tuple[model.ModelState, int]] = {}
        self.seq = 0
        self._ids = 0

    def _event_id(self) -> str:
        self._ids += 1
        return derived("event", self.random.random(), self._ids)

    def _stamp(self) -> envelope.Stamp:
        self.clock.advance(0.25)
        return envelope.Stamp(rfc3339(self.clock.now()), "anonymous", "request", "request")

    async def prd(self, count: int = 3, *, project: int = 1, title: str = "a plan", **options: Any) -> list[str]:
        """Create a PRD of ``count`` jobs; ``options`` are fields of ``JobCreated``."""
        root = derived("root", self.random.random(), len(self.jobs))
        ids = [derived(root, index) for index in range(count)]
        for index, job_id in enumerate(ids):
            fields: dict[str, Any] = {
                "title": f"{title} {index}",
                "task_type": "code",
                "role": ROLES[index % 3],
                "input": e.ContentRef(bytes=10 + index, digest="sha256:00"),
            } | options
            created = e.JobCreated(root_job_id=root, index=index, count=count, prd_title=title, **fields)
            await self.do(job_id, c.CreateJob(created), project=project)
        return ids

    async def do(self, job_id: str, command: c.JobCommand, *, project: int | None = None) -> int:
        """Decide and append; returns the last sequence. Raises ``Refused``."""
        known = self.jobs.get(job_id)
        if known is None:
            assert project is not None
            known = (project, None, 0)  # type: ignore[assignment]
        project, state, seq = known
        for event in job_decider.decide(state, command, now=self.clock.now()):
            state = job_decider.evolve(state, event)
            routed = state.model if event.TYPE == "job.assigned" else None
            subject = subjects.job_event(project, job_id, event.TYPE, model=routed)
            seq = await self._append(
                subject,
                subjects.job_guard(project, job_id),
                seq,
                event,
                {"project_id": project, "job_id": job_id},
                job_state.to_json(state),
            )
            self.jobs[job_id] = (project, state, seq)
        return self.seq

    async def tell_model(self, name: str, command: model.ModelCommand) -> int:
        """Decide and append a model event."""
        state, seq = self.models.get(name, (None, 0))
        for event in model.decide(state, command, now=self.clock.now()):
            state = model.evolve(state, event)
            seq = await self._append(
                subjects.model_event(name, event.TYPE),
                subjects.model_guard(name),
                seq,
                event,
                {"model": name},
                model.to_json(state),
            )
            self.models[name] = (state, seq)
        return self.seq

    async def system(self, event: e.Event) -> int:
        """Append a system event."""
        return await self._append(subjects.system_event(event.TYPE), None, 0, event, {}, None)

    async def raw(self, subject: str, body: bytes) -> int:
        """Append rubbish to an entity, which takes no further part."""
        tokens = subject.split(".")
        self.jobs.pop(tokens[3] if tokens[1] == "job" else "", None)
        guard = None if tokens[1] == "system" else ".".join(tokens[: 3 if tokens[1] == "model" else 4]) + ".>"
        last = await self.store.last(guard) if guard else None
        self.seq = await self.store.append(Append(subject, guard, last.seq if last else 0, self._event_id(), body))
        return self.seq

    async def _append(
        self,
        subject: str,
        guard: str | None,
        seq: int,
        event: e.Event,
        ids: dict[str, Any],
        state: dict[str, Any] | None,
    ) -> int:
        event_id = self._event_id()
        body = envelope.seal(event, event_id=event_id, stamp=self._stamp(), ids=ids, state=state)
        self.seq = await self.store.append(Append(subject, guard, seq, event_id, body))
        return self.seq

    # --- common walks

    async def assign(self, job_id: str) -> int:
        """By the scheduler, to the role's model."""
        state = self.jobs[job_id][1]
        return await self.do(
            job_id, c.AssignJob(MODELS.get(state.role, "employee_ollama"), e.AssignReason(policy="test"))
        )

    async def claim(self, job_id: str, worker: str = "w1") -> int:
        """By a worker."""
        return await self.do(job_id, c.ClaimJob(worker, 30.0, "employee_ollama"))

    async def complete(self, job_id: str, *, success: bool = True) -> int:
        """The current attempt hands in a result."""
        result = e.ContentRef(bytes=7, digest="sha256:11")
        return await self.do(job_id, c.CompleteJob(success, RETENTION_S, result=result, output=e.OutputRef(count=4)))

    async def finish(self, job_id: str) -> int:
        """From queued to completed."""
        await self.assign(job_id)
        await self.claim(job_id)
        return await self.complete(job_id)

    async def wander(self, steps: int) -> None:
        """Random legal steps over all jobs and models, refused ones left out."""
        for _ in range(steps):
            if not self.jobs or self.random.random() < 0.07:
                await self.prd(
                    self.random.randint(1, 4),
                    project=self.random.randint(1, 3),
                    title=self.random.choice(("build", "test the parser", "write docs")),
                    stages=self.random.choice(([], ["fetch", "parse"])),
                    subject=self.random.choice((None, "s1", "s2")),
                )
                continue
            if self.random.random() < 0.1:
                await self._wander_model()
                continue
            job_id = self.random.choice(list(self.jobs))
            try:
                await self.do(job_id, self._some_command(self.jobs[job_id][1]))
            except Refused:
                continue

    async def _wander_model(self) -> None:
        name = self.random.choice(list(MODELS.values()))
        command = self.random.choice(
            (
                model.RegisterModel(slots=self.random.randint(1, 3)),
                model.ReportOnline(),
                model.PauseModel("director:1"),
                model.ResumeModel("director:1"),
                model.ReportOffline("silent", rfc3339(self.clock.now())),
            )
        )
        try:
            await self.tell_model(name, command)
        except Refused:
            return

    def _some_command(self, state: JobState) -> c.JobCommand:
        pick = self.random.choice
        by = "director:1"
        if state.status in (JobStatus.QUEUED, JobStatus.ASSIGNED) and self.random.random() < 0.6:
            return pick(
                (
                    c.AssignJob(MODELS[state.role], e.AssignReason(policy="test"), override=True),
                    c.ClaimJob("w1", 30.0, "m"),
                )
            )
        if state.status is JobStatus.IN_PROGRESS and self.random.random() < 0.6:
            return pick(
                (
                    c.CompleteJob(True, RETENTION_S, result=e.ContentRef(bytes=3, digest="sha256:2")),
                    c.CompleteJob(False, RETENTION_S),
                    c.ChangeStage(pick(("fetch", "parse")), pick(("running", "done"))),
                    c.FailJob("boom", pick((True, False)), RETENTION_S, 1.0, output=e.OutputRef(count=2)),
                )
            )
        return pick(
            (
                c.UnassignJob("offline"),
                c.ExpireLease(state.attempt, RETENTION_S, 1.0),
                c.ReleaseJob(None, 0.0),
                c.CancelJob(by, RETENTION_S, "no longer wanted"),
                c.RetryJob(by, "again"),
                c.AcceptJob(by),
                c.RejectJob(by, RETENTION_S, "bad"),
                c.ReprioritizeJob(by, self.random.randint(0, 9)),
                c.HoldArchive(by),
                c.ReleaseHold(by),
                c.CompleteJob(True, RETENTION_S, attempt=1),
                c.RequestPurge(by, "digest"),
                c.RecordPurge(by, 12, ("content", "output")),
            )
        )

    def later(self, seconds: float) -> None:
        """Move the clock."""
        self.clock.advance(seconds)

    async def all(self) -> list[Recorded]:
        """Everything in the log."""
        return [recorded async for batch in self.store.read(1) for recorded in batch]


def instant(seconds: float) -> str:
    """RFC 3339, ``seconds`` after the start of the test clock."""
    return rfc3339(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))
