"""The session decider: every command in every state, then the arrows and the limits."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from aura.domain import session as s
from aura.errors import Conflict, Fenced
from aura.events import catalogue as e

NOW = datetime(2026, 3, 1, tzinfo=UTC)
JOB = "00000000-0000-7000-8000-000000000001"
OTHER = "00000000-0000-7000-8000-000000000002"
STARTED = e.SessionStarted(workflow="retail", job_id=JOB, attempt=1)


def given(*events: e.SessionEvent) -> s.SessionState:
    state: s.SessionState | None = None
    for event in events:
        state = s.evolve(state, event)
    assert state is not None
    return state


def agent_started(attempt: int = 1, agent: str = "a") -> e.SessionAgentStarted:
    return e.SessionAgentStarted(agent=agent, attempt=attempt)


DONE = e.SessionAgentCompleted(agent="a", attempt=1, duration_ms=5)
STATES: dict[str, s.SessionState | None] = {
    "none": None,
    "running": given(STARTED),
    "agent": given(STARTED, agent_started()),
    "agent_done": given(STARTED, agent_started(), DONE),
    "completed": given(STARTED, e.SessionCompleted()),
    "failed": given(STARTED, e.SessionFailed(error_code="x", message="m")),
    "cancelled": given(STARTED, e.SessionCancelled(by="user:a")),
}
COMMANDS: dict[str, s.SessionCommand] = {
    "start": s.StartSession(JOB, "retail", 1),
    "start_later": s.StartSession(JOB, "retail", 2),
    "start_other": s.StartSession(OTHER, "retail", 1),
    "agent_start": s.StartAgent(JOB, 1, "a"),
    "agent_complete": s.CompleteAgent(JOB, 1, "a", 5),
    "agent_fail": s.FailAgent(JOB, 1, "a", "x", "m"),
    "complete": s.CompleteSession(),
    "fail": s.FailSession("x", "m"),
    "cancel": s.CancelSession("user:a"),
}
#: ``-`` already so, ``!`` refused.
TABLE: dict[str, tuple[str, ...]] = {
    # none, running, agent, agent_done, completed, failed, cancelled
    "start": ("session.started", "-", "-", "-", "!", "!", "!"),
    "start_later": ("session.started", "-", "-", "-", *["session.started"] * 3),
    "start_other": ("session.started", *["!"] * 6),
    "agent_start": ("!", "session.agent_started", "-", "session.agent_started", "!", "!", "!"),
    "agent_complete": ("!", "!", "session.agent_completed", "-", "!", "!", "!"),
    "agent_fail": ("!", "!", "session.agent_failed", "!", "!", "!", "!"),
    "complete": ("!", *["session.completed"] * 3, "-", "!", "!"),
    "fail": ("!", *["session.failed"] * 3, "!", "-", "!"),
    "cancel": ("!", *["session.cancelled"] * 3, "!", "!", "-"),
}


@pytest.mark.parametrize("status", STATES)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_every_state(name: str, status: str) -> None:
    expected = TABLE[name][list(STATES).index(status)]
    if expected == "!":
        with pytest.raises(Conflict):
            s.decide(STATES[status], COMMANDS[name], now=NOW)
        return
    events = s.decide(STATES[status], COMMANDS[name], now=NOW)
    assert [event.TYPE for event in events] == ([] if expected == "-" else [expected])


def test_the_table_is_exhaustive() -> None:
    assert {type(command) for command in COMMANDS.values()} == set(s.SessionCommand.__args__)  # type: ignore[attr-defined]
    reached = {cell for row in TABLE.values() for cell in row} - {"!", "-"}
    assert reached == {event.TYPE for event in e.SessionEvent.__args__}  # type: ignore[attr-defined]


def test_the_arrows() -> None:
    assert given(STARTED) == s.SessionState(s.SessionStatus.RUNNING, JOB, "retail", 1)
    assert given(STARTED, agent_started()).agent("a") is s.AgentStatus.RUNNING
    assert given(STARTED, agent_started(), DONE).agent("a") is s.AgentStatus.COMPLETED
    failed = e.SessionAgentFailed(agent="a", attempt=1, error_code="x", message="m")
    assert given(STARTED, agent_started(), failed).agent("a") is s.AgentStatus.FAILED
    assert given(STARTED, e.SessionCompleted()).status is s.SessionStatus.COMPLETED
    assert given(STARTED, e.SessionFailed(error_code="x")).status is s.SessionStatus.FAILED
    assert given(STARTED, e.SessionCancelled(by="user:a")).status is s.SessionStatus.CANCELLED


def test_a_session_that_was_only_submitted_has_no_attempt_until_a_worker_reports() -> None:
    state = given(e.SessionStarted(workflow="retail", job_id=JOB))
    assert state.attempt == 0
    assert s.evolve(state, agent_started()).attempt == 1


def test_a_later_attempt_begins_without_agents_and_fences_the_earlier_one_G6() -> None:
    state = s.evolve(given(STARTED, agent_started(), agent_started(agent="b")), agent_started(attempt=2))
    assert state.agents == (("a", s.AgentStatus.RUNNING),)
    for late in (s.StartAgent(JOB, 1, "a"), s.CompleteAgent(JOB, 1, "b", 1), s.FailAgent(JOB, 1, "b", "x", "m")):
        with pytest.raises(Fenced):
            s.decide(state, late, now=NOW)
    with pytest.raises(Fenced):
        s.decide(state, s.StartSession(JOB, "retail", 1), now=NOW)


def test_a_retried_job_starts_its_session_again() -> None:
    ended = given(STARTED, agent_started(), e.SessionFailed(error_code="x"))
    (event,) = s.decide(ended, s.StartSession(JOB, "retail", 2), now=NOW)
    again = s.evolve(ended, event)
    assert (again.status, again.attempt, again.agents) == (s.SessionStatus.RUNNING, 2, ())


def test_another_jobs_reports_are_refused() -> None:
    with pytest.raises(Conflict, match="another job"):
        s.decide(given(STARTED), s.StartAgent(OTHER, 1, "a"), now=NOW)


def test_the_carried_state_fits_and_too_many_agents_are_refused_G12() -> None:
    state = given(STARTED)
    for number in range(10):
        (event,) = s.decide(state, s.StartAgent(JOB, 1, f"agent_with_a_long_name_{number:03}"), now=NOW)
        state = s.evolve(state, event)
    with pytest.raises(Conflict, match="too many agents"):
        s.decide(state, s.StartAgent(JOB, 1, "x" * 64), now=NOW)
    assert len(orjson.dumps(s.to_json(state))) <= s.MAX_STATE_BYTES
    assert s.decide(state, s.CompleteAgent(JOB, 1, "agent_with_a_long_name_000", 1), now=NOW)


def test_a_session_ends_however_many_events_it_has_G12() -> None:
    full = given(STARTED)
    while True:
        try:
            events = s.decide(full, s.StartAgent(JOB, 1, "a"), now=NOW)
            events = events or s.decide(full, s.CompleteAgent(JOB, 1, "a", 1), now=NOW)
        except Conflict:
            break
        full = s.evolve(full, events[0])
    assert full.count == s.MAX_EVENTS * 9 // 10
    assert s.decide(full, s.CompleteSession(), now=NOW)


def test_the_carried_form_round_trips() -> None:
    for state in STATES.values():
        if state is not None:
            assert s.from_json(orjson.loads(orjson.dumps(s.to_json(state)))) == state
            assert s.from_json({**s.to_json(state), "v": 99}) is None


def test_history_that_does_not_begin_at_the_beginning_still_folds() -> None:
    for event in (agent_started(), DONE, e.SessionCompleted()):
        assert s.evolve(None, event).count == 1
