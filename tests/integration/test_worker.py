"""Workers on a real nats-server and the real command service (no scheduler: jobs are assigned by hand)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from aura.domain import job_commands as c
from aura.worker import Fatal, JobContext
from tests.support.servers import NatsServer
from tests.support.worker_stack import ME, WorkerStack, worker_stack


@pytest.fixture
async def stack(fresh_nats: NatsServer, tmp_path: Path) -> AsyncIterator[WorkerStack]:
    async with worker_stack(fresh_nats, tmp_path) as running:
        yield running


async def test_a_job_runs_and_its_output_and_result_are_kept_encrypted(stack: WorkerStack) -> None:
    async def handle(job: JobContext) -> dict[str, Any]:
        for word in ("one ", "two ", "three"):
            await job.stream(word)
        await job.log("counted", "SUCCESS")
        await job.progress(50, "half")
        await job.stage("count", "done")
        return {"counted": 3, "payload": job.payload}

    async with stack.working(handle):
        [job_id] = await stack.run({"what": "words"})
        done = await stack.until(job_id, "job.completed")
    assert [event["type"] for event in await stack.events(job_id)] == [
        "job.created",
        "job.assigned",
        "job.claimed",
        "job.stage_changed",
        "job.completed",
    ]
    records = await stack.output(job_id)
    assert [record["i"] for record in records] == list(range(len(records)))
    assert done["output"]["count"] == len(records)
    assert await stack.text(job_id) == "one two three"
    assert records[-2]["line"] == "counted"
    assert records[-1]["percent"] == 50
    assert orjson.loads(await stack.part(job_id, "result")) == {"counted": 3, "payload": {"what": "words"}}


async def test_a_failure_keeps_its_text_as_content_and_is_retried_only_if_it_may_be(stack: WorkerStack) -> None:
    async def handle(job: JobContext) -> None:
        raise Fatal("secret detail", error_code="no_way")

    async with stack.working(handle):
        [job_id] = await stack.run({})
        failed = await stack.until(job_id, "job.failed")
    assert (failed["error_code"], failed["retryable"]) == ("no_way", False)
    assert "secret" not in str(await stack.events(job_id))
    assert b"secret detail" in await stack.part(job_id, "error")


async def test_cancelling_a_job_stops_its_handler_at_once(stack: WorkerStack) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def handle(job: JobContext) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with asyncio.timeout(20), stack.working(handle):
        [job_id] = await stack.run({})
        await began.wait()
        await stack.call("cancel", job_id=job_id)
        await stopped.wait()
    assert await stack.status(job_id) == "CANCELLED"


async def test_an_attempt_that_lost_its_lease_is_stopped_and_changes_nothing_g6(stack: WorkerStack) -> None:
    began, stopped, attempts = asyncio.Event(), asyncio.Event(), []

    async def handle(job: JobContext) -> dict[str, Any]:
        attempts.append(job.attempt)
        if job.attempt == 1:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
        return {"attempt": job.attempt}

    async with asyncio.timeout(20), stack.working(handle):
        [job_id] = await stack.run({})
        await began.wait()
        await stack.side.service.jobs.execute(job_id, c.ExpireLease(1, 3600, 0), ME)
        await stopped.wait()
        await stack.assign(job_id)
        await stack.until(job_id, "job.completed")
    assert attempts == [1, 2]
    assert orjson.loads(await stack.part(job_id, "result")) == {"attempt": 2}


async def test_nothing_is_lost_or_doubled_when_nats_is_killed_under_load_g1_g2(stack: WorkerStack) -> None:
    ran: dict[str, int] = {}

    async def handle(job: JobContext) -> dict[str, Any]:
        ran[job.job_id] = ran.get(job.job_id, 0) + 1
        for number in range(5):
            await job.stream(f"{number} ")
            await asyncio.sleep(0.02)  # the work
        return {"ok": True}

    async with asyncio.timeout(90), stack.working(handle, slots=16):
        job_ids = await stack.submit(*range(60))
        await stack.assign(*job_ids[:30])
        await stack.until(job_ids[0], "job.claimed")
        await stack.server.kill()
        await stack.server.start()
        await stack.assign(*job_ids[30:])
        for job_id in job_ids:
            await stack.until(job_id, "job.completed")
    for job_id in job_ids:
        types = [event["type"] for event in await stack.events(job_id)]
        assert types.count("job.completed") == types.count("job.claimed") == ran[job_id] == 1
        assert await stack.text(job_id) == "0 1 2 3 4 "


async def test_commands_wait_for_a_command_service_that_is_away(stack: WorkerStack) -> None:
    gate = asyncio.Event()

    async def handle(job: JobContext) -> None:
        await gate.wait()

    async with asyncio.timeout(60), stack.working(handle):
        [job_id] = await stack.run({})
        await stack.until(job_id, "job.claimed")
        await stack.rpc.stop()
        gate.set()
        await asyncio.sleep(0.1)  # the first report finds nobody
        await stack.start_commands()
        await stack.until(job_id, "job.completed")


async def test_a_drained_worker_releases_what_it_cannot_finish_and_another_takes_it(stack: WorkerStack) -> None:
    began = asyncio.Event()

    async def endless(job: JobContext) -> None:
        await job.stream("began")
        began.set()
        await asyncio.Event().wait()

    async def quick(job: JobContext) -> None:
        await job.stream("done")

    async with asyncio.timeout(30):
        async with stack.working(endless):
            [job_id] = await stack.run({})
            await began.wait()
        assert await stack.status(job_id) == "QUEUED"
        async with stack.working(quick):
            await stack.assign(job_id)
            done = await stack.until(job_id, "job.completed")
    assert done["attempt"] == 2
    assert await stack.text(job_id, 1) == "began"
    assert await stack.text(job_id, 2) == "done"
