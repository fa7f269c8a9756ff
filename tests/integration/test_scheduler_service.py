"""The scheduler on a real nats-server: assignment, takeover after kill -9 and after a release, a stopped leader that returns (G6–G9)."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from aura.clock import SystemClock
from aura.commands.handler import Caller, JobHandler
from aura.domain import job_commands as c
from aura.domain.job import evolve
from aura.errors import Conflict
from aura.events.catalogue import JobCreated
from aura.ids import SystemIds
from aura.log.connection import Connection
from aura.log.health import CoreLeaseRenewals, HeartbeatPublisher
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Recorded
from tests.properties.simulation.checker import Checker
from tests.support.log_streams import log_connection
from tests.support.scheduler_process import scheduler_on
from tests.support.servers import NatsServer

ROOT = Path(__file__).parents[2]
USER = Caller("user:test", "test", "test")


class Side:
    """What everybody else does: submits, claims, heartbeats, completes, looks at the log."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        clock, ids = SystemClock(), SystemIds()
        self.ids = ids
        self.store = JetStreamEventStore(connection, clock, ids)
        self.jobs = JobHandler(self.store, clock, ids)
        self.health = HeartbeatPublisher(connection)
        self.renewals = CoreLeaseRenewals(connection)

    async def submit(self, count: int = 1, **facts: Any) -> list[str]:
        job_ids = [self.ids.uuid7() for _ in range(count)]
        appends = []
        for job_id in job_ids:
            base: dict[str, Any] = {
                "root_job_id": job_ids[0],
                "index": 0,
                "count": 1,
                "title": "t",
                "task_type": "task",
            }
            created = JobCreated(**{**base, "role": "Employee", **facts})
            appends.append(self.jobs.seal(1, job_id, created, evolve(None, created), USER, expected_seq=0))
        await self.store.append_batch(appends)
        return job_ids

    async def claim(self, job_id: str, ttl_s: float = 60.0) -> None:
        await self.jobs.execute(job_id, c.ClaimJob("w", ttl_s, "alpha", offered=True), USER)

    async def complete(self, job_id: str) -> None:
        await self.jobs.execute(job_id, c.CompleteJob(True, 60), USER)

    async def until(self, wanted: Callable[[Mapping[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(30):
            async for batch in self.store.follow(1):
                found.extend(event for event in (recorded.decode() for recorded in batch) if wanted(event))
                if len(found) >= count:
                    return found
        raise AssertionError("the log ended")

    async def until_type(self, type_: str, count: int = 1) -> list[dict[str, Any]]:
        return await self.until(lambda event: event["type"] == type_, count)

    async def log(self) -> list[Recorded]:
        return [recorded async for batch in self.store.read() for recorded in batch]


@pytest.fixture
async def side(streams: NatsServer) -> AsyncIterator[Side]:
    connection = await log_connection(streams)
    made = Side(connection)
    yield made
    await made.store.close()
    await connection.close()


@pytest.fixture
async def own(streams: NatsServer) -> AsyncIterator[Connection]:
    """A connection that may do what a scheduler may."""
    connection = await log_connection(streams, "scheduler")
    yield connection
    await connection.close()


Start = Callable[[str], Awaitable[subprocess.Popen[bytes]]]


@pytest.fixture
def processes(streams: NatsServer) -> Iterator[Start]:
    """Starts scheduler processes by the name of their holder; each returns when it follows the log."""
    started: list[subprocess.Popen[bytes]] = []
    creds = str(streams.creds("scheduler"))

    async def start(holder: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.support.scheduler_process", streams.url, creds, holder]
        process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        started.append(process)
        assert process.stdout is not None
        while b"following" not in (line := await asyncio.to_thread(process.stdout.readline)):
            assert line, "the scheduler ended"
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


async def test_jobs_are_assigned_as_they_come_and_health_and_leases_are_heard(own: Connection, side: Side) -> None:
    service = scheduler_on(own, "one")
    await service.start()
    [first] = await side.submit()
    await side.until_type("job.assigned")
    report = {
        "model": "alpha",
        "worker_id": "w",
        "slots": 4,
        "interval_s": 10.0,
        "payload": {"status": "ok"},
        "in_flight": [],
    }
    await side.health.report("alpha", "w", report)
    await side.claim(first)
    await side.submit(10)
    await side.until_type("job.assigned", 4)
    assert service.planner.agenda.pool("alpha").slots == 4
    await service._seen((await side.log())[-1].seq)
    row = service.planner.rows[first]
    before = row.lease_until
    await side.renewals.renewed(first, 1, "w")
    await side.complete(first)
    await service._seen((await side.log())[-1].seq)
    assert row.lease_until > before
    await service.stop()
    await service.stop()
    Checker(keys_exclusive=True).take_all(await side.log())


async def test_a_restarted_scheduler_hears_of_earlier_heartbeats(own: Connection, side: Side) -> None:
    report = {"model": "alpha", "worker_id": "w", "slots": 7, "interval_s": 60.0, "payload": {"status": "ok"}}
    await side.health.report("alpha", "w", report)
    await side.connection.flush()
    service = scheduler_on(own, "one")
    await service.start()
    assert service.planner.agenda.pool("alpha").slots == 7
    await service.stop()


async def test_g9_a_standby_takes_over_after_kill_9_and_at_once_after_a_release(side: Side, processes: Start) -> None:
    first = await processes("first")
    await side.until(lambda event: event.get("holder") == "first")
    second = await processes("second")
    await side.submit(100)
    await side.until_type("job.assigned", 50)
    began = time.perf_counter()
    first.kill()
    [elected] = await side.until(lambda event: event.get("holder") == "second")
    print(f"takeover after kill -9: {time.perf_counter() - began:.2f} s")
    await side.until_type("job.assigned", 100)
    third = await processes("third")
    began = time.perf_counter()
    second.terminate()
    [last] = await side.until(lambda event: event.get("holder") == "third")
    print(f"takeover after a release: {time.perf_counter() - began:.2f} s")
    assert last["term"] > elected["term"]
    assert third.poll() is None
    Checker(keys_exclusive=True).take_all(await side.log())


async def test_g6_g9_a_leader_that_was_stopped_longer_than_its_lease_does_no_harm(side: Side, processes: Start) -> None:
    first = await processes("first")
    await side.until(lambda event: event.get("holder") == "first")
    await processes("second")
    job_ids = await side.submit(20)
    await side.until_type("job.assigned", 20)
    for job_id in job_ids:
        await side.claim(job_id, ttl_s=1.5)  # shorter than the stop: when it wakes, every one of its timers is overdue
    first.send_signal(signal.SIGSTOP)
    working = asyncio.create_task(keep_alive(side, job_ids))
    await side.until(lambda event: event.get("holder") == "second")
    first.send_signal(signal.SIGCONT)
    more = await side.submit(20, title="after")
    await side.until(lambda event: event["type"] == "job.assigned" and event["job_id"] in more, 20)
    working.cancel()
    for job_id in job_ids:
        try:
            await side.complete(job_id)
        except Conflict:
            continue
    events = await side.log()
    Checker(keys_exclusive=True).take_all(events)
    decoded = [recorded.decode() for recorded in events]
    terms = [
        event["term"] for event in decoded if event["type"] == "system.leader_elected" and event["holder"] == "first"
    ]
    expired_by_the_sleeper = [
        event for event in decoded if event["type"] == "job.lease_expired" and event["actor"] == f"scheduler:{terms[0]}"
    ]
    assert expired_by_the_sleeper == []


async def keep_alive(side: Side, job_ids: list[str]) -> None:
    """Renew all leases as workers do; the stopped leader does not hear it."""
    while True:
        for job_id in job_ids:
            await side.renewals.renewed(job_id, 1, "w")
        await asyncio.sleep(0.2)
