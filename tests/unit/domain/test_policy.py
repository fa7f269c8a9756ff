"""The scheduling policy: capacity, choice, and the explanation that shares its predicates with the plan."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aura.clock import rfc3339
from aura.domain import policy
from aura.domain.job_state import JobStatus
from aura.domain.policy import DependencyView, JobView, ModelView, explain
from aura.domain.roles import RoleModels

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ROLES = RoleModels("alpha", {"Employee": "alpha"})
JOB = JobView(JobStatus.QUEUED, "Employee", ROLES)


def pool(**facts: Any) -> ModelView:
    return ModelView(**{"name": "alpha", "seen": True, "slots": 4, **facts})


@pytest.mark.parametrize(
    ("facts", "room", "obstacle"),
    [
        ({}, 4, None),
        ({"busy": 3}, 1, None),
        ({"busy": 4}, 1, None),  # one may wait in front of a full pool
        ({"busy": 4, "unclaimed": 1}, 0, policy.Obstacle.FULL),
        ({"busy": 9, "unclaimed": 5}, -4, policy.Obstacle.FULL),
        ({"paused": True}, 0, policy.Obstacle.PAUSED),
        ({"slots": 0}, 0, policy.Obstacle.OFFLINE),
        ({"slots": 0, "paused": True}, 0, policy.Obstacle.PAUSED),
        ({"slots": 0, "seen": False}, 100, None),
        ({"slots": 0, "seen": False, "unclaimed": 100}, 0, policy.Obstacle.UNSEEN_FULL),
    ],
)
def test_room_and_its_obstacles(facts: dict[str, Any], room: int, obstacle: policy.Obstacle | None) -> None:
    assert policy.room(pool(**facts)) == room
    assert policy.obstacle(pool(**facts)) is obstacle


def test_candidates_begin_with_the_mapped_model() -> None:
    roles = RoleModels("m", {"Named": "m"})
    assert policy.candidates("Named", roles, ["b", "m", "a"]) == ("m", "a", "b")
    assert policy.candidates("Other", roles, ["b", "a"]) == ("a", "b"), "what is left of the roles is for nobody else's"
    assert policy.candidates("Other", roles, []) == ("m",)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"busy": 4}),  # a free slot before none
        ({}, {"degraded": True}),
        ({"degraded": True}, {"slots": 0, "seen": False}),
        ({}, {"succeeded": 5, "failed": 5}),
        ({"latency_s": 1.0}, {"latency_s": 30.0}),
        ({"slots": 8}, {}),
        ({"busy": 4}, {"paused": True}),
    ],
)
def test_the_better_pool_is_chosen_wherever_it_stands(better: dict[str, Any], worse: dict[str, Any]) -> None:
    good, bad = pool(**{**better, "name": "good"}), pool(**{**worse, "name": "bad"})
    for pools in ([good, bad], [bad, good]):
        chosen = policy.choose(pools)
        assert chosen is not None
        assert chosen[0] is good
        assert [text.split(":")[0] for text in chosen[1].rejected] == ["bad"]
        assert chosen[1].policy == policy.BEST_POLICY


def test_nothing_is_chosen_when_all_are_shut() -> None:
    assert policy.choose([pool(paused=True), pool(slots=0)]) is None


def test_a_full_pool_is_waited_for_rather_than_one_that_nobody_ever_served() -> None:
    full, imagined = pool(name="full", busy=4, unclaimed=1), pool(name="imagined", slots=0, seen=False)
    assert policy.choose([full, imagined]) is None
    assert policy.choose([pool(name="gone", slots=0), imagined]) is not None


def test_a_score_lies_between_nothing_and_one() -> None:
    assert policy.score(pool()) == 1.0
    assert 0.0 <= policy.score(pool(failed=1_000, latency_s=9_999.0, degraded=True)) < 0.01


def test_heartbeats_count_three_intervals_or_five_minutes() -> None:
    assert (policy.heartbeat_counts_s(10.0), policy.heartbeat_counts_s(None)) == (30.0, 300.0)


# ---------------------------------------------------------------- explain


def codes(job: JobView, models: list[ModelView], deps: dict[str, DependencyView] | None = None) -> list[str]:
    return [reason["code"] for reason in explain(job, {model.name: model for model in models}, deps or {}, NOW)]


def queued(**facts: Any) -> JobView:
    return JobView(JobStatus.QUEUED, "Employee", ROLES, **facts)


def test_a_ready_job_says_so() -> None:
    assert codes(queued(), [pool()]) == ["ready"]


def test_each_obstacle_of_a_queued_job_is_named_with_the_event_it_rests_on() -> None:
    later = rfc3339(NOW + timedelta(seconds=5))
    job = queued(not_before=later, concurrency_key="k", key_holder="J9", seq=7)
    deps = {
        "J1": DependencyView(JobStatus.IN_PROGRESS, 11),
        "J2": DependencyView(JobStatus.FAILED, 12),
        "J3": DependencyView(JobStatus.COMPLETED, 13),
        "J4": DependencyView(JobStatus.SUBMITTED, 14),
    }
    found = explain(job, {"alpha": pool(slots=0, since="yesterday", seq=20)}, deps, NOW)
    assert [(reason["code"], reason.get("seq")) for reason in found] == [
        ("waits_for_dependency", 11),
        ("dependency_failed", 12),
        ("waits_for_dependency", 14),
        ("not_due", 7),
        ("concurrency_key_busy", None),
        ("model_offline", 20),
    ]
    assert found[-1]["text"] == "model alpha is offline since yesterday"
    assert found[3]["text"] == f"not due before {later}"


def test_full_paused_and_never_seen_pools() -> None:
    [full] = explain(queued(), {"alpha": pool(busy=4, unclaimed=1)}, {}, NOW)
    assert (full["code"], full["text"]) == ("pool_full", "pool alpha is full: 4 of 4 slots busy, 1 jobs assigned")
    assert codes(queued(), [pool(paused=True)]) == ["model_paused"]
    assert codes(queued(), [pool(slots=0, seen=False, unclaimed=100)]) == ["pool_unseen_full"]
    assert codes(queued(), []) == ["ready"]  # a mapped model that was never seen is still given work


def test_any_declared_model_with_room_makes_a_job_ready() -> None:
    other = ModelView("beta", roles=("Employee",), seen=True, slots=1)
    assert codes(queued(), [pool(paused=True), other]) == ["ready"]
    shut = ModelView("beta", roles=("Employee",), seen=True)
    assert codes(queued(), [pool(paused=True), shut]) == ["model_paused", "model_offline"]


def test_an_assigned_job_waits_for_a_claim() -> None:
    job = JobView(JobStatus.ASSIGNED, "Employee", ROLES, model="alpha")
    assert codes(job, [pool()]) == ["waits_for_claim"]
    assert codes(job, [pool(slots=0)]) == ["waits_for_claim", "model_offline"]
    assert codes(job, [pool(busy=4)]) == ["waits_for_claim", "pool_full"]
    assert codes(job, []) == ["waits_for_claim", "model_never_seen"]


def test_every_status_has_an_explanation() -> None:
    for status in JobStatus:
        found = explain(JobView(status, "Employee", ROLES, attempt=2, worker="w"), {}, {}, NOW)
        assert found
        assert all(reason["code"] and reason["text"] for reason in found)


@pytest.mark.parametrize("slots", [0, 2])
@pytest.mark.parametrize("busy", [0, 2])
@pytest.mark.parametrize("unclaimed", [0, 1, 100])
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("paused", [True, False])
def test_explain_says_ready_exactly_when_the_plan_would_assign(
    slots: int, busy: int, unclaimed: int, seen: bool, paused: bool
) -> None:
    view = pool(slots=slots, busy=busy, unclaimed=unclaimed, seen=seen or slots > 0, paused=paused)
    assert (codes(queued(), [view]) == ["ready"]) == (policy.choose([view]) is not None)
