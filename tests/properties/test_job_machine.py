"""A state machine over the job decider and the handler's sealing: whatever is asked, in whatever order, at whatever time.

Invariants: legal transitions only, a closed job is left by ``retried`` or ``rejected`` alone (G8); an attempt's number only rises
and only the current one reports (G6); ``spent`` never exceeds ``max_attempts`` (G7); purge rules (G15); the carried state is at
most 512 bytes, survives JSON, and equals the fold, idempotency keys included (G2, G8).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aura.clock import ManualClock, parse_rfc3339, rfc3339
from aura.commands.handler import Caller, JobHandler, KeyUse
from aura.commands.heads import JobHead, step
from aura.domain import job_commands as c
from aura.domain import job_state
from aura.domain.job import decide
from aura.domain.job_state import MAX_STATE_BYTES, JobState, JobStatus, Purge
from aura.errors import Refused
from aura.events import catalogue as e
from aura.events import envelope
from aura.ids import SystemIds
from aura.log.memory import MemoryEventStore

JOB = "0199c000-0000-7000-8000-000000000001"
S = JobStatus
#: Every pair of different statuses that one event may connect.
LEGAL = {
    (S.QUEUED, S.ASSIGNED), (S.QUEUED, S.IN_PROGRESS), (S.QUEUED, S.FAILED), (S.QUEUED, S.CANCELLED),
    (S.ASSIGNED, S.QUEUED), (S.ASSIGNED, S.IN_PROGRESS), (S.ASSIGNED, S.FAILED), (S.ASSIGNED, S.CANCELLED),
    (S.IN_PROGRESS, S.QUEUED), (S.IN_PROGRESS, S.COMPLETED), (S.IN_PROGRESS, S.SUBMITTED), (S.IN_PROGRESS, S.FAILED),
    (S.IN_PROGRESS, S.CANCELLED),
    (S.SUBMITTED, S.COMPLETED), (S.SUBMITTED, S.QUEUED), (S.SUBMITTED, S.FAILED),
    (S.FAILED, S.QUEUED), (S.CANCELLED, S.QUEUED),
}  # fmt: skip
NAMES = st.text("abcdefgh", min_size=1, max_size=64)
ATTEMPTS = st.one_of(st.none(), st.integers(-1, 12))
SECONDS = st.floats(0, 500)


class JobMachine(RuleBasedStateMachine):
    """One job; ``head`` is what a handler that wrote everything knows, ``folded`` what its history says."""

    @initialize(
        attempts=st.integers(1, 100),
        priority=st.integers(0, 9),
        delay=st.one_of(st.none(), SECONDS),
        deps=st.integers(0, 3),
        role=NAMES,
    )
    def create(self, attempts: int, priority: int, delay: float | None, deps: int, role: str) -> None:
        self.clock = ManualClock()
        self.handler = JobHandler(MemoryEventStore(self.clock), self.clock, SystemIds())
        self.seq = 0
        self.late: set[int] = set()
        self.folded: JobState | None = None
        created = e.JobCreated(
            root_job_id=JOB,
            index=0,
            count=1,
            title="t",
            task_type="task",
            role=role,
            priority=priority,
            max_attempts=attempts,
            depends_on=[JOB] * deps,
            run_at=None if delay is None else rfc3339(self.clock.now() + timedelta(seconds=delay)),
        )
        [event] = decide(None, c.CreateJob(created), now=self.clock.now())
        state = job_state.from_json(job_state.to_json(self._evolved(event)))
        assert state is not None
        append = self.handler.seal(1, JOB, event, state, Caller("anonymous", "x", "x"), expected_seq=0)
        self.head = JobHead(1, JOB, 0, state)
        self._committed(event, append.body)
        self.head = JobHead(1, JOB, self.seq, state)

    def _evolved(self, event: e.JobEvent) -> JobState:
        from aura.domain.job import evolve

        return evolve(self.folded, event)

    def _committed(self, event: e.JobEvent, body: bytes) -> None:
        self.seq += 3
        typed, flat = envelope.unseal(body)
        assert typed == event
        self.folded = step(self.folded, typed, flat, self.seq)
        carried = job_state.from_json(flat["state"])
        assert carried is not None
        assert len(orjson.dumps(flat["state"])) <= MAX_STATE_BYTES
        assert job_state.placed(carried, self.seq) == self.folded
        self.carried = carried

    def ask(self, command: c.JobCommand, key: str | None = None) -> None:
        """Ask, and judge the answer."""
        before = self.head.state
        try:
            events = decide(before, command, now=self.clock.now())
        except Refused:
            return
        assert len(events) <= 1
        for event in events:
            use = KeyUse(key, "b" * 11) if key is not None else None
            append, state = self.handler.prepare(self.head, event, Caller("anonymous", "x", "x"), use)
            self._committed(event, append.body)
            self.head = self.handler.committed(self.head, event, state, self.seq).head
            self._judge(before, self.head.state, event)

    def _judge(self, before: JobState, after: JobState, event: e.JobEvent) -> None:
        if after.status is not before.status:
            assert (before.status, after.status) in LEGAL
        if before.status.closed and not after.status.closed:
            assert isinstance(event, e.JobRetried | e.JobRejected)
        assert after.attempt == before.attempt + isinstance(event, e.JobClaimed)
        if isinstance(event, e.JobCompleted | e.JobSubmitted | e.JobStageChanged | e.JobReleased | e.JobLeaseExpired):
            assert before.status is S.IN_PROGRESS
            assert event.attempt == before.attempt
        if isinstance(event, e.JobLateResultRejected):
            assert after.status is before.status
            assert event.attempt not in self.late
            self.late.add(event.attempt)
        if isinstance(event, e.JobClaimed) and before.status is S.QUEUED and before.not_before is not None:
            assert parse_rfc3339(before.not_before) <= self.clock.now()
        if before.purge is not Purge.NONE:
            assert after.status is before.status
        if isinstance(event, e.ArchivePurgeRequested):
            assert before.status.closed
            assert before.status is not S.SUBMITTED
            assert not before.held
            assert parse_rfc3339(str(before.retention_until)) <= self.clock.now()
        if isinstance(event, e.ArchivePurged):
            assert before.purge is Purge.REQUESTED

    @invariant()
    def bounded(self) -> None:
        if not hasattr(self, "head"):
            return
        state = self.head.state
        assert state.spent <= state.max_attempts
        assert (state.retention_until is not None) == state.status.closed
        assert (state.lease_ttl_s is not None) == (state.status is S.IN_PROGRESS)
        assert state == self.folded

    # ------------------------------------------------------------ time, and a process that reads the head anew

    @rule(seconds=st.floats(-7_200, 7_200))
    def time_passes_or_jumps(self, seconds: float) -> None:
        self.clock.jump(seconds)

    @rule()
    def reload(self) -> None:
        self.head = JobHead(1, JOB, self.seq, job_state.placed(self.carried, self.seq))

    # ------------------------------------------------------------ commands

    @rule(model=NAMES, override=st.booleans(), reoffer=st.booleans())
    def assign(self, model: str, override: bool, reoffer: bool) -> None:
        chosen = self.head.state.model or model if reoffer else model
        self.ask(c.AssignJob(chosen, e.AssignReason(policy="role"), 1, override, reoffer))

    @rule()
    def unassign(self) -> None:
        self.ask(c.UnassignJob("model_offline"))

    @rule(
        worker=NAMES,
        met=st.booleans(),
        pool=st.one_of(st.none(), NAMES),
        key=st.one_of(st.none(), st.text("xyz-_", min_size=11, max_size=11)),
    )
    def claim(self, worker: str, met: bool, pool: str | None, key: str | None) -> None:
        before = self.head.state
        self.ask(c.ClaimJob(worker, 10.0, "fallback", met, pool is not None, pool), key)
        if pool is not None and self.head.state.attempt > before.attempt:
            assert before.model == pool

    @rule(worker=NAMES)
    def claim_the_offer(self, worker: str) -> None:
        self.ask(c.ClaimJob(worker, 10.0, "fallback", True, True, self.head.state.model))

    @rule(attempt=ATTEMPTS, key=st.one_of(st.none(), st.text("xyz-_", min_size=11, max_size=11)))
    def stage(self, attempt: int | None, key: str | None) -> None:
        self.ask(c.ChangeStage("build", "done", attempt), key)

    @rule(attempt=ATTEMPTS, success=st.booleans(), retention=SECONDS, key=st.one_of(st.none(), st.just("k" * 11)))
    def complete(self, attempt: int | None, success: bool, retention: float, key: str | None) -> None:
        self.ask(c.CompleteJob(success, retention, attempt), key)

    @rule(attempt=ATTEMPTS, retryable=st.booleans(), wait=SECONDS)
    def fail(self, attempt: int | None, retryable: bool, wait: float) -> None:
        self.ask(c.FailJob("x", retryable, 60, wait, attempt))

    @rule()
    def fail_waiting(self) -> None:
        self.ask(c.FailWaitingJob("queue_timeout", 60))

    @rule(attempt=st.integers(0, 12), wait=SECONDS)
    def expire(self, attempt: int, wait: float) -> None:
        self.ask(c.ExpireLease(attempt, 60, wait))

    @rule(wait=SECONDS)
    def expire_current(self, wait: float) -> None:
        self.ask(c.ExpireLease(self.head.state.attempt, 60, wait))

    @rule(attempt=ATTEMPTS, delay=SECONDS)
    def release(self, attempt: int | None, delay: float) -> None:
        self.ask(c.ReleaseJob(attempt, delay))

    @rule(command=st.sampled_from((
        c.CancelJob("user:a", 60), c.RetryJob("user:a"), c.AcceptJob("user:a"), c.RejectJob("user:a", 60),
        c.HoldArchive("user:a"), c.ReleaseHold("user:a"), c.RequestPurge("user:a", "x"), c.RecordPurge("user:a", 1, ("content",)),
    )), key=st.one_of(st.none(), st.text("xyz-_", min_size=11, max_size=11)))  # fmt: skip
    def operate(self, command: Any, key: str | None) -> None:
        self.ask(command, key)

    @rule(priority=st.integers(0, 9))
    def reprioritize(self, priority: int) -> None:
        self.ask(c.ReprioritizeJob("user:a", priority))


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
