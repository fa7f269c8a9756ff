"""The model decider: every command in every state, then the arrows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from aura.domain import model as m
from aura.errors import Conflict
from aura.events import catalogue as e

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REGISTERED = e.ModelRegistered(roles=["Employee"], slots=2)


def given(*events: e.ModelEvent) -> m.ModelState:
    state: m.ModelState | None = None
    for event in events:
        state = m.evolve(state, event)
    assert state is not None
    return state


STATES: dict[str, m.ModelState | None] = {
    "none": None,
    "registered": given(REGISTERED),
    "online": given(REGISTERED, e.ModelOnline()),
    "degraded": given(REGISTERED, e.ModelDegraded(reason="x")),
    "offline": given(REGISTERED, e.ModelOnline(), e.ModelOffline(reason="x")),
    "paused": given(REGISTERED, e.ModelOnline(), e.ModelPaused(by="user:a")),
}
COMMANDS: dict[str, m.ModelCommand] = {
    "register": m.RegisterModel(2, ("Employee",)),
    "register_other": m.RegisterModel(3, ("Employee",)),
    "online": m.ReportOnline(),
    "degraded": m.ReportDegraded("x"),
    "offline": m.ReportOffline("x", "2026-01-01T00:00:00.000000Z"),
    "pause": m.PauseModel("user:a"),
    "resume": m.ResumeModel("user:a"),
}
TABLE: dict[str, tuple[str, ...]] = {
    "register": ("model.registered", "-", "-", "-", "-", "-"),
    "register_other": ("model.registered",) * 6,
    "online": ("!", "model.online", "-", "model.online", "model.online", "-"),
    "degraded": ("!", "model.degraded", "model.degraded", "-", "model.degraded", "model.degraded"),
    "offline": ("!", "-", "model.offline", "model.offline", "-", "model.offline"),
    "pause": ("!", *["model.paused"] * 4, "-"),
    "resume": ("!", *["-"] * 4, "model.resumed"),
}


@pytest.mark.parametrize("status", STATES)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_every_state(name: str, status: str) -> None:
    expected = TABLE[name][list(STATES).index(status)]
    if expected == "!":
        with pytest.raises(Conflict):
            m.decide(STATES[status], COMMANDS[name], now=NOW)
        return
    events = m.decide(STATES[status], COMMANDS[name], now=NOW)
    assert [event.TYPE for event in events] == ([] if expected == "-" else [expected])


def test_the_table_is_exhaustive() -> None:
    assert {type(command) for command in COMMANDS.values()} == set(m.ModelCommand.__args__)  # type: ignore[attr-defined]
    reached = {cell for row in TABLE.values() for cell in row} - {"!", "-"}
    assert reached == {event.TYPE for event in e.ModelEvent.__args__}  # type: ignore[attr-defined]


def test_the_arrows() -> None:
    assert given(REGISTERED) == m.ModelState(m.ModelStatus.REGISTERED, 2, ("Employee",))
    assert given(REGISTERED, e.ModelOnline()).status is m.ModelStatus.ONLINE
    assert given(REGISTERED, e.ModelOnline(), e.ModelDegraded(reason="x")).status is m.ModelStatus.DEGRADED
    assert given(REGISTERED, e.ModelOnline(), e.ModelOffline(reason="x")).status is m.ModelStatus.OFFLINE
    back = given(REGISTERED, e.ModelOnline(), e.ModelOffline(reason="x"), e.ModelOnline())
    assert back.status is m.ModelStatus.ONLINE


def test_a_pause_outlives_changes_of_health_and_a_new_registration() -> None:
    paused = given(REGISTERED, e.ModelOnline(), e.ModelPaused(by="user:a"))
    for event in (e.ModelOffline(reason="x"), e.ModelOnline(), e.ModelRegistered(slots=9)):
        paused = m.evolve(paused, event)
        assert paused.paused
    assert not m.evolve(paused, e.ModelResumed(by="user:a")).paused


def test_the_carried_form_round_trips() -> None:
    for state in STATES.values():
        if state is not None:
            assert m.from_json(m.to_json(state)) == state
            assert m.from_json({**m.to_json(state), "v": 99}) is None
