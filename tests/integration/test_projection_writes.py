"""Rows are what the log says, whatever the batches and wherever it crashes (G4); poison is contained (G17)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aura.projections import rows as table_rows
from aura.projections import versions
from aura.projections.connection import Connection, connect
from aura.projections.decoding import decode
from aura.projections.pipeline import Statement
from aura.projections.quarantine import release_requested, request_release
from aura.projections.writer import StaleCheckpoint, Writer
from tests.support.job_log import JobLog
from tests.support.read_models import EPOCH, digests, live_versions, owner, project, rows, shadow_versions, write
from tests.support.servers import Database

JOB = "00000000-0000-7000-8000-00000000000a"


async def wandered(seed: int, steps: int) -> JobLog:
    log = JobLog(seed=seed)
    await log.wander(steps)
    log.later(7200)  # retention passes: purges become possible
    await log.wander(steps // 2)
    return log


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=8),
    copy_from=st.sampled_from((1, 20, 1000)),
)
async def test_g4_rows_do_not_depend_on_the_batches(
    read_models: Database, seed: int, sizes: list[int], copy_from: int
) -> None:
    stored = await (await wandered(seed, 120)).all()
    connection = await owner(read_models.owner_url)
    usual = table_rows.COPY_FROM
    try:
        together = await shadow_versions(connection)
        await write(Writer(connection, together, epoch=EPOCH, decode=decode), stored)
        table_rows.COPY_FROM = copy_from
        apart = await shadow_versions(connection)
        await write(Writer(connection, apart, epoch=EPOCH, decode=decode), stored, sizes)
        assert await digests(connection, together) == await digests(connection, apart)
        for version in (*together, *apart):
            await versions.drop(connection, version)
    finally:
        table_rows.COPY_FROM = usual
        await connection.close()


class CrashingWriter(Writer):
    """Cuts the connection before the n-th statement, as a kill would: what came before it has been sent."""

    statements_left = 0

    async def run(self, statements: Sequence[Statement]) -> None:
        if self.statements_left < len(statements):
            pgconn = self.connection.pgconn
            pgconn.enter_pipeline_mode()
            self._pipeline._send(pgconn, statements[: self.statements_left])
            pgconn.send_flush_request()
            pgconn.flush()
            pgconn.finish()
            raise psycopg.OperationalError("crashed")
        self.statements_left -= len(statements)
        await super().run(statements)

    async def copy(self, text: str, lines: bytes) -> None:
        if self.statements_left == 0:
            self.connection.pgconn.finish()
        self.statements_left -= 1
        await super().copy(text, lines)


@pytest.mark.parametrize("copy_from", [1, 10_000])
async def test_g4_a_crash_before_any_statement_leaves_the_same_rows(
    read_models: Database, monkeypatch: pytest.MonkeyPatch, copy_from: int
) -> None:
    monkeypatch.setattr(table_rows, "COPY_FROM", copy_from)
    stored = await (await wandered(5, 60)).all()
    connection = await owner(read_models.owner_url)
    reference = await project(connection, stored)
    expected = await digests(connection, reference)
    crashes = 0
    for at in range(200):
        made = await shadow_versions(connection)
        victim = await connect(read_models.owner_url, "victim")
        writer = CrashingWriter(victim, made, epoch=EPOCH, decode=decode)
        writer.statements_left = at
        crashed = False
        try:
            await write(writer, stored, (len(stored) // 2 + 1,))
        except psycopg.OperationalError:
            crashed = True
        await victim.close()
        again = [(await versions.load(connection, one.projection, status="shadow"))[-1] for one in made]
        assert len({one.seq for one in again}) == 1
        rest = Writer(connection, again, epoch=EPOCH, decode=decode)
        await write(rest, [one for one in stored if one.seq > rest.seq], (60,))
        assert await digests(connection, again) == expected, f"crash before statement {at}"
        for version in again:
            await versions.drop(connection, version)
        if not crashed:
            break
        crashes += 1
    assert crashes >= 10
    await connection.close()


async def test_g4_a_projector_that_was_overtaken_writes_nothing(read_models: Database) -> None:
    stored = await (await wandered(2, 60)).all()
    one, other = await owner(read_models.owner_url), await owner(read_models.owner_url)
    first, second = await live_versions(one), await live_versions(other)
    await write(Writer(one, first, epoch=EPOCH, decode=decode), stored)
    expected = await digests(one, first)
    with pytest.raises(StaleCheckpoint):
        await write(Writer(other, second, epoch=EPOCH, decode=decode), stored)
    assert await digests(one, first) == expected
    await one.close()
    await other.close()


async def test_g4_two_writers_at_once_do_no_harm(read_models: Database) -> None:
    stored = await (await wandered(3, 100)).all()
    connection = await owner(read_models.owner_url)
    reference = await shadow_versions(connection)
    await write(Writer(connection, reference, epoch=EPOCH, decode=decode), stored)
    expected = await digests(connection, reference)
    await live_versions(connection)

    async def race() -> None:
        mine = await owner(read_models.owner_url)
        try:
            while True:
                writer = Writer(mine, await live_versions(mine), epoch=EPOCH, decode=decode)
                try:
                    await write(writer, [one for one in stored if one.seq > writer.seq], (7,))
                except StaleCheckpoint:
                    continue
                return
        finally:
            await mine.close()

    await asyncio.gather(race(), race())
    assert await digests(connection, await live_versions(connection)) == expected
    await connection.close()


# ---------------------------------------------------------------- poison


async def test_g17_rubbish_quarantines_its_entity_and_blocks_nobody(read_models: Database) -> None:
    log = JobLog()
    first, second = await log.prd(2)
    await log.assign(first)
    await log.raw(f"aura.job.1.{first}.claimed", b"rubbish")
    await log.raw(f"aura.job.1.{first}.stage_changed", b"{}")
    await log.finish(second)
    connection = await owner(read_models.owner_url)
    found = await live_versions(connection)
    writer = Writer(connection, found, epoch=EPOCH, decode=decode)
    quarantined = await write(writer, await log.all(), (1,))
    assert {(one.projection, one.entity, one.seq) for one in quarantined} == {
        (name, first, 4) for name in ("jobs", "timeline", "archives")
    }
    assert await rows(connection, "SELECT id, status FROM read.jobs ORDER BY created_seq") == [
        {"id": first, "status": "ASSIGNED"},
        {"id": second, "status": "COMPLETED"},
    ]
    aside = await rows(
        connection, "SELECT seq, last_seq, events, reason FROM read.quarantine WHERE projection = 'jobs'"
    )
    assert aside == [{"seq": 4, "last_seq": 5, "events": 2, "reason": "not JSON"}]
    assert writer.seq == log.seq
    await connection.close()


@pytest.mark.parametrize("batch", [1, 3, 100])
async def test_g17_values_that_postgres_refuses_are_traced_to_their_entity(read_models: Database, batch: int) -> None:
    log = JobLog()
    good = await log.prd(3, title="good")
    bad = await log.prd(1, max_attempts=2**40)
    more = await log.prd(2, title="more")
    await log.finish(good[0])
    await log.assign(bad[0])
    await log.finish(more[1])
    connection = await owner(read_models.owner_url)
    writer = Writer(connection, await live_versions(connection), epoch=EPOCH, decode=decode)
    quarantined = await write(writer, await log.all(), (batch,))
    assert [(one.projection, one.entity, one.seq) for one in quarantined] == [("jobs", bad[0], 4)]
    titles = await rows(connection, "SELECT title FROM read.jobs ORDER BY created_seq")
    assert len(titles) == 5
    counted = await rows(connection, "SELECT sum(n)::int AS n FROM read.job_kinds")
    assert counted == [{"n": 5}]
    assert len(await rows(connection, "SELECT seq FROM read.timeline")) == log.seq
    await connection.close()


async def test_g17_a_job_without_its_created_event_is_kept_aside(read_models: Database) -> None:
    log = JobLog()
    job = (await log.prd(1))[0]
    await log.finish(job)
    stranger = [one for one in await log.all() if one.seq > 1]
    connection = await owner(read_models.owner_url)
    writer = Writer(connection, await live_versions(connection), epoch=EPOCH, decode=decode)
    quarantined = await write(writer, stranger)
    assert [(one.projection, one.entity) for one in quarantined] == [("jobs", job)]
    assert await rows(connection, "SELECT 1 FROM read.job_kinds") == []
    await connection.close()


async def test_g17_release_applies_what_was_kept_aside(read_models: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old projector meets a newer type; after the upgrade the entity is released and nothing is missing."""
    from aura.projections import decoding

    log = await wandered(11, 120)
    victim = next(job for job in log.jobs if log.jobs[job][2] > 20)
    stored = await log.all()
    connection = await owner(read_models.owner_url)
    reference = await shadow_versions(connection)
    await write(Writer(connection, reference, epoch=EPOCH, decode=decode), stored)
    expected = await digests(connection, reference)

    def old_code(recorded: Any) -> decoding.LogEvent:
        event = decode(recorded)
        if event.entity == victim and event.type != "job.created":
            event.poison = "unknown event type"
        return event

    live = await live_versions(connection)
    await write(Writer(connection, live, epoch=EPOCH, decode=old_code), stored, (25,))
    assert await digests(connection, live) != expected
    assert await request_release(connection, "job", victim) == 3
    still_old = Writer(connection, live, epoch=EPOCH, decode=old_code)
    assert await release_requested(still_old, log.store, old_code) == 0
    await request_release(connection, "job", victim)
    new = Writer(connection, live, epoch=EPOCH, decode=decode)
    assert await release_requested(new, log.store, decode) == 3
    assert await digests(connection, live) == expected
    assert await rows(connection, "SELECT 1 FROM read.quarantine") == []
    await connection.close()


# ---------------------------------------------------------------- what the rows say


async def one_job(connection: Connection, job_id: str) -> dict[str, Any]:
    return (await rows(connection, "SELECT * FROM read.jobs WHERE id = %s", (job_id,)))[0]


async def test_a_job_row_follows_its_life(read_models: Database) -> None:
    from aura.domain import job_commands as c
    from aura.events import catalogue as e

    log = JobLog()
    job = (await log.prd(1, stages=["fetch", "parse"], subject="s1", labels={"team": "a"}, priority=2))[0]
    connection = await owner(read_models.owner_url)
    await log.assign(job)
    await log.claim(job, "w9")
    await log.do(job, c.ChangeStage("fetch", "done"))
    await log.do(job, c.FailJob("boom", True, 60.0, 5.0, output=e.OutputRef(count=2)))
    await project(connection, await log.all())
    row = await one_job(connection, job)
    assert (row["status"], row["error_code"], row["spent"], row["attempt"], row["output_count"]) == (
        "QUEUED",
        "boom",
        1,
        1,
        2,
    )
    assert row["not_before"] is not None
    assert row["finished_at"] is None
    assert row["stage_status"] == {"fetch": "done"}
    assert (row["labels"], row["priority"], row["subject"]) == ({"team": "a"}, 2, "s1")
    log.later(10)
    await log.claim(job, "w2")
    await project(connection, await log.all())
    row = await one_job(connection, job)
    assert (row["status"], row["worker"], row["output_count"], row["stage_status"]) == ("IN_PROGRESS", "w2", None, {})
    await log.complete(job)
    await project(connection, await log.all())
    row = await one_job(connection, job)
    assert (row["status"], row["error_code"], row["result_bytes"], row["output_count"]) == ("COMPLETED", None, 7, 4)
    assert row["finished_at"] is not None
    assert row["seq"] == log.seq
    assert row["events"] == 7
    await connection.close()


async def test_retry_withdraws_from_the_archive_and_hold_and_purge_show(read_models: Database) -> None:
    from aura.domain import job_commands as c

    log = JobLog()
    job, other = await log.prd(2)
    connection = await owner(read_models.owner_url)
    await log.do(job, c.CancelJob("director:1", 60.0, "no"))
    await log.finish(other)
    await project(connection, await log.all())
    archived = "SELECT id, final_status, held, purge, purged_bytes FROM read.archives ORDER BY closed_seq"
    assert [row["final_status"] for row in await rows(connection, archived)] == ["CANCELLED", "COMPLETED"]
    await log.do(job, c.RetryJob("director:1"))
    await log.do(other, c.HoldArchive("director:1", "court"))
    await project(connection, await log.all())
    assert [(row["id"], row["held"]) for row in await rows(connection, archived)] == [(other, True)]
    await log.do(other, c.ReleaseHold("director:1"))
    log.later(99_999)
    await log.do(other, c.RequestPurge("director:1", "digest", "asked"))
    await project(connection, await log.all())
    assert (await rows(connection, archived))[0]["purge"] == "requested"
    await log.do(other, c.RecordPurge("director:1", 42, ("content", "output")))
    await project(connection, await log.all())
    row = (await rows(connection, archived))[0]
    assert (row["purge"], row["purged_bytes"]) == ("purged", 42)
    await connection.close()


async def test_counts_are_the_rows_counted(read_models: Database) -> None:
    connection = await owner(read_models.owner_url)
    await project(connection, await (await wandered(8, 400)).all())
    counted = await rows(
        connection,
        "SELECT project_id, status, role, coalesce(model, '') AS model, count(*) AS n"
        " FROM read.job_states GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
    )
    kept = await rows(connection, "SELECT project_id, status, role, model, n FROM read.job_counts ORDER BY 1, 2, 3, 4")
    assert kept == counted
    prds = await rows(
        connection,
        "SELECT root_job_id, count(*) FILTER (WHERE status = 'QUEUED') AS queued,"
        " count(*) FILTER (WHERE status = 'FAILED') AS failed, count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled"
        " FROM read.job_states GROUP BY 1 ORDER BY 1",
    )
    assert prds == await rows(connection, "SELECT root_job_id, queued, failed, cancelled FROM read.prds ORDER BY 1")
    await connection.close()


async def test_g4_any_text_is_copied_as_it_is(read_models: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from aura.domain import job_commands as c

    title = 'say "C:\\temp"\tnow,\nnull \\N \\. \u2028é'
    log = JobLog()
    job, _ = await log.prd(2, title=title, labels={"a": 'b"\\\n,'}, stages=("one", "two"))
    await log.do(job, c.CancelJob("director:1", 60.0, "no\nmore\\"))
    stored = await log.all()
    connection = await owner(read_models.owner_url)
    found = []
    for copy_from in (1, 10_000):
        monkeypatch.setattr(table_rows, "COPY_FROM", copy_from)
        made = await shadow_versions(connection)
        await write(Writer(connection, made, epoch=EPOCH, decode=decode), stored)
        found.append(await digests(connection, made))
    assert found[0] == found[1]
    await project(connection, stored)
    row = await one_job(connection, job)
    assert (row["title"], row["labels"], row["stages"]) == (f"{title} 0", {"a": 'b"\\\n,'}, ["one", "two"])
    assert row["status_reason"] == "no\nmore\\"
    await connection.close()
