"""What the read API answers is what a plain filter over a fold of the log answers, page by page, now and as of the past."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from aura.clock import SystemClock, rfc3339
from aura.domain import job_commands as c
from aura.errors import InvalidRequest, NotFound, Unavailable
from aura.log.store import Recorded
from aura.projections import listing
from aura.projections.catalog import FROM_HEALTH
from aura.projections.connection import Connection
from aura.projections.decoding import decode, decode_heartbeat
from aura.projections.queries import Queries
from aura.projections.versions import live
from aura.projections.writer import Writer
from tests.support.job_log import MODELS, ROLES, JobLog
from tests.support.read_models import EPOCH, live_versions, owner, project, write
from tests.support.servers import Database
from tests.support.synthetic_log import events

STATUSES = ("QUEUED", "ASSIGNED", "IN_PROGRESS", "SUBMITTED", "COMPLETED", "FAILED", "CANCELLED")
Row = dict[str, Any]


@pytest.fixture
async def connection(read_models: Database) -> AsyncIterator[Connection]:
    made = await owner(read_models.owner_url)
    await live_versions(made)
    await live(made, FROM_HEALTH.projections[0])
    yield made
    await made.close()


@pytest.fixture
async def queries(read_models: Database, connection: Connection) -> AsyncIterator[Queries]:
    made = Queries(read_models.reader_url, clock=SystemClock())
    await made.start()
    yield made
    await made.stop()


def fold(stored: list[Recorded], until: int | None = None) -> list[Row]:
    """Jobs newest first, by the simplest possible reading of the log."""
    jobs: dict[str, Row] = {}
    for one in stored:
        if until is not None and one.seq > until:
            break
        event = orjson.loads(one.body)
        if not event["type"].startswith(("job.", "archive.")):
            continue
        job = jobs.setdefault(event["job_id"], {"id": event["job_id"], "created_seq": one.seq, "created": event})
        job["state"], job["seq"] = event["state"], one.seq
    return sorted(jobs.values(), key=lambda job: -int(job["created_seq"]))


def wanted(
    job: Row, *, status: Any = None, project_id: Any = None, role: Any = None, model: Any = None, q: Any = None
) -> bool:
    state, created = job["state"], job["created"]
    return (
        (status is None or state["status"] in status.split(","))
        and (project_id is None or created["project_id"] == project_id)
        and (role is None or created["role"] == role)
        and (model is None or state.get("model") == model)
        and (q is None or q.lower() in created["title"].lower())
    )


async def every_page(queries: Queries, limit: int, **filters: Any) -> list[Row]:
    found: list[Row] = []
    cursor = None
    for _ in range(10_000):
        page = await queries.list_jobs(limit=limit, cursor=cursor, **filters)
        assert len(page.rows) <= limit
        found += page.rows
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise AssertionError("pages never end")


def some_filter(rng: random.Random) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    if rng.random() < 0.5:
        filters["status"] = ",".join(rng.sample(STATUSES, rng.randint(1, 3)))
    if rng.random() < 0.4:
        filters["project_id"] = rng.randint(1, 4)
    if rng.random() < 0.4:
        filters["role"] = rng.choice((*ROLES, "Nobody"))
    if rng.random() < 0.4:
        filters["model"] = rng.choice((*MODELS.values(), "m", "none"))
    if rng.random() < 0.4:
        filters["q"] = rng.choice(("build", "PARSER", "the p", "te", "1", "%", "_", "\\", "zzz", "docs 2"))
    return filters


@pytest.mark.parametrize("way", ["merged", "scanned", "searched"])
async def test_every_filter_gives_what_a_plain_reading_gives(
    connection: Connection, queries: Queries, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way != "merged":  # the ways for huge tables, made to matter on a small one
        if way == "scanned":
            monkeypatch.setattr(listing, "MAX_KINDS", 0)
        monkeypatch.setattr(listing, "WINDOW", 7)
        monkeypatch.setattr(listing, "KIND_WINDOW", 5)
        monkeypatch.setattr(listing, "AS_OF_WINDOW", 9)
    if way == "scanned":
        monkeypatch.setattr(queries, "_has_trigrams", False)
    log = JobLog(seed=21)
    await log.wander(500)
    stored = await log.all()
    await project(connection, stored)
    jobs = fold(stored)
    rng = random.Random(way)
    for _ in range(40):
        filters = some_filter(rng)
        found = await every_page(queries, rng.choice((1, 3, 50)), **filters)
        assert [row["id"] for row in found] == [job["id"] for job in jobs if wanted(job, **filters)], filters
        for row in found[:3]:
            job = next(job for job in jobs if job["id"] == row["id"])
            assert (row["status"], row["assigned_model"], row["seq"]) == (
                job["state"]["status"],
                job["state"].get("model"),
                job["seq"],
            )


async def test_as_of_gives_what_was_then(connection: Connection, queries: Queries) -> None:
    log = JobLog(seed=22)
    await log.wander(300)
    stored = await log.all()
    await project(connection, stored)
    rng = random.Random(1)
    for _ in range(15):
        seq = rng.randint(1, log.seq)
        then = fold(stored, seq)
        filters = some_filter(rng)
        found = await every_page(queries, 20, as_of=seq, **filters)
        assert [row["id"] for row in found] == [job["id"] for job in then if wanted(job, **filters)], (seq, filters)
        counts = (await queries.stats(as_of=seq))["counts"]
        assert {s: n for s, n in counts.items() if n} == dict(Counter(job["state"]["status"] for job in then))
        if then:
            one = rng.choice(then)
            row = await queries.get_job(one["id"], as_of=seq)
            assert (row["status"], row["seq"]) == (one["state"]["status"], one["seq"])
    young = fold(stored)[0]
    with pytest.raises(NotFound):
        await queries.get_job(young["id"], as_of=young["created_seq"] - 1)


async def test_counts_as_of_are_right_across_blocks(connection: Connection, queries: Queries) -> None:
    stored = list(events(250, first_seq=2 * 16_384 - 400, projects=3, window=40))
    assert stored[-1].seq > 2 * 16_384 + 300
    writer = Writer(connection, await live_versions(connection), epoch=EPOCH, decode=decode)
    await write(writer, stored, (90,))
    for seq in (stored[10].seq, 2 * 16_384 - 1, 2 * 16_384, 2 * 16_384 + 1, 2 * 16_384 + 250, stored[-1].seq):
        for project_id in (None, 1):
            then = [job for job in fold(stored, seq) if wanted(job, project_id=project_id)]
            told = await queries.stats(as_of=seq, project_id=project_id)
            assert {s: n for s, n in told["counts"].items() if n} == dict(
                Counter(job["state"]["status"] for job in then)
            )


async def test_a_time_means_the_greatest_sequence_stored_by_then(connection: Connection, queries: Queries) -> None:
    log = JobLog(seed=1)
    await log.prd(3)
    log.clock.jump(-100)  # the server's clock goes back: later events look older
    await log.prd(3)
    log.clock.jump(200)
    await log.prd(3)
    stored = await log.all()
    await project(connection, stored)
    for one in stored:
        text = rfc3339(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one.stored_at_ns // 1_000))
        expected = max(other.seq for other in stored if other.stored_at_ns <= one.stored_at_ns)
        assert await queries.resolve(text) == expected
    assert await queries.resolve("1999-01-01T00:00:00Z") == 0
    assert (await queries.list_jobs(as_of="1999-01-01T00:00:00Z")).rows == []


@pytest.mark.parametrize(
    "as_of", ["yesterday", "2026-01-01", "2026-01-01T00:00:00", "-1", "9" * 30, "1; DROP TABLE x", ""]
)
async def test_a_malformed_as_of_is_refused(queries: Queries, as_of: str) -> None:
    with pytest.raises(InvalidRequest):
        await queries.resolve(as_of)


@pytest.mark.parametrize(
    "bad",
    [
        {"status": "queued"},
        {"status": "QUEUED,x"},
        {"project_id": 0},
        {"project_id": 2**31},
        {"model": "a.b"},
        {"model": "*"},
        {"model": "m" * 65},
        {"q": "x" * 201},
        {"q": "a\0b"},
        {"role": "r\0"},
        {"limit": 0},
        {"limit": 1001},
        {"limit": -1},
        {"cursor": "abc"},
        {"cursor": "'; DROP TABLE x --"},
    ],
)
async def test_bad_filters_are_refused(queries: Queries, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await queries.list_jobs(**bad)


@pytest.mark.parametrize(
    "job_id", ["*", ">", "a.b", "", "1", "00000000-0000-0000-0000-00000000000G", "x" * 5000, "' OR 1=1"]
)
async def test_an_id_that_is_none_is_not_found(queries: Queries, job_id: str) -> None:
    for ask in (queries.get_job, queries.get_prd, queries.get_archive, queries.job_events):
        with pytest.raises(NotFound):
            await ask(job_id)


async def test_sql_in_filters_is_only_text(connection: Connection, queries: Queries) -> None:
    log = JobLog()
    await log.prd(1, title="'); DROP TABLE jobs; --")
    await project(connection, await log.all())
    found = (await queries.list_jobs(q="'); DROP TABLE")).rows
    assert len(found) == 1
    assert (await queries.list_jobs(role="' OR '1'='1")).rows == []


async def test_prds_archives_subjects_and_events(connection: Connection, queries: Queries) -> None:
    log = JobLog(seed=2)
    first = await log.prd(3, title="plan one", subject="s1", stages=["fetch", "parse"])
    await log.prd(2, project=2, title="plan two")
    await log.finish(first[0])
    await log.do(first[1], c.CancelJob("director:1", 60.0, "no"))
    await log.claim(first[2])
    await log.do(first[2], c.ChangeStage("fetch", "running"))
    await project(connection, await log.all())
    prds = (await queries.list_prds()).rows
    assert [(prd["title"], prd["status"], prd["count"]) for prd in prds] == [
        ("plan two", "QUEUED", 2),
        ("plan one", "IN_PROGRESS", 3),
    ]
    assert prds[1]["progress"] == pytest.approx(66.7)
    one = await queries.get_prd(prds[1]["id"])
    assert [job["id"] for job in one["jobs"]] == first
    page = await queries.list_prds(limit=1)
    assert page.next_cursor is not None
    assert [prd["title"] for prd in (await queries.list_prds(limit=1, cursor=page.next_cursor)).rows] == ["plan one"]
    archived = (await queries.list_archives(project_id=1)).rows
    assert [(row["id"], row["final_status"], row["title"]) for row in archived] == [
        (first[1], "CANCELLED", "plan one 1"),
        (first[0], "COMPLETED", "plan one 0"),
    ]
    assert (await queries.get_archive(first[0]))["retention_until"] is not None
    with pytest.raises(NotFound):
        await queries.get_archive(first[2])
    told = await queries.job_events(first[0])
    assert [event["type"] for event in told] == ["job.created", "job.assigned", "job.claimed", "job.completed"]
    assert [event["seq"] for event in await queries.job_events(first[0], after=told[1]["seq"])] == [
        event["seq"] for event in told[2:]
    ]
    grid = await queries.subjects(1)
    assert grid["stages"] == ["fetch", "parse"]
    assert grid["subjects"][0]["stages"]["fetch"] == "running"
    stats = await queries.stats()
    assert stats["counts"]["COMPLETED"] == 1
    assert stats["latency"]["jobs"] == 1
    assert stats["models"]["employee_ollama"]["success_rate"] == 1.0
    assert (await queries.stats(project_id=2))["total"] == 2
    assert await queries.purging() == []
    statuses = await queries.job_statuses(first)
    assert statuses[first[0]]["status"] == "COMPLETED"


async def test_models_and_their_health(connection: Connection, queries: Queries) -> None:
    from aura.domain import model

    log = JobLog()
    await log.tell_model("m1", model.RegisterModel(slots=3, roles=("Employee",)))
    registered = log.seq
    await log.tell_model("m1", model.PauseModel("director:1"))
    await project(connection, await log.all())
    assert [(one["model"], one["paused"], one["slots"]) for one in await queries.models()] == [("m1", True, 3)]
    assert [one["paused"] for one in await queries.models(as_of=registered)] == [False]
    assert await queries.models(as_of=0) == []
    now_ns = int(SystemClock().now().timestamp() * 1e9)

    def beat(seq: int, age_s: int, worker: str) -> Recorded:
        body = {"ts": "2026-01-01T00:00:00Z", "payload": {"status": "ok", "mem_mb": seq}, "slots": 2, "interval_s": 5}
        return Recorded(seq, f"health.aura.m1.{worker}", now_ns - age_s * 10**9, orjson.dumps(body))

    old = beat(1, 400, "w0")
    version = await live(connection, FROM_HEALTH.projections[0])
    writer = Writer(connection, [version], epoch="h", decode=decode_heartbeat)
    await write(writer, [old])
    assert await queries.models_health() == []
    await write(writer, [beat(2, 100, "w1"), beat(3, 50, "w2")])
    health = await queries.models_health()
    assert [(one["model_name"], one["payload"]["mem_mb"], one["workers"], one["slots"]) for one in health] == [
        ("m1", 3, 2, 4)
    ]
    one = await queries.model_health("m1")
    assert [entry["seq"] for entry in one["history"]] == [3, 2, 1]
    assert one["status"] == "ok"
    with pytest.raises(NotFound):
        await queries.model_health("unheard")


async def test_the_snapshot_is_of_one_checkpoint(connection: Connection, queries: Queries) -> None:
    from aura.events import catalogue as e
    from aura.ids import derived

    log = JobLog(seed=5)
    await log.wander(200)
    first = await log.prd(2, project=3)
    waiting = derived("waiting")
    created = e.JobCreated(
        root_job_id=first[0],
        index=2,
        count=3,
        title="waits",
        task_type="code",
        role="Employee",
        depends_on=[first[0], first[1]],
        concurrency_key="one at a time",
    )
    await log.do(waiting, c.CreateJob(created), project=3)
    await log.finish(first[0])
    await project(connection, await log.all())
    async with queries.snapshot() as snapshot:
        await log.wander(20)
        await project(connection, await log.all())  # while the snapshot is open
        rows = [row async for step in snapshot.jobs() for row in step]
    assert snapshot.epoch == EPOCH
    open_then = {
        job["id"]: job for job in fold(await log.all(), snapshot.seq) if job["state"]["status"] in STATUSES[:3]
    }
    assert {row["id"] for row in rows} == set(open_then)
    for row in rows:
        assert (row["seq"], row["state"]) == (open_then[row["id"]]["seq"], open_then[row["id"]]["state"])
    mine = next(row for row in rows if row["id"] == waiting)
    assert mine["unmet_deps"] == {first[1]: "QUEUED"}
    assert mine["concurrency_key"] == "one at a time"
    assert len(snapshot.models) == len(log.models)


async def test_wait_for_reads_your_writes(read_models: Database, connection: Connection, queries: Queries) -> None:
    log = JobLog()
    job = (await log.prd(1))[0]
    waiting = asyncio.create_task(queries.wait_for(log.seq, 30))
    await project(connection, await log.all())
    async with asyncio.timeout(30):
        assert await waiting
    assert (await queries.get_job(job))["seq"] == log.seq
    assert not await queries.wait_for(log.seq + 1, 0.05)
    with pytest.raises(InvalidRequest):
        await queries.resolve(-1)


async def test_projections_tell_their_lag(connection: Connection, queries: Queries) -> None:
    log = JobLog()
    await log.prd(2)
    await project(connection, await log.all())
    told = {one["name"]: one for one in await queries.projections(log_seq=log.seq + 3)}
    assert set(told) == {"jobs", "timeline", "models", "archives", "sessions", "health"}
    assert told["jobs"]["lag_events"] == 3
    assert told["jobs"]["lag_s"] > 0
    assert told["health"]["lag_events"] is None


async def test_without_postgres_it_says_unavailable() -> None:
    absent = Queries("host=127.0.0.1 port=1 user=x dbname=x connect_timeout=1", clock=SystemClock())
    absent._pool.timeout = 0.2
    await absent.start()
    with pytest.raises(Unavailable):
        await absent.list_jobs()
    await absent.stop()
    await absent.stop()


async def test_before_the_first_projector_it_says_unavailable(database: Database) -> None:
    early = Queries(database.owner_url, clock=SystemClock())
    await early.start()
    with pytest.raises(Unavailable):
        await early.list_jobs()
    await early.stop()
