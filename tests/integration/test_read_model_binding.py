"""What the scheduler starts from and what models look like: the binding gives what a fold of the log gives, by the log's clock, with
the checkpoint's digest; workers that stopped or drain offer nothing. And a projector ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from aura.cli.binding.snapshot import ReadModelSnapshot
from aura.clock import ManualClock, SystemClock
from aura.events import subjects
from aura.log.identity import digest
from aura.log.memory import MemoryEventStore
from aura.log.store import LogIdentity, Recorded
from aura.projections import writer as writing
from aura.projections.queries import Queries
from aura.projections.service import ProjectorService
from aura.scheduler.snapshot import FoldedSnapshot
from tests.support.job_log import JobLog
from tests.support.read_models import owner, rows
from tests.support.servers import Database

GUARD_S = 60


class Skewed(MemoryEventStore):
    """The log's clock is an hour ahead of the deciders'."""

    def _store_one(self, append: Any) -> int:
        seq = super()._store_one(append)
        self._events[-1] = replace(self._events[-1], stored_at_ns=self._events[-1].stored_at_ns + 3_600_000_000_000)
        return seq


class Beats(MemoryEventStore):
    """A stream of heartbeats."""

    def beat(self, worker: str, status: str, slots: int | None) -> None:
        seq = len(self._events) + 1
        body = {
            "type": "model.heartbeat",
            "model": "m",
            "worker_id": worker,
            "payload": {"status": status},
            "interval_s": 5,
        }
        body |= {"ts": "2026-01-01T00:00:00.000000Z"} | ({} if slots is None else {"slots": slots})
        stored_ns = int(SystemClock().now().timestamp() * 1e9)
        self._events.append(Recorded(seq, f"health.aura.m.{worker}", stored_ns, orjson.dumps(body)))

    async def identity(self) -> LogIdentity:
        return LogIdentity("health-1", 1, len(self._events))


@pytest.fixture
async def queries(database: Database) -> AsyncIterator[Queries]:
    made = Queries(database.owner_url, clock=SystemClock())
    await made.start()
    yield made
    await made.stop()


async def projected(database: Database, store: MemoryEventStore, seq: int, **more: Any) -> ProjectorService:
    service = ProjectorService(store, database.owner_url, clock=SystemClock(), **more)
    async with asyncio.timeout(GUARD_S):
        await service.start()
        await service.log.reached(seq)
    return service


async def test_the_snapshot_is_what_a_fold_of_the_log_gives(database: Database, queries: Queries) -> None:
    clock = ManualClock()
    log = JobLog(Skewed(clock, epoch="log-1"), seed=11, clock=clock)
    await log.wander(300)
    assert isinstance(log.store, MemoryEventStore)
    service = await projected(database, log.store, log.seq, health=Beats(clock))
    data = await ReadModelSnapshot(queries, log.store, fold_up_to=0).load()
    folded = await FoldedSnapshot(log.store).load()
    await service.stop()
    last = await log.store.get(log.seq)
    assert last is not None
    assert (data.epoch, data.seq, data.stored_at_ns) == (folded.epoch, folded.seq, folded.stored_at_ns)
    assert data.sha256 == digest(last.body)
    assert [(job.job_id, job.seq) for job in data.jobs] == [(job.job_id, job.seq) for job in folded.jobs]
    since: dict[str, int] = {}
    for recorded in await log.all():
        where = subjects.parse(recorded.subject)
        if where.type not in ("job.stage_changed", "job.reprioritized", "job.late_result_rejected"):
            since[where.entity] = recorded.stored_at_ns
    assert data.jobs
    assert {job.job_id: job.since_ns for job in data.jobs} == {job.job_id: since[job.job_id] for job in data.jobs}
    connection = await owner(database.owner_url)
    counted = await rows(
        connection,
        "SELECT model, count(*) FILTER (WHERE status = 'COMPLETED') AS good, count(*) FILTER (WHERE status = 'FAILED') AS bad"
        " FROM read.job_states WHERE model IS NOT NULL GROUP BY model",
    )
    await connection.close()
    ended = {row["model"]: (row["good"], row["bad"]) for row in counted}
    assert any(good for good, _ in ended.values())
    for known in data.models:
        assert (known.succeeded, known.failed) == ended.get(known.name, (0, 0))
        assert known.latency_s >= 0


async def test_who_stopped_or_drains_offers_nothing(database: Database, queries: Queries) -> None:
    log, beats = JobLog(), Beats(SystemClock())
    await log.wander(5)
    beats.beat("steady", "ok", 3)
    beats.beat("drains", "draining", 0)
    beats.beat("curl", "ok", None)
    beats.beat("gone", "stopped", 8)
    assert isinstance(log.store, MemoryEventStore)
    service = await projected(database, log.store, log.seq, health=beats)
    assert service.health is not None
    async with asyncio.timeout(GUARD_S):
        await service.health.reached(4)
    (model,) = await queries.models_health()
    assert (model["workers"], model["slots"], model["worker_id"]) == (3, 4, "curl")
    async with queries.snapshot() as snapshot:
        assert {row["worker"]: row["slots"] for row in snapshot.workers} == {"steady": 3, "drains": 0, "curl": 1}
    await service.stop()


async def test_stop_is_heard_although_a_cancellation_was_swallowed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = JobLog()
    await log.wander(5)
    assert isinstance(log.store, MemoryEventStore)
    service = await projected(database, log.store, log.seq)
    entered, swallowed = asyncio.Event(), asyncio.Event()
    tick = service.log._tick

    async def deaf_once(writer: writing.Writer) -> None:
        if not swallowed.is_set():
            try:
                entered.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # what asyncio.wait_for of Python 3.11 may do
                swallowed.set()
        await tick(writer)

    monkeypatch.setattr(service.log, "_tick", deaf_once)
    async with asyncio.timeout(GUARD_S):
        await entered.wait()
        await service.stop()
    assert swallowed.is_set()


async def test_stop_lets_a_commit_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    log = JobLog()
    await log.wander(5)
    assert isinstance(log.store, MemoryEventStore)
    service = await projected(database, log.store, log.seq)
    began, may_end = asyncio.Event(), asyncio.Event()
    ended: list[int] = []
    commit = writing.Writer.commit

    async def slow(self: writing.Writer, batch: writing.Batch) -> Any:
        began.set()
        await may_end.wait()
        done = await commit(self, batch)
        ended.append(batch.last.seq)
        return done

    monkeypatch.setattr(writing.Writer, "commit", slow)
    await log.prd(1)
    async with asyncio.timeout(GUARD_S):
        await began.wait()
        stopping = asyncio.create_task(service.stop())
        waited, _ = await asyncio.wait({stopping}, timeout=0.7)
        assert not waited
        may_end.set()
        await stopping
    assert ended
    connection = await owner(database.owner_url)
    place = await rows(connection, "SELECT min(seq) AS seq FROM read.checkpoints WHERE name <> 'health'")
    assert place == [{"seq": ended[-1]}]
    await connection.close()
