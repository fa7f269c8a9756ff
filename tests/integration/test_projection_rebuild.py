"""Rebuild and verify: digest(rebuild from the log) == digest(live) (G4); the API is served throughout; old versions stay."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aura.clock import SystemClock
from aura.errors import InvalidRequest
from aura.projections import versions
from aura.projections.catalog import FROM_LOG, find
from aura.projections.decoding import decode
from aura.projections.jobs import JOBS
from aura.projections.projection import Projection
from aura.projections.queries import Queries
from aura.projections.rebuild import Rebuilt, rebuild
from aura.projections.service import ProjectorService
from aura.projections.verify import verify, verify_states
from tests.support.job_log import JobLog
from tests.support.read_models import digests, live_versions, owner, project, rows
from tests.support.servers import Database

GUARD_S = 40


async def projected(database: Database, seed: int = 1, steps: int = 150) -> JobLog:
    log = JobLog(seed=seed)
    await log.wander(steps)
    connection = await owner(database.owner_url)
    await project(connection, await log.all())
    await connection.close()
    return log


@pytest.mark.parametrize("projection", FROM_LOG.projections, ids=lambda one: one.name)
async def test_g4_a_rebuild_is_the_same_row_for_row_and_is_switched_in(
    read_models: Database, projection: Projection
) -> None:
    log = await projected(read_models)
    connection = await owner(read_models.owner_url)
    before = await digests(connection, await live_versions(connection))
    told: list[Rebuilt] = []
    seen: list[int] = []

    async def on_rebuilt(done: Rebuilt) -> None:
        told.append(done)

    done = await rebuild(
        projection,
        log.store,
        read_models.owner_url,
        decode=decode,
        on_rebuilt=on_rebuilt,
        progress=lambda seq, of: seen.append(seq),
    )
    assert (done.differences, done.seq, done.version, done.compared, done.switched) == (0, log.seq, 2, True, True)
    assert told == [done]
    assert seen[-1] == log.seq
    found = await live_versions(connection)
    assert {one.name: one.version for one in found}[projection.name] == 2
    assert await digests(connection, found) == before
    status = await rows(
        connection, "SELECT version, status FROM aura.projections WHERE name = %s ORDER BY version", (projection.name,)
    )
    assert status == [{"version": 1, "status": "old"}, {"version": 2, "status": "live"}]
    again = await rebuild(projection, log.store, read_models.owner_url, decode=decode)
    assert again.version == 3
    assert await rows(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %s", (f"p_{projection.name}_v1",)) == []
    await connection.close()


async def test_a_tampered_row_is_found_named_and_healed(read_models: Database) -> None:
    log = await projected(read_models)
    connection = await owner(read_models.owner_url)
    clean = await digests(connection, await live_versions(connection))
    victim = next(iter(log.jobs))
    await connection.execute("UPDATE p_jobs_v1.job_facts SET title = 'forged' WHERE id = %s", (victim,))
    await connection.execute(
        "DELETE FROM p_jobs_v1.prds WHERE root_job_id = (SELECT root_job_id FROM p_jobs_v1.prds LIMIT 1)"
    )
    checked = await verify(JOBS, log.store, read_models.owner_url, decode=decode)
    assert {one.table: one.rows for one in checked.examples} == {"job_facts": 1, "prds": 1}
    assert checked.examples[0].keys == (victim,)
    assert not checked.switched
    assert [one.version for one in await versions.load(connection, JOBS)] == [1]
    assert (await rebuild(JOBS, log.store, read_models.owner_url, decode=decode)).differences == 2
    assert await digests(connection, await live_versions(connection)) == clean
    clean_check = await verify(JOBS, log.store, read_models.owner_url, decode=decode)
    assert clean_check.differences == 0
    told = await rows(connection, "SELECT verified_seq FROM read.checkpoints WHERE name = 'jobs'")
    assert told == [{"verified_seq": log.seq}]
    await connection.close()


async def test_rollback_shows_the_old_version_again_and_it_catches_up(read_models: Database) -> None:
    log = await projected(read_models)
    connection = await owner(read_models.owner_url)
    await rebuild(JOBS, log.store, read_models.owner_url, decode=decode)
    await log.wander(40)
    await project(connection, await log.all())
    wanted = await digests(connection, await live_versions(connection))
    old = (await versions.load(connection, JOBS, status="old"))[0]
    async with connection.transaction():
        await versions.switch(connection, old)
    await project(connection, await log.all())
    found = await live_versions(connection)
    assert found[0].version == 1
    assert await digests(connection, found) == wanted
    await connection.close()


async def test_the_api_is_served_while_a_live_log_is_rebuilt(read_models: Database) -> None:
    log = JobLog(seed=3)
    await log.wander(80)
    service = ProjectorService(log.store, read_models.owner_url, clock=SystemClock())
    queries = Queries(read_models.reader_url, clock=SystemClock())
    await service.start()
    await service.log.reached(log.seq)
    await queries.start()
    stop = asyncio.Event()
    pages: list[int] = []

    async def read() -> None:
        while not stop.is_set():
            pages.append(len((await queries.list_jobs(limit=5)).rows))

    async def go_on() -> None:
        while not stop.is_set():
            await log.wander(5)
            await service.log.reached(log.seq)

    reading, going_on = asyncio.create_task(read()), asyncio.create_task(go_on())
    async with asyncio.timeout(GUARD_S):
        for projection in FROM_LOG.projections:
            done = await rebuild(projection, log.store, read_models.owner_url, decode=decode)
            assert done.differences == 0
        stop.set()
        await asyncio.gather(reading, going_on)
        await log.wander(20)
        await service.log.reached(log.seq)
    assert pages
    assert set(pages) == {5}
    checked = await verify(JOBS, log.store, read_models.owner_url, decode=decode)
    assert checked.differences == 0
    await queries.stop()
    await service.stop()


async def test_tables_of_another_shape_are_rebuilt_at_the_start(read_models: Database) -> None:
    log = await projected(read_models)
    connection = await owner(read_models.owner_url)
    await connection.execute("UPDATE aura.projections SET shape = 'older code' WHERE name = 'jobs'")
    service = ProjectorService(log.store, read_models.owner_url, clock=SystemClock())
    async with asyncio.timeout(GUARD_S):
        await service.start()
        await log.wander(20)
        await service.log.reached(log.seq)
    await service.stop()
    found = await live_versions(connection)
    assert {one.name: one.version for one in found} == {
        "jobs": 2,
        "timeline": 1,
        "models": 1,
        "archives": 1,
        "sessions": 1,
    }
    checked = await verify(JOBS, log.store, read_models.owner_url, decode=decode)
    assert (checked.compared, checked.differences) == (True, 0)
    await connection.close()


async def test_g17_a_rebuild_lets_quarantined_entities_back_in(read_models: Database) -> None:
    log = JobLog(seed=2)
    await log.wander(60)
    victim = next(iter(log.jobs))
    connection = await owner(read_models.owner_url)

    def old_code(recorded: Any) -> Any:
        event = decode(recorded)
        if event.entity == victim:
            event.poison = "unknown event type"
        return event

    from aura.projections.writer import Writer
    from tests.support.read_models import EPOCH, write

    await write(Writer(connection, await live_versions(connection), epoch=EPOCH, decode=old_code), await log.all())
    assert await rows(connection, "SELECT 1 FROM read.jobs WHERE id = %s", (victim,)) == []
    done = await rebuild(JOBS, log.store, read_models.owner_url, decode=decode)
    assert done.differences > 0
    assert len(await rows(connection, "SELECT 1 FROM read.jobs WHERE id = %s", (victim,))) == 1
    assert await rows(connection, "SELECT 1 FROM read.quarantine WHERE projection = 'jobs'") == []
    await connection.close()


async def test_one_rebuild_of_a_projection_at_a_time(read_models: Database) -> None:
    log = await projected(read_models)
    results = await asyncio.gather(
        *(rebuild(JOBS, log.store, read_models.owner_url, decode=decode) for _ in range(2)), return_exceptions=True
    )
    refused = [one for one in results if isinstance(one, InvalidRequest)]
    done = [one for one in results if isinstance(one, Rebuilt)]
    assert (len(refused), len(done)) in ((1, 1), (0, 2))  # the second may have begun after the first was done
    assert find("jobs")[0] is JOBS


async def test_state_is_the_fold_of_the_events() -> None:
    log = JobLog(seed=6)
    await log.wander(300)
    report = await verify_states(log.store)
    assert (report.mismatches, report.unreadable) == (0, 0)
    assert report.compared == report.events == log.seq
    job = (await log.prd(1))[0]
    good = (await log.all())[-1]
    await log.raw(
        f"aura.job.1.{job}.cancelled", good.body.replace(b"job.created", b"job.cancelled").replace(b"QUEUED", b"FAILED")
    )
    await log.raw(f"aura.job.1.{job}.created", good.body.replace(b'"n":1', b'"n":9'))
    report = await verify_states(log.store)
    assert report.unreadable == 1
    assert report.examples == [log.seq]
