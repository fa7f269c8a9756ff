"""The scheduler service: follows, leads, carries out, steps down (G7, G9). Tests wait for events of the log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aura.domain import job_commands as c
from aura.domain import model as m
from aura.domain.job_state import JobStatus
from aura.errors import LogRegression, Unavailable
from aura.log.store import Recorded
from aura.scheduler.rows import SnapshotData
from aura.scheduler.snapshot import FoldedSnapshot
from tests.unit.scheduler.conftest import Cluster


async def test_a_leader_announces_itself_and_assigns_what_is_there_and_what_comes(cluster: Cluster) -> None:
    await cluster.bench.submit(1, 2)
    service, lease = cluster.scheduler()
    await service.start()
    assert not service.leading
    cluster.board.give(lease)
    [elected] = await cluster.until_type("system.leader_elected")
    assert (elected["role"], elected["term"], elected["holder"]) == ("scheduler", 1, "s0")
    await cluster.until_type("job.assigned", 2)
    await cluster.bench.submit(3)
    assigned = await cluster.until_type("job.assigned", 3)
    assert {event["term"] for event in assigned} == {1}
    assert {event["actor"] for event in assigned} == {"scheduler:1"}
    assert cluster.pools == ["alpha"] or set(cluster.pools) == {"alpha"}
    assert service.leading


async def test_a_large_round_is_one_batch(cluster: Cluster) -> None:
    sizes: list[int] = []
    plain = cluster.store.append_batch

    async def counting(appends: Any) -> list[int]:
        sizes.append(len(appends))
        return await plain(appends)

    cluster.store.append_batch = counting  # type: ignore[method-assign]
    await cluster.bench.submit(*range(1, 81))
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("job.assigned", 80)
    assert sizes == [80]


async def test_a_batch_in_which_one_job_moved_on_is_sent_one_by_one(cluster: Cluster) -> None:
    await cluster.bench.submit(*range(1, 61))
    raced = False

    async def race(point: str) -> None:
        nonlocal raced
        if point == "append.before" and not raced and cluster.services[0].leading:
            raced = True
            await cluster.bench.ask(7, c.CancelJob("user:a", 60))

    service, lease = cluster.scheduler()
    await service.start()
    cluster.fault = race
    cluster.board.give(lease)
    assigned = await cluster.until_type("job.assigned", 59)
    assert cluster.bench.job_id(7) not in {event["job_id"] for event in assigned}
    assert await cluster.bench.status(7) is JobStatus.CANCELLED


async def test_a_standby_takes_over_when_the_leader_releases(cluster: Cluster) -> None:
    first, lease = cluster.scheduler()
    second, other = cluster.scheduler()
    await first.start()
    await second.start()
    cluster.board.give(lease)
    await cluster.until_type("system.leader_elected")
    await first.stop()
    assert not first.leading
    cluster.board.give(other)
    await cluster.until_type("system.leader_elected", 2)
    await cluster.bench.submit(1)
    [assigned] = await cluster.until_type("job.assigned")
    assert assigned["actor"] == f"scheduler:{cluster.board.term}"


async def test_g9_a_leader_that_was_replaced_while_it_slept_does_no_harm(cluster: Cluster) -> None:
    first, lease = cluster.scheduler()
    second, other = cluster.scheduler()
    await first.start()
    await second.start()
    cluster.board.give(lease)
    await cluster.until_type("system.leader_elected")
    lease.frozen = 1  # it goes on believing
    cluster.board.give(other)
    await cluster.until_type("system.leader_elected", 2)
    await cluster.bench.submit(*range(1, 21))
    await cluster.until_type("job.assigned", 20)
    for number in range(1, 21):
        await cluster.bench.claim(number)
        await cluster.bench.complete(number)
    events = [recorded.decode() for recorded in cluster.store._events]
    assert sum(event["type"] == "job.assigned" for event in events) == 20
    assert {event["actor"] for event in events if event["type"] == "job.assigned"} <= {"scheduler:1", "scheduler:2"}


async def test_a_leader_that_lost_its_lease_decides_nothing(cluster: Cluster) -> None:
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("system.leader_elected")
    cluster.board.give(None)
    await cluster.bench.submit(1)
    await service._seen(len(cluster.store._events))
    assert not service.leading
    assert service.planner.term is None
    assert await cluster.bench.status(1) is JobStatus.QUEUED


async def test_a_lost_lease_that_comes_back_is_a_new_term(cluster: Cluster) -> None:
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("system.leader_elected")
    cluster.board.give(lease)  # lost and taken again before anybody looked
    elected = await cluster.until_type("system.leader_elected", 2)
    assert [event["term"] for event in elected] == [1, 2]


async def test_g7_an_expired_lease_is_noticed_by_a_timer(cluster: Cluster) -> None:
    await cluster.bench.submit(1)
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("job.assigned")
    await cluster.bench.claim(1, ttl_s=0.05)
    await cluster.until_type("job.lease_expired")
    await cluster.until_type("job.assigned", 2)


async def test_renewals_and_heartbeats_keep_a_lease(cluster: Cluster) -> None:
    await cluster.bench.submit(1)
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("job.assigned")
    await cluster.bench.claim(1, worker="w", ttl_s=60)
    await service._seen(len(cluster.store._events))
    row = service.planner.rows[cluster.bench.job_id(1)]
    before = row.lease_until
    ports: Any = service._ports
    ports.renewals.tell(cluster.bench.job_id(1), 1, "w")
    assert row.lease_until > before
    ports.health.tell({"rubbish": True}, 0.0)
    ports.health.tell({"model": "alpha", "worker_id": "w", "slots": 3, "interval_s": 10}, 0.0)
    assert service.planner.agenda.pool("alpha").slots == 3


async def test_health_reports_reach_the_log(cluster: Cluster) -> None:
    await cluster.bench.model("alpha", m.RegisterModel())
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("system.leader_elected")
    ports: Any = service._ports
    ports.health.tell({"model": "alpha", "worker_id": "w", "slots": 1, "interval_s": 0.05}, 0.0)
    await cluster.until_type("model.online")
    await cluster.until_type("model.offline")


async def test_a_retried_job_is_recalled_and_runs_again(cluster: Cluster) -> None:
    await cluster.bench.submit(1)
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("job.assigned")
    await cluster.bench.ask(1, c.CancelJob("user:a", 60))
    await cluster.bench.ask(1, c.RetryJob("user:a"))
    await cluster.until_type("job.assigned", 2)


async def test_recalling_is_repeated_until_the_log_answers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await cluster.bench.submit(1)
    await cluster.bench.ask(1, c.CancelJob("user:a", 60))
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("system.leader_elected")
    deaf = 1

    async def no_answer(point: str) -> None:
        nonlocal deaf
        if point == "read" and deaf:
            deaf -= 1
            raise Unavailable("no answer")

    monkeypatch.setattr("aura.scheduler.service._RETRY_S", 0.0)
    await cluster.bench.ask(1, c.RetryJob("user:a"))
    cluster.fault = no_answer
    await cluster.until_type("job.assigned")
    assert deaf == 0


async def test_an_unanswered_assignment_is_sent_again_and_happens_once(cluster: Cluster) -> None:
    await cluster.bench.submit(1)
    service, lease = cluster.scheduler()
    await service.start()
    failures = ["append.before", "append.after"]

    async def lossy(point: str) -> None:
        if service.leading and failures and point == failures[0]:
            failures.pop(0)
            raise Unavailable("no answer")

    cluster.fault = lossy
    cluster.board.give(lease)
    await cluster.until_type("job.assigned")
    await cluster.bench.claim(1)
    await cluster.bench.complete(1)
    assert sum(recorded.subject.endswith(".assigned.alpha") for recorded in cluster.store._events) == 1


async def test_a_scheduler_waits_for_a_snapshot(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.scheduler.service._RETRY_S", 0.0)

    class Late(FoldedSnapshot):
        asked = 0

        async def load(self) -> SnapshotData:
            self.asked += 1
            if self.asked < 3:
                raise Unavailable("no database")
            return await super().load()

    late = Late(cluster.store)
    service, _ = cluster.scheduler(snapshot=late)
    await service.start()
    assert late.asked == 3


async def test_g5_a_snapshot_of_another_log_is_refused(cluster: Cluster) -> None:
    class Other(FoldedSnapshot):
        async def load(self) -> SnapshotData:
            return SnapshotData("another", 0, 0, [], [])

    service, _ = cluster.scheduler(snapshot=Other(cluster.store))
    with pytest.raises(LogRegression):
        await service.start()


async def test_g5_when_the_log_turns_out_to_be_another_one_the_service_fails_and_decides_nothing(
    cluster: Cluster,
) -> None:
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("system.leader_elected")
    service._fail(LogRegression("re-created"))
    with pytest.raises(LogRegression):
        await service.wait()
    await cluster.bench.submit(1)
    assert await cluster.bench.status(1) is JobStatus.QUEUED


async def test_chores_of_a_new_leader(cluster: Cluster) -> None:
    resumed = asyncio.Event()

    async def resume() -> None:
        resumed.set()
        raise Unavailable("tried again in the next term")

    service, lease = cluster.scheduler(resume_purges=resume)
    await service.start()
    cluster.board.give(lease)
    async with asyncio.timeout(20):
        await resumed.wait()
    await cluster.until_type("system.leader_elected")
    assert service.leading


async def test_g17_an_unreadable_event_does_not_stop_the_others(cluster: Cluster) -> None:
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("system.leader_elected")
    await cluster.bench.submit(1)
    await cluster.until_type("job.assigned")
    poison = Recorded(len(cluster.store._events) + 1, f"aura.job.1.{cluster.bench.job_id(1)}.claimed", 0, b"rubbish")
    cluster.store._events.append(poison)
    await cluster.bench.submit(2)
    await cluster.until_no_poison(2)


async def test_stop_is_safe_twice_and_before_start(cluster: Cluster) -> None:
    service, _ = cluster.scheduler()
    await service.stop()
    service, lease = cluster.scheduler()
    await service.start()
    cluster.board.give(lease)
    await cluster.until_type("system.leader_elected")
    waiting = asyncio.ensure_future(service.wait())
    await service.stop()
    await service.stop()
    await waiting
