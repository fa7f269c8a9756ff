"""The planner's rules one by one (G6, G7, G10; DECISIONS.md, Pools, Leases, Dependencies)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aura.domain import job_commands as c
from aura.domain import model as m
from aura.domain.job_state import JobStatus
from aura.events.catalogue import AssignReason
from aura.scheduler.agenda import EVENT_LIMIT
from aura.scheduler.rows import Fate, JobDecision, ModelDecision
from aura.scheduler.snapshot import FoldedSnapshot
from tests.support.scheduling import Bench


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.lead()
    return made


# ---------------------------------------------------------------- order


async def test_priority_decides_then_first_come_first_served(bench: Bench) -> None:
    bench.beat(slots=10)
    await bench.submit(1, 2)
    await bench.submit(3, priority=0)
    await bench.submit(4, priority=9)
    assert bench.assigned(await bench.round()) == [3, 1, 2, 4]


async def test_projects_take_turns_within_a_priority(bench: Bench) -> None:
    bench.beat(slots=10)
    await bench.submit(1, 2, 3)
    await bench.submit(4, 5, project=2)
    await bench.submit(6, project=3)
    assert bench.assigned(await bench.round()) == [1, 4, 6, 2, 5, 3]


async def test_a_job_that_comes_back_keeps_its_place(bench: Bench) -> None:
    bench.beat()
    await bench.submit(1, 2)
    await bench.round()
    await bench.claim(1)
    await bench.round()
    await bench.ask(1, c.ReleaseJob(1))
    await bench.claim(2)
    await bench.submit(3)
    await bench.ask(2, c.CompleteJob(True, 60))
    assert bench.assigned(await bench.round()) == [1]


async def test_reprioritized_jobs_move(bench: Bench) -> None:
    bench.beat()
    await bench.submit(1, 2, 3)
    assert bench.assigned(await bench.round()) == [1]
    await bench.ask(3, c.ReprioritizeJob("user:a", 0))
    await bench.ask(2, c.ReprioritizeJob("user:a", 9))
    await bench.ask(2, c.ReprioritizeJob("user:a", 5))
    await bench.ask(1, c.CancelJob("user:a", 60))
    assert bench.assigned(await bench.round()) == [3]


async def test_lanes_that_share_a_pool_compete_by_priority(bench: Bench) -> None:
    await bench.model("beta", m.RegisterModel(1, ("Employee",)))
    bench.beat("beta", slots=1)
    await bench.model("alpha", m.RegisterModel(1))
    await bench.model("alpha", m.PauseModel("user:a"))
    await bench.submit(1, role="Validator", priority=3)
    await bench.submit(2, role="Employee", priority=1)
    assert bench.assigned(await bench.round()) == [2]


# ---------------------------------------------------------------- pools


async def test_unclaimed_jobs_are_at_most_the_free_slots_and_at_least_one(bench: Bench) -> None:
    bench.beat(slots=3)
    await bench.submit(*range(1, 9))
    assert bench.assigned(await bench.round()) == [1, 2, 3]
    for number in (1, 2, 3):
        await bench.claim(number)
    assert bench.assigned(await bench.round()) == [4]
    assert await bench.round() == []
    await bench.complete(1)
    assert bench.assigned(await bench.round()) == []
    await bench.complete(2)
    assert bench.assigned(await bench.round()) == [5]


async def test_capacity_is_the_sum_over_live_workers(bench: Bench) -> None:
    bench.beat(worker="a", slots=2)
    bench.beat(worker="b", slots=3)
    await bench.submit(*range(1, 9))
    assert len(bench.assigned(await bench.round())) == 5


async def test_a_never_seen_model_gets_at_most_a_hundred(bench: Bench) -> None:
    await bench.submit(*range(1, 121))
    assert len(bench.assigned(await bench.round())) == 100
    assert await bench.round() == []


async def test_an_offline_model_gets_nothing_new_and_gives_back_what_nobody_claimed(bench: Bench) -> None:
    await bench.model("alpha", m.RegisterModel(2))
    bench.beat(slots=2)
    await bench.submit(1, 2)
    await bench.settled()
    await bench.claim(1, ttl_s=100)
    await bench.hear()
    bench.clock.advance(31)
    await bench.settled()
    assert await bench.status(1) is JobStatus.IN_PROGRESS
    assert await bench.status(2) is JobStatus.QUEUED
    assert (await bench.models.load("alpha"))[1] == m.ModelState(m.ModelStatus.OFFLINE, 2)
    bench.beat(slots=2)
    await bench.settled()
    assert await bench.status(2) is JobStatus.ASSIGNED


async def test_a_paused_model_gets_nothing_new_and_gives_back_what_nobody_claimed(bench: Bench) -> None:
    await bench.model("alpha", m.RegisterModel())
    bench.beat()
    await bench.submit(1)
    await bench.settled()
    await bench.model("alpha", m.PauseModel("user:a"))
    await bench.settled()
    assert await bench.status(1) is JobStatus.QUEUED
    await bench.model("alpha", m.ResumeModel("user:a"))
    await bench.settled()
    assert await bench.status(1) is JobStatus.ASSIGNED


async def test_a_manual_assignment_ignores_offline_and_is_not_taken_back(bench: Bench) -> None:
    await bench.model("alpha", m.RegisterModel())
    bench.beat()
    await bench.settled()
    bench.clock.advance(31)
    await bench.submit(1)
    await bench.settled()
    await bench.ask(1, c.AssignJob("alpha", AssignReason(policy="manual"), override=True))
    await bench.settled()
    await bench.restart()
    await bench.settled()
    assert await bench.status(1) is JobStatus.ASSIGNED


async def test_a_worker_that_says_goodbye_or_drains_gets_nothing_new(bench: Bench) -> None:
    bench.beat(slots=2)
    bench.beat(status="draining", slots=2)
    await bench.submit(1)
    assert await bench.round() == []
    bench.beat(slots=2)
    assert bench.assigned(await bench.round()) == [1]
    bench.beat(status="offline")
    await bench.settled()
    assert await bench.status(1) is JobStatus.QUEUED


async def test_a_heartbeat_without_interval_counts_for_five_minutes(bench: Bench) -> None:
    bench.beat(worker="http", interval_s=None)
    bench.clock.advance(299)
    await bench.submit(1)
    assert bench.assigned(await bench.round()) == [1]
    await bench.claim(1)
    await bench.submit(2)
    bench.clock.advance(2)
    decisions = await bench.round()
    assert bench.assigned(decisions) == []


async def test_health_is_reported_when_it_changes(bench: Bench) -> None:
    await bench.model("alpha", m.RegisterModel())
    await bench.hear()

    async def reported() -> list[object]:
        return [d.command for d in await bench.round() if isinstance(d, ModelDecision)]

    bench.beat()
    assert await reported() == [m.ReportOnline()]
    bench.beat()
    assert await reported() == []
    bench.beat(status="overheating")
    assert await reported() == [m.ReportDegraded("workers report: overheating")]
    bench.beat(worker="w2")
    assert await reported() == [m.ReportOnline()]
    bench.clock.advance(60)
    [offline] = await reported()
    assert isinstance(offline, m.ReportOffline)
    assert offline.last_seen is not None


async def test_an_unregistered_models_health_is_reported_once_it_is_registered(bench: Bench) -> None:
    bench.beat()
    assert await bench.round() == []
    await bench.model("alpha", m.RegisterModel())
    assert bench.commands(await bench.round()) == ["ReportOnline"]


async def test_among_declared_models_the_healthier_and_freer_is_chosen_and_the_reason_says_why(bench: Bench) -> None:
    await bench.model("gamma", m.RegisterModel(4, ("Employee",)))
    bench.beat("gamma", slots=4, status="tired")
    bench.beat("alpha", slots=1)
    await bench.submit(1)
    decisions = [d for d in await bench.round() if isinstance(d, JobDecision)]
    command = decisions[0].command
    assert isinstance(command, c.AssignJob)
    assert command.model == "alpha"
    assert command.reason.policy == "best"
    assert command.reason.rejected == ("gamma: score 0.5",)
    await bench.submit(2)
    assert [d.command.model for d in await bench.round() if isinstance(d.command, c.AssignJob)] == ["gamma"]


async def test_a_new_declaration_moves_waiting_jobs(bench: Bench) -> None:
    await bench.model("alpha", m.RegisterModel())
    await bench.model("alpha", m.PauseModel("user:a"))
    await bench.submit(1, 2)
    await bench.submit(3, 4, concurrency_key="k")
    assert await bench.round() == []
    await bench.model("gamma", m.RegisterModel(9, ("Employee",)))
    bench.beat("gamma", slots=9)
    assert bench.assigned(await bench.round()) == [1, 2, 3]


# ---------------------------------------------------------------- time


async def test_a_delayed_job_waits_for_its_time(bench: Bench) -> None:
    bench.beat(slots=4)
    await bench.submit(1, run_in=60)
    assert await bench.round() == []
    assert bench.planner.next_deadline_s(bench.clock.now(), bench.now) == pytest.approx(30)  # the worker's heartbeat
    bench.clock.jump(60)
    assert bench.assigned(await bench.round()) == [1]


async def test_g7_an_expired_lease_queues_the_job_again_after_its_back_off(bench: Bench) -> None:
    bench.beat(slots=4, interval_s=1_000)
    await bench.submit(1)
    await bench.round()
    await bench.claim(1, ttl_s=10)
    await bench.round()
    bench.clock.advance(9.9)
    assert await bench.round() == []
    bench.clock.advance(0.1)
    assert bench.commands(await bench.round()) == ["ExpireLease"]
    assert await bench.status(1) is JobStatus.QUEUED
    assert await bench.round() == []
    bench.clock.advance(1.2)
    assert bench.assigned(await bench.round()) == [1]


async def test_g6_renewals_must_name_the_worker_and_the_attempt(bench: Bench) -> None:
    bench.beat(slots=4, interval_s=1_000)
    await bench.submit(1)
    await bench.round()
    await bench.claim(1, worker="w", ttl_s=10)
    await bench.round()
    bench.clock.advance(9)
    job_id = bench.job_id(1)
    assert not bench.planner.renew(job_id, 2, "w", bench.now)
    assert not bench.planner.renew(job_id, 1, "other", bench.now)
    assert not bench.planner.renew(bench.job_id(2), 1, "w", bench.now)
    assert bench.planner.renew(job_id, 1, "w", bench.now)
    bench.clock.advance(9)
    assert await bench.round() == []
    bench.beat(slots=4, interval_s=1_000, in_flight=[{"job_id": job_id, "attempt": 1}])
    bench.clock.advance(9)
    assert await bench.round() == []
    bench.clock.advance(1)
    assert bench.commands(await bench.round()) == ["ExpireLease"]


async def test_g10_a_jump_of_the_wall_clock_expires_nothing(bench: Bench) -> None:
    bench.beat(slots=4)
    await bench.submit(1, timeout_s=100, queue_timeout_s=100)
    await bench.round()
    await bench.claim(1)
    await bench.round()
    for seconds in (3_600, -7_200):
        bench.clock.jump(seconds)
        assert await bench.round() == []


async def test_a_new_leader_gives_every_lease_one_full_ttl(bench: Bench) -> None:
    await bench.submit(1)
    await bench.round()
    await bench.claim(1, ttl_s=10)
    await bench.hear()
    bench.clock.advance(9)
    await bench.restart()
    bench.clock.advance(9)
    assert await bench.round() == []
    bench.clock.advance(1)
    assert bench.commands(await bench.round()) == ["ExpireLease"]


async def test_an_attempt_that_takes_too_long_fails_with_timeout(bench: Bench) -> None:
    await bench.submit(1, timeout_s=30)
    await bench.round()
    await bench.claim(1, ttl_s=100)
    await bench.round()
    bench.clock.advance(30)
    [decision] = await bench.round()
    assert isinstance(decision.command, c.FailJob)
    assert (decision.command.error_code, decision.command.retryable, decision.command.attempt) == ("timeout", True, 1)
    assert await bench.status(1) is JobStatus.QUEUED


async def test_a_new_leader_counts_an_attempts_time_by_the_logs_clock(bench: Bench) -> None:
    await bench.submit(1, timeout_s=30)
    await bench.round()
    await bench.claim(1, ttl_s=100)
    bench.clock.advance(20)
    await bench.submit(2)  # the log's newest store time says that 20 s passed
    await bench.restart()
    bench.clock.advance(9)
    assert bench.commands(await bench.round()) == ["AssignJob"]
    bench.clock.advance(1)
    assert bench.commands(await bench.round()) == ["FailJob"]


async def test_a_job_that_waits_too_long_fails_and_the_wait_begins_when_it_may_start(bench: Bench) -> None:
    await bench.model("alpha", m.RegisterModel())
    await bench.model("alpha", m.PauseModel("user:a"))
    await bench.submit(1, queue_timeout_s=10)
    await bench.submit(2, queue_timeout_s=10, run_in=100)
    await bench.round()
    bench.clock.advance(10)
    [decision] = await bench.round()
    assert decision.command == c.FailWaitingJob("queue_timeout", 3_600)
    assert await bench.status(1) is JobStatus.FAILED
    bench.clock.advance(90)
    assert await bench.round() == []
    bench.clock.advance(10)
    assert bench.commands(await bench.round()) == ["FailWaitingJob"]


async def test_an_assigned_job_also_waits_only_so_long(bench: Bench) -> None:
    await bench.submit(1, queue_timeout_s=10)
    assert bench.assigned(await bench.round()) == [1]
    bench.clock.advance(10)
    assert bench.commands(await bench.round()) == ["FailWaitingJob"]


async def test_an_unclaimed_job_is_offered_again_while_its_pool_has_free_slots(bench: Bench) -> None:
    await bench.submit(1)
    await bench.round()
    bench.clock.advance(31)
    assert await bench.round() == []  # nobody there to take it
    bench.beat(slots=1, interval_s=1_000)
    bench.clock.advance(30)
    [decision] = await bench.round()
    assert isinstance(decision.command, c.AssignJob)
    assert decision.command.reoffer
    bench.clock.advance(30)
    assert await bench.round() == []  # the second time it waits twice as long
    bench.clock.advance(31)
    assert bench.assigned(await bench.round()) == [1]


# ---------------------------------------------------------------- dependencies


async def test_dependencies_are_met_only_by_completed(bench: Bench) -> None:
    bench.beat(slots=9)
    await bench.submit(2, depends_on=[1])
    await bench.submit(1)
    assert bench.assigned(await bench.round()) == [1]
    await bench.claim(1)
    await bench.complete(1, success=False)
    assert await bench.round() == []
    await bench.ask(1, c.AcceptJob("user:a"))
    assert bench.assigned(await bench.round()) == [2]


@pytest.mark.parametrize("end", [c.CancelJob("user:a", 60), c.FailWaitingJob("x", 60)])
async def test_a_failed_dependency_cancels_the_dependents_and_theirs(bench: Bench, end: c.JobCommand) -> None:
    await bench.submit(1, run_in=1_000)
    await bench.submit(2, depends_on=[1])
    await bench.submit(3, depends_on=[2, 1])
    await bench.settled()
    await bench.ask(1, end)
    await bench.settled()
    assert [await bench.status(number) for number in (2, 3)] == [JobStatus.CANCELLED] * 2


async def test_a_retried_dependency_saves_dependents_that_are_not_cancelled_yet(bench: Bench) -> None:
    bench.beat(slots=9)
    await bench.submit(1, run_in=1_000)
    await bench.submit(2, depends_on=[1])
    await bench.settled()
    await bench.ask(1, c.CancelJob("user:a", 60))
    await bench.ask(1, c.RetryJob("user:a"))
    await bench.settled()
    assert await bench.status(2) is JobStatus.QUEUED
    await bench.claim(1)
    await bench.complete(1)
    assert bench.assigned(await bench.round()) == [2]


async def test_a_retried_job_is_recalled_with_its_facts_and_dependencies(bench: Bench) -> None:
    bench.beat(slots=9, interval_s=1_000)
    await bench.submit(1, run_in=1_000)
    await bench.submit(2, depends_on=[1], concurrency_key="k", timeout_s=7.0, queue_timeout_s=70.0)
    await bench.settled()
    await bench.ask(2, c.CancelJob("user:a", 60))
    await bench.settled()
    assert bench.job_id(2) not in bench.planner.rows
    await bench.ask(2, c.RetryJob("user:a"))
    await bench.settled()
    row = bench.planner.rows[bench.job_id(2)]
    assert (row.key, row.timeout_s, row.queue_timeout_s, row.unmet) == ((1, "k"), 7.0, 70.0, {bench.job_id(1)})
    bench.clock.jump(1_000)
    await bench.claim(1)
    await bench.complete(1)
    assert bench.assigned(await bench.round()) == [2]


async def test_nothing_stays_of_a_closed_job(bench: Bench) -> None:
    bench.beat(slots=9, interval_s=1_000)
    await bench.submit(1, timeout_s=50, queue_timeout_s=50, concurrency_key="k")
    await bench.submit(2, depends_on=[1], concurrency_key="k", run_in=5)
    await bench.round()
    await bench.claim(1)
    await bench.complete(1)
    await bench.ask(2, c.CancelJob("user:a", 60))
    await bench.settled()
    planner = bench.planner
    assert not planner.rows
    assert not planner._dependents
    assert [key for key in planner.agenda.timers._deadlines if key[0] != "worker"] == []
    assert len(planner.agenda.calendar) == 0
    assert not planner.agenda.keys._holders
    assert not planner.agenda.keys._parked
    pool = planner.agenda.pool("alpha")
    assert (pool.busy, pool.reserved, pool.unclaimed) == (0, 0, 0)


# ---------------------------------------------------------------- concurrency keys


async def test_at_most_one_job_runs_under_a_concurrency_key(bench: Bench) -> None:
    bench.beat(slots=9)
    bench.beat("beta", worker="v", slots=9)
    await bench.submit(1, 2, 3, concurrency_key="k")
    await bench.submit(4, concurrency_key="k", project=2)
    await bench.submit(5, concurrency_key="k", role="Validator", priority=0)
    assert len(bench.assigned(await bench.round())) == 2
    running = [n for n in (1, 5) if await bench.status(n) is JobStatus.ASSIGNED]
    assert len(running) == 1
    await bench.claim(running[0])
    assert bench.assigned(await bench.round()) == []
    await bench.complete(running[0])
    assert len(bench.assigned(await bench.round())) == 1


async def test_whoever_waits_for_a_key_is_woken_by_priority_even_if_the_first_goes_away(bench: Bench) -> None:
    bench.beat(slots=9)
    await bench.submit(1, 2, 3, concurrency_key="k")
    await bench.submit(4, concurrency_key="k", priority=1)
    await bench.round()
    assert [n for n in (1, 2, 3, 4) if await bench.status(n) is JobStatus.ASSIGNED] == [4]
    await bench.model("alpha", m.RegisterModel())
    await bench.model("alpha", m.PauseModel("user:a"))
    await bench.settled()
    await bench.ask(4, c.CancelJob("user:a", 60))  # the one that would be next
    await bench.ask(1, c.CancelJob("user:a", 60))
    await bench.settled()
    await bench.model("alpha", m.ResumeModel("user:a"))
    assert bench.assigned(await bench.round()) == [2]


async def test_two_assigned_under_one_key_are_put_right(bench: Bench) -> None:
    await bench.submit(1, 2, concurrency_key="k")
    await bench.round()
    stale = AssignReason(policy="role")
    await bench.ask(2, c.AssignJob("alpha", stale, term=0))  # another leader, which did not know of the first
    assert bench.commands(await bench.round()) == ["UnassignJob"]
    assert [await bench.status(number) for number in (1, 2)] == [JobStatus.ASSIGNED, JobStatus.QUEUED]


# ---------------------------------------------------------------- decisions under way


async def test_a_decided_job_is_not_decided_again_before_its_event(bench: Bench) -> None:
    bench.beat(slots=2)
    await bench.submit(1)
    await bench.hear()
    [decision] = bench.plan()
    assert bench.plan() == []
    bench.planner.settle(decision, Fate.MOVED_ON, bench.now)
    bench.clock.advance(5)
    assert bench.plan() == []


async def test_a_refused_decision_is_looked_at_again_and_gives_back_its_slot(bench: Bench) -> None:
    bench.beat(slots=1, interval_s=1_000)
    await bench.submit(1, 2)
    await bench.hear()
    [decision] = bench.plan()
    bench.planner.settle(decision, Fate.REFUSED, bench.now)
    await bench.submit(3)
    await bench.hear()
    bench.clock.advance(0.25)
    assert bench.assigned(bench.plan()) == [1]


async def test_an_assignment_of_unknown_outcome_keeps_its_key_and_is_sent_again_as_it_was(bench: Bench) -> None:
    bench.beat(slots=9, interval_s=1_000)
    await bench.submit(1, 2, concurrency_key="k")
    await bench.hear()
    [decision] = bench.plan()
    bench.planner.settle(decision, Fate.UNKNOWN, bench.now, again_s=1.0)
    assert bench.plan() == []
    bench.clock.advance(1)
    assert bench.plan() == [decision]


async def test_a_plan_is_bounded_and_the_rest_follows(bench: Bench) -> None:
    bench.beat(slots=9)
    await bench.submit(*range(1, 8))
    await bench.hear()
    seen = [bench.assigned(bench.plan(limit=3)) for _ in range(3)]
    assert seen == [[1, 2, 3], [4, 5, 6], [7]]


async def test_g7_a_job_near_its_event_limit_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.scheduler.agenda.EVENT_LIMIT", 3)
    assert EVENT_LIMIT > 8_000
    await bench.submit(1)
    await bench.round()
    await bench.claim(1)
    await bench.ask(1, c.ReleaseJob(1))
    [decision] = await bench.round()
    assert decision.command == c.FailWaitingJob("event_limit", 3_600)


async def test_a_follower_decides_nothing_and_takes_over_where_things_stand(bench: Bench) -> None:
    bench.planner.step_down(bench.clock.now(), bench.now)
    bench.beat(slots=2)
    await bench.submit(1, 2, 3)
    await bench.submit(4, run_in=5)
    await bench.hear()
    assert bench.plan() == []
    assert bench.planner.next_deadline_s(bench.clock.now(), bench.now) is None
    await bench.lead(2)
    assert bench.assigned(await bench.round()) == [1, 2]


async def test_a_new_leader_trusts_a_model_that_was_online_until_it_should_have_been_heard(bench: Bench) -> None:
    await bench.model("alpha", m.RegisterModel(2))
    bench.beat(slots=2)
    await bench.settled()
    await bench.submit(1, 2, 3)
    await bench.restart()
    assert bench.assigned(await bench.round()) == [1, 2]
    bench.clock.advance(30)
    decisions = await bench.round()
    assert "ReportOffline" in bench.commands(decisions)
    await bench.settled()
    assert await bench.status(1) is JobStatus.QUEUED


async def test_g17_an_unreadable_event_leaves_its_job_alone_and_nobody_else(bench: Bench) -> None:
    bench.beat(slots=9)
    await bench.submit(1, 2)
    await bench.submit(3, depends_on=[1])
    await bench.hear()
    last = bench.store._events[-1]
    bench.planner.apply(
        replace(
            last, seq=last.seq + 1, subject=f"aura.job.1.{bench.job_id(1)}.assigned.alpha", body=b'{"state":{"v":1}}'
        ),
        0.0,
    )
    assert bench.planner.poisoned == [last.seq + 1]
    assert bench.assigned(bench.plan()) == [2]


async def test_g17_a_snapshot_from_the_log_leaves_an_unreadable_job_out(bench: Bench) -> None:
    await bench.submit(1, 2)
    bench.store._events[0] = replace(bench.store._events[0], body=b"rubbish")
    await bench.restart()
    assert list(bench.planner.rows) == [bench.job_id(2)]


async def test_a_snapshot_holds_what_the_log_says(bench: Bench) -> None:
    await bench.submit(3, depends_on=[1, 2], concurrency_key="k", timeout_s=5.0)
    await bench.submit(1, run_in=100)
    await bench.submit(2)
    await bench.submit(4)
    await bench.ask(1, c.CancelJob("user:a", 60))
    await bench.ask(2, c.CancelJob("user:a", 60))
    await bench.ask(2, c.RetryJob("user:a"))
    await bench.ask(4, c.AssignJob("alpha", AssignReason(policy="manual"), override=True))
    data = await FoldedSnapshot(bench.store).load()
    jobs = {int(job.job_id[-12:]): job for job in data.jobs}
    assert list(jobs) == [3, 2, 4]  # in line by when they were created
    assert jobs[3].unmet_deps == (bench.job_id(1), bench.job_id(2))
    assert jobs[3].failed_deps == (bench.job_id(1),)
    assert (jobs[3].concurrency_key, jobs[3].timeout_s) == ("k", 5.0)
    assert jobs[4].assigned_by == "manual"
    assert (data.seq, data.epoch) == (len(bench.store._events), "memory")


async def test_a_role_that_a_model_declares_is_not_for_who_gets_what_is_left() -> None:
    bench = Bench()
    await bench.model("slow", m.RegisterModel(slots=1, roles=("Slow",)))
    await bench.model("alpha", m.RegisterModel(slots=4))
    await bench.lead()
    bench.beat("slow", "s", slots=1)
    bench.beat("alpha", "w", slots=4)
    await bench.submit(1, 2, 3, role="Slow")
    await bench.submit(4, role="Unknown")
    await bench.settled()
    models = {
        number: (await bench.jobs.head(bench.job_id(number), consistent=True)).state.model for number in (1, 2, 3, 4)
    }
    assert models == {1: "slow", 2: None, 3: None, 4: "alpha"}, "they wait for their own pool, full as it is"
    bench.beat("slow", "s", status="offline")
    await bench.settled()
    states = [(await bench.jobs.head(bench.job_id(number), consistent=True)).state for number in (1, 2, 3)]
    assert [state.status for state in states] == [JobStatus.QUEUED] * 3, "and when it is away"


async def test_an_unclaimed_job_moves_to_the_pool_that_declares_its_role_later() -> None:
    bench = Bench()
    await bench.lead()
    await bench.submit(1, 2, role="Greeter")
    await bench.submit(3, role="Employee")
    await bench.settled()
    assert {(await bench.jobs.head(bench.job_id(number), consistent=True)).state.model for number in (1, 2, 3)} == {
        "alpha"
    }
    await bench.claim(2)
    await bench.model("mine", m.RegisterModel(slots=2, roles=("Greeter", "Employee")))
    bench.beat("mine", "g", slots=2)
    await bench.settled()
    models = {
        number: (await bench.jobs.head(bench.job_id(number), consistent=True)).state.model for number in (1, 2, 3)
    }
    assert models == {1: "mine", 2: "alpha", 3: "alpha"}, "not what is running, nor what configuration names"


async def test_a_new_leader_takes_back_what_was_given_to_the_wrong_pool() -> None:
    bench = Bench()
    await bench.lead()
    await bench.submit(1, role="Greeter")
    await bench.settled()
    await bench.model("mine", m.RegisterModel(slots=1, roles=("Greeter",)))
    bench.beat("mine", "g")
    await bench.lead(2)
    await bench.settled()
    assert (await bench.jobs.head(bench.job_id(1), consistent=True)).state.model == "mine"
