"""A state machine over the model decider: health moves along the diagram, a pause outlives everything, the fold equals what is carried."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aura.domain import model as m
from aura.errors import Conflict
from aura.events import catalogue as e

NOW = datetime(2026, 1, 1, tzinfo=UTC)
S = m.ModelStatus
LEGAL = {
    (S.REGISTERED, S.ONLINE), (S.REGISTERED, S.DEGRADED), (S.ONLINE, S.DEGRADED), (S.DEGRADED, S.ONLINE),
    (S.ONLINE, S.OFFLINE), (S.DEGRADED, S.OFFLINE), (S.OFFLINE, S.ONLINE), (S.OFFLINE, S.DEGRADED),
}  # fmt: skip


class ModelMachine(RuleBasedStateMachine):
    """One model."""

    def __init__(self) -> None:
        super().__init__()
        self.state: m.ModelState | None = None
        self.history: list[e.ModelEvent] = []

    @rule(
        command=st.one_of(
            st.builds(m.RegisterModel, st.integers(1, 64), st.lists(st.sampled_from("abc"), max_size=3).map(tuple)),
            st.sampled_from((
                m.ReportOnline(), m.ReportDegraded("x"), m.ReportOffline("x"), m.PauseModel("user:a"), m.ResumeModel("user:a"),
            )),
        )
    )  # fmt: skip
    def ask(self, command: m.ModelCommand) -> None:
        before = self.state
        try:
            events = m.decide(before, command, now=NOW)
        except Conflict:
            assert before is None
            return
        assert len(events) <= 1
        for event in events:
            self.history.append(event)
            self.state = after = m.evolve(before, event)
            assert after != before or isinstance(event, e.ModelRegistered)
            if before is not None and before.status is not after.status:
                assert (before.status, after.status) in LEGAL
            if before is not None and before.paused != after.paused:
                assert isinstance(event, e.ModelPaused | e.ModelResumed)
        if self.state is not None:
            assert m.decide(self.state, command, now=NOW) == []  # saying it again changes nothing

    @invariant()
    def folded_equals_carried(self) -> None:
        folded: m.ModelState | None = None
        for event in self.history[-50:] if len(self.history) <= 50 else self.history:
            folded = m.evolve(folded, event)
        assert folded == self.state
        if folded is not None:
            assert m.from_json(orjson.loads(orjson.dumps(m.to_json(folded)))) == folded


TestModelMachine = ModelMachine.TestCase
TestModelMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
