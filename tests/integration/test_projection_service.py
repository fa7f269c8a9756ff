"""The projector as a service: leads or stands by, survives its server, stops for another log (G3, G4, G5, G17)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from aura.clock import SystemClock
from aura.errors import ConfigError
from aura.log.memory import MemoryEventStore
from aura.log.store import LogIdentity, Recorded
from aura.projections import sql
from aura.projections.connection import Connection, connect
from aura.projections.migrations import migrate
from aura.projections.service import ProjectorService
from aura.projections.writer import Writer
from aura.runtime.embedded_postgres import EmbeddedPostgres
from tests.support.job_log import JobLog
from tests.support.read_models import EPOCH, decode, digests, live_versions, owner, rows, shadow_versions, write
from tests.support.servers import Database

GUARD_S = 40


class Bench:
    """Services started in a test, stopped at its end."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, str, str]] = []
        self._services: list[ProjectorService] = []

    async def start(self, store: Any, conninfo: str, **more: Any) -> ProjectorService:
        async def alert(code: str, severity: str, entity: str) -> None:
            self.alerts.append((code, severity, entity))

        service = ProjectorService(store, conninfo, clock=SystemClock(), on_alert=alert, **more)
        self._services.append(service)
        async with asyncio.timeout(GUARD_S):
            await service.start()
        return service

    async def stop(self) -> None:
        for service in self._services:
            await service.stop()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.stop()


async def reached(service: ProjectorService, seq: int) -> None:
    async with asyncio.timeout(GUARD_S):
        await service.log.reached(seq)


async def expected_digests(connection: Connection, log: JobLog) -> Any:
    made = await shadow_versions(connection)
    await write(Writer(connection, made, epoch=EPOCH, decode=decode), await log.all())
    return await digests(connection, made)


async def assert_read_models_are_the_log(conninfo: str, log: JobLog) -> None:
    """G4: the live rows are those of a fold of the whole log."""
    connection = await owner(conninfo)
    assert await digests(connection, await live_versions(connection)) == await expected_digests(connection, log)
    await connection.close()


async def test_it_follows_live_and_survives_a_restart(database: Database, bench: Bench) -> None:
    log = JobLog(seed=4)
    await log.wander(60)
    service = await bench.start(log.store, database.owner_url)
    await reached(service, log.seq)
    await log.wander(60)
    await reached(service, log.seq)
    await service.stop()
    await log.wander(60)
    again = await bench.start(log.store, database.owner_url)
    await reached(again, log.seq)
    assert again.status["log"]["status"] == "leading"
    assert again.ready
    await assert_read_models_are_the_log(database.owner_url, log)
    await again.stop()
    await again.stop()


async def test_g9_a_second_projector_stands_by_and_takes_over(database: Database, bench: Bench) -> None:
    log = JobLog(seed=5)
    first = await bench.start(log.store, database.owner_url)
    second = await bench.start(log.store, database.owner_url)
    assert (first.log.status, second.log.status) == ("leading", "standby")
    await log.wander(80)
    await reached(first, log.seq)
    await first.stop()
    async with asyncio.timeout(GUARD_S):
        await second.log.wait_for("leading")
    await log.wander(80)
    await reached(second, log.seq)
    await assert_read_models_are_the_log(database.owner_url, log)


async def test_g4_a_cut_connection_changes_nothing(database: Database, bench: Bench) -> None:
    log = JobLog(seed=6)
    service = await bench.start(log.store, database.owner_url)
    admin = await psycopg.AsyncConnection.connect(database.superuser_url, autocommit=True)
    for _ in range(6):
        await log.wander(25)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'aura-projector-log'"
        )
        await log.wander(25)
        await reached(service, log.seq)
    await admin.close()
    await assert_read_models_are_the_log(database.owner_url, log)


async def test_g4_kill_9_of_postgres_loses_and_doubles_nothing(tmp_path: Path, bench: Bench) -> None:
    postgres = EmbeddedPostgres(tmp_path / "pg", tmp_path / "credentials", tmp_path / "pg.log")
    await postgres.start()
    try:
        log = JobLog(seed=7)
        service = await bench.start(log.store, postgres.url())
        for _ in range(3):
            await log.wander(40)
            assert postgres.child is not None
            postgres.child.signal(signal.SIGKILL)
            await postgres.child.wait()
            await log.wander(40)
            await postgres.start()
            await reached(service, log.seq)
        await assert_read_models_are_the_log(postgres.url(), log)
    finally:
        await bench.stop()
        await postgres.stop()


async def test_g17_poison_raises_one_alert_and_the_rest_goes_on(database: Database, bench: Bench) -> None:
    log = JobLog(seed=8)
    job = (await log.prd(1))[0]
    service = await bench.start(log.store, database.owner_url)
    await log.raw(f"aura.job.1.{job}.claimed", b"rubbish")
    await log.raw(f"aura.job.1.{job}.claimed", b"more rubbish")
    await log.wander(30)
    await reached(service, log.seq)
    assert bench.alerts == [("projection_quarantine", "critical", f"job:{job}")]
    connection = await owner(database.owner_url)
    kept = await rows(connection, "SELECT entity, events FROM read.quarantine WHERE projection = 'jobs'")
    assert kept == [{"entity": job, "events": 2}]
    await connection.close()


# ---------------------------------------------------------------- another log (G5)


class Another:
    """A log whose identity can be forged."""

    def __init__(
        self,
        store: MemoryEventStore,
        *,
        epoch: str = EPOCH,
        cut: int | None = None,
        rewrite: int | None = None,
        first_seq: int = 1,
    ) -> None:
        self._store = store
        self.epoch = epoch
        self.cut = cut
        self.rewrite = rewrite
        self.first_seq = first_seq

    async def identity(self) -> LogIdentity:
        real = await self._store.identity()
        return LogIdentity(self.epoch, self.first_seq, real.last_seq if self.cut is None else self.cut)

    async def get(self, seq: int) -> Recorded | None:
        found = await self._store.get(seq)
        return replace(found, body=b'{"other":1}') if found is not None and seq == self.rewrite else found

    def read(self, *args: Any, **more: Any) -> Any:
        return self._store.read(*args, **more)

    def follow(self, from_seq: int) -> Any:
        return self._store.follow(from_seq)


@pytest.mark.parametrize("fault", ["epoch", "shorter", "rewritten", "trimmed beyond"])
async def test_g5_another_log_stops_it_before_it_writes(database: Database, bench: Bench, fault: str) -> None:
    log = JobLog(seed=9)
    await log.wander(50)
    assert isinstance(log.store, MemoryEventStore)
    service = await bench.start(log.store, database.owner_url)
    await reached(service, log.seq)
    at = log.seq
    await service.stop()
    other = {
        "epoch": Another(log.store, epoch="log-2"),
        "shorter": Another(log.store, cut=at - 1),
        "rewritten": Another(log.store, rewrite=at),
        "trimmed beyond": Another(log.store, first_seq=at + 5),
    }[fault]
    await log.wander(20)
    stopped = await bench.start(other, database.owner_url)
    assert stopped.log.status == "regressed"
    assert stopped.log.error
    assert not stopped.ready
    connection = await owner(database.owner_url)
    assert (await rows(connection, "SELECT min(seq) AS seq FROM read.checkpoints"))[0]["seq"] == at
    await connection.close()


async def test_g5_a_log_replaced_while_following_stops_it(database: Database, bench: Bench) -> None:
    log = JobLog(seed=9)
    await log.wander(30)
    assert isinstance(log.store, MemoryEventStore)
    source = Another(log.store)
    service = await bench.start(source, database.owner_url)
    await reached(service, log.seq)
    source.epoch = "log-2"
    async with asyncio.timeout(GUARD_S):
        await service.log.wait_for("regressed")


async def test_a_log_that_begins_later_is_read_from_where_it_begins(database: Database, bench: Bench) -> None:
    log = JobLog(seed=9)
    first = await log.prd(2)
    kept = log.seq + 1
    later = await log.prd(2)
    await log.finish(later[0])
    assert isinstance(log.store, MemoryEventStore)
    service = await bench.start(Another(log.store, first_seq=kept), database.owner_url)
    await reached(service, log.seq)
    connection = await owner(database.owner_url)
    found = {row["id"] for row in await rows(connection, "SELECT id FROM read.jobs")}
    assert found == set(later)
    assert not found & set(first)
    await connection.close()


# ---------------------------------------------------------------- heartbeats


class Heartbeats(MemoryEventStore):
    """A forgetful stream of heartbeats."""

    first = 1

    def beat(self, model: str, worker: str, **payload: Any) -> None:
        seq = len(self._events) + 1
        body = {
            "type": "model.heartbeat",
            "model": model,
            "worker_id": worker,
            "payload": payload,
            "slots": 2,
            "interval_s": 5,
            "in_flight": [],
            "ts": "2026-01-01T00:00:00.000000Z",
        }
        self._events.append(Recorded(seq, f"health.aura.{model}.{worker}", seq * 1_000, orjson.dumps(body)))
        for follower in self._followers:
            follower.set()

    async def identity(self) -> LogIdentity:
        return LogIdentity("health-1", self.first, len(self._events))


async def test_heartbeats_have_their_own_checkpoint_and_are_forgotten(database: Database, bench: Bench) -> None:
    log, beats = JobLog(), Heartbeats(SystemClock())
    beats.beat("m", "w1", status="ok")
    beats.beat("m", "w2", status="degraded", mem_mb=5)
    beats.beat("broken/../name", "w")
    service = await bench.start(log.store, database.owner_url, health=beats)
    assert service.health is not None
    beats.beat("m", "w1", status="fine")
    async with asyncio.timeout(GUARD_S):
        await service.health.reached(4)
    connection = await owner(database.owner_url)
    assert await rows(connection, "SELECT worker, seq, status FROM read.workers WHERE model = 'm' ORDER BY worker") == [
        {"worker": "w1", "seq": 4, "status": "fine"},
        {"worker": "w2", "seq": 2, "status": "degraded"},
    ]
    await connection.execute(sql.for_schema("projections/health/prune", "p_health_v1"), {"first_seq": 3})
    assert await rows(connection, "SELECT worker FROM read.workers WHERE model = 'm'") == [{"worker": "w1"}]
    await connection.close()


# ---------------------------------------------------------------- migrations


async def test_an_edited_or_unknown_migration_is_refused(database: Database) -> None:
    connection = await connect(database.owner_url, "test")
    known = sql.migrations()
    assert await migrate(connection) == len(known)
    assert await migrate(connection) == 0
    edited = [(number, name, text + "-- edited\n") for number, name, text in known]
    with pytest.raises(ConfigError, match="edited"):
        await migrate(connection, migrations=edited)
    with pytest.raises(ConfigError, match="does not know"):
        await migrate(connection, migrations=[])
    broken = [*known, (9000, "broken", "CREATE TABLE aura.half (x int); SELECT nonsense();")]
    with pytest.raises(psycopg.Error):
        await migrate(connection, migrations=broken)
    assert await rows(connection, "SELECT 1 FROM pg_tables WHERE tablename = 'half'") == []
    await connection.close()


async def test_concurrent_starts_migrate_once(database: Database) -> None:
    connections = [await connect(database.owner_url, "test") for _ in range(4)]
    applied = await asyncio.gather(*(migrate(connection) for connection in connections))
    assert sorted(applied) == [0, 0, 0, len(sql.migrations())]
    for connection in connections:
        await connection.close()


async def test_the_reader_may_read_the_views_and_nothing_else(read_models: Database) -> None:
    connection = await owner(read_models.owner_url)
    await live_versions(connection)
    reader = await psycopg.AsyncConnection.connect(read_models.reader_url, autocommit=True)
    await reader.execute("SELECT * FROM read.jobs LIMIT 1")
    await reader.execute("SELECT * FROM read.checkpoints")
    for forbidden in ("DELETE FROM read.prds", "UPDATE aura.projections SET seq = 0", "CREATE TABLE read.x (y int)"):
        with pytest.raises(psycopg.errors.Error):
            await reader.execute(forbidden)
    await reader.close()
    await connection.close()
