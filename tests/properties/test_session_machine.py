"""A state machine over the session decider: what ended says nothing, attempts only rise, the fold equals what is carried."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aura.domain import session as s
from aura.errors import Conflict
from aura.events import catalogue as e

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOBS = ("00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002")
jobs = st.sampled_from((JOBS[0], JOBS[0], JOBS[0], JOBS[1]))
attempts = st.integers(1, 4)
names = st.sampled_from("abc")
commands = st.one_of(
    st.builds(s.StartSession, jobs, st.just("w"), st.integers(0, 4)),
    st.builds(s.StartAgent, jobs, attempts, names),
    st.builds(s.CompleteAgent, jobs, attempts, names, st.integers(0, 9)),
    st.builds(s.FailAgent, jobs, attempts, names, st.just("x"), st.just("m")),
    st.sampled_from((s.CompleteSession(), s.FailSession("x", "m"), s.CancelSession("user:a"))),
)


class SessionMachine(RuleBasedStateMachine):
    """One session, and whoever talks to it."""

    def __init__(self) -> None:
        super().__init__()
        self.state: s.SessionState | None = None
        self.history: list[e.SessionEvent] = []

    @rule(command=commands)
    def ask(self, command: s.SessionCommand) -> None:
        before = self.state
        try:
            events = s.decide(before, command, now=NOW)
        except Conflict:
            return
        assert len(events) <= 1
        for event in events:
            self.history.append(event)
            self.state = after = s.evolve(before, event)
            if before is None:
                assert isinstance(event, e.SessionStarted)
                continue
            assert after.job_id == before.job_id
            assert after.attempt >= before.attempt
            if before.status.ended:
                assert isinstance(event, e.SessionStarted)
                assert after.attempt > before.attempt
            if isinstance(event, e.SessionAgentCompleted | e.SessionAgentFailed):
                assert before.agent(event.agent) is s.AgentStatus.RUNNING
        if events and not isinstance(command, s.StartSession):
            assert s.decide(self.state, command, now=NOW) == []  # saying it again changes nothing

    @invariant()
    def folded_equals_carried(self) -> None:
        folded: s.SessionState | None = None
        for event in self.history:
            folded = s.evolve(folded, event)
        assert folded == self.state
        if folded is not None:
            carried = orjson.dumps(s.to_json(folded))
            assert len(carried) <= s.MAX_STATE_BYTES
            assert s.from_json(orjson.loads(carried)) == folded


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
