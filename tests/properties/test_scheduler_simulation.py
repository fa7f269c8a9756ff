"""Deterministic simulation of schedulers, leases and workers over the real planner, handler and deciders (G6, G7, G8, G9, G10).

Each seed is one schedule: who runs when, what is lost, doubled or late, who dies, whose clock jumps by an hour, who believes to lead.
``AURA_SIM_SEED=n`` replays one schedule, ``AURA_SIM_SCHEDULES=n`` runs another number of them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from aura.commands import handler
from aura.commands.heads import step
from aura.domain import job, job_state
from aura.domain import job_commands as c
from aura.events import catalogue as e
from aura.events import envelope
from aura.log.memory import MemoryEventStore
from aura.log.store import Append, Recorded
from aura.scheduler import rounds
from aura.scheduler.planner import Planner
from tests.properties.simulation.checker import Violation
from tests.properties.simulation.world import World

SCHEDULES = int(os.environ.get("AURA_SIM_SCHEDULES", "2000"))
GROUPS = 8


def seeds(group: int) -> Sequence[int]:
    return range(group, SCHEDULES, GROUPS)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", range(GROUPS))
def test_g6_to_g10_hold_in_every_schedule(group: int, record_property: Any) -> None:
    if "AURA_SIM_SEED" in os.environ:
        World(int(os.environ["AURA_SIM_SEED"])).run()
        return
    began = time.perf_counter()
    kinds: Counter[str] = Counter()
    judged = 0
    for seed in seeds(group):
        world = World(seed).run()
        judged += world.rounds_judged
        kinds.update(
            recorded.subject.split(".")[4] for recorded in world.events if recorded.subject.startswith("aura.job.")
        )
        if seed % 5 == 0:
            fold_equals_carried(world.events, seed)
    took = time.perf_counter() - began
    print(f"{len(seeds(group))} schedules, {len(seeds(group)) / took:.0f}/s, {judged} rounds judged, {dict(kinds)}")
    record_property("schedules_per_s", len(seeds(group)) / took)
    if len(seeds(group)) >= 100:  # the simulation really goes where it hurts
        for kind in (
            "lease_expired",
            "late_result_rejected",
            "cancelled",
            "failed",
            "released",
            "unassigned",
            "retried",
        ):
            assert kinds[kind] > 0, kind
        assert judged > 50


def fold_equals_carried(events: Sequence[Recorded], seed: int) -> None:
    """For every event of every job: folding the history gives the state that the event carries (G8)."""
    states: dict[str, job_state.JobState] = {}
    for recorded in events:
        if recorded.subject.startswith("aura.job."):
            event, flat = envelope.unseal(recorded.body, seq=recorded.seq, subject=recorded.subject)
            job_id = flat["job_id"]
            states[job_id] = step(states.get(job_id), event, flat, recorded.seq)
            carried = job_state.from_json(flat["state"])
            assert carried is not None
            assert job_state.placed(carried, recorded.seq) == states[job_id], f"seed {seed}, sequence {recorded.seq}"


def test_a_seed_replays_the_same_log() -> None:
    first, second = World(7).run(), World(7).run()
    assert [recorded.body for recorded in first.events] == [recorded.body for recorded in second.events]


# ---------------------------------------------------------------- mutation: without the fence the checker must go red


def caught(make_world: Any = World, most: int = 300) -> Violation | None:
    """The first violation among the schedules, if any."""
    for seed in range(most):
        try:
            make_world(seed).run()
        except Violation as violation:
            return violation
        except RuntimeError:
            continue  # the mutant broke the machinery itself: not what we look for
    return None


class UnguardedStore(MemoryEventStore):
    """A log that does not look at expected sequences."""

    def _store(self, appends: Sequence[Append]) -> list[int]:
        for append in appends:
            if append.event_id in self._by_id:
                return [self._by_id[a.event_id] for a in appends]
        return [self._store_one(append) for append in appends]


def test_g9_mutation_a_log_without_guards_is_caught() -> None:
    violation = caught(lambda seed: World(seed, make_store=UnguardedStore))
    assert violation is not None
    assert "AURA_SIM_SEED=" in str(violation)


def test_g6_mutation_a_decider_that_accepts_stale_attempts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def gullible(state: Any, command: Any, *, now: Any) -> list[e.JobEvent]:
        if isinstance(command, c.CompleteJob) and command.success and command.attempt is not None:
            return [e.JobCompleted(attempt=command.attempt, retention_until="2030-01-01T00:00:00.000000Z")]
        return job.decide(state, command, now=now)

    monkeypatch.setattr(handler, "decide", gullible)
    assert "G6" in str(caught())


def test_g7_mutation_a_planner_that_forgets_leases_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_overdue", lambda *args: None)
    assert "G7" in str(caught(most=60))


def test_mutation_a_planner_that_ignores_dependencies_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planner, "_wait_for", lambda self, row, unmet: None)
    assert "dependency" in str(caught())


def test_mutation_a_planner_that_ignores_priority_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from aura.scheduler import ready

    monkeypatch.setattr(ready, "_place", lambda row: 9 - row.state.priority)
    assert "priority" in str(caught())


def test_mutation_a_planner_that_ignores_concurrency_keys_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from aura.scheduler.ready import ConcurrencyKeys

    monkeypatch.setattr(ConcurrencyKeys, "busy", lambda self, key: False)
    monkeypatch.setattr(ConcurrencyKeys, "first_holder", lambda self, key: None)
    assert "concurrency key" in str(caught(most=1_500))
