"""The sessions read model in a real Postgres: the same rows however the log is cut, rebuilt and verified, paged and filtered."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from aura.clock import SystemClock, parse_rfc3339, rfc3339
from aura.errors import InvalidRequest, NotFound
from aura.log.store import Recorded
from aura.projections.decoding import decode
from aura.projections.queries import Queries
from aura.projections.sessions import SESSIONS
from aura.projections.verify import verify, verify_states
from aura.projections.writer import Writer
from tests.support.read_models import EPOCH, digests, live_versions, owner, project, shadow_versions, write
from tests.support.servers import Database
from tests.support.session_world import SESSION, SessionWorld


async def told(world: SessionWorld) -> list[Recorded]:
    """s1 lost its worker, was retried and completed; s2 failed and runs again; s3 was cancelled; s4 waits; s1 of project 2 waits."""
    async with world.tail():
        one = await world.running("s1")
        await world.say(one, "agent_started", agent="a")
        await world.say(one, "agent_completed", agent="a", duration_ms=7, output={"x": 1})
        await world.say(one, "agent_started", agent="b")
        await world.expire(one, 1)
        world.clock.advance(3600)
        await world.claim(one)
        await world.say(one, "agent_started", attempt=2, agent="a")
        await world.say(one, "agent_completed", attempt=2, agent="a", duration_ms=9)
        await world.call("complete", one, success=True, details={"n": 1}, attempt=2)
        await world.until("session.completed")
        two = await world.running("s2")
        await world.say(two, "agent_started", session_id="s2", agent="c")
        await world.say(two, "agent_failed", session_id="s2", agent="c", error_code="no_data", message="No data.")
        await world.call("fail", two, error_code="no_data", retryable=False)
        await world.until("session.failed")
        await world.call("retry", two)
        await world.claim(two)
        await world.say(two, "started", attempt=2)
        three = await world.running("s3")
        await world.say(three, "agent_started", session_id="s3", agent="d")
        await world.call("cancel", three, reason="enough")
        await world.until("session.cancelled")
        await world.run("s4")
        await world.run("s1", project_id=2)
    return [one async for batch in world.store.read() for one in batch]


@pytest_asyncio.fixture
async def projected(read_models: Database) -> AsyncIterator[tuple[SessionWorld, Queries]]:
    world = SessionWorld()
    recorded = await told(world)
    connection = await owner(read_models.owner_url)
    await project(connection, recorded)
    await connection.close()
    queries = Queries(read_models.reader_url, clock=SystemClock())
    await queries.start()
    yield world, queries
    await queries.stop()


async def test_the_list_is_newest_first_with_agents_and_durations(projected: tuple[SessionWorld, Queries]) -> None:
    _, queries = projected
    rows = (await queries.list_sessions()).rows
    assert [(row["session_id"], row["project_id"], row["status"]) for row in rows] == [
        ("s1", 2, "RUNNING"), ("s4", 1, "RUNNING"), ("s3", 1, "CANCELLED"), ("s2", 1, "RUNNING"), ("s1", 1, "COMPLETED"),
    ]  # fmt: skip
    four, three, two, one = rows[1:]
    assert (four["agents"], four["ended_at"], four["attempt"]) == ([], None, 0)
    assert [(agent["agent"], agent["status"]) for agent in three["agents"]] == [("d", "INTERRUPTED")]
    assert (three["ended_by"], three["reason"], three["message"]) == ("user:ada", "enough", None)
    assert (two["ended_at"], two["error_code"], two["message"], two["attempt"]) == (None, None, None, 2), (
        "it runs again"
    )
    assert [(agent["agent"], agent["status"], agent["message"]) for agent in two["agents"]] == [
        ("c", "FAILED", "No data.")
    ]
    assert [(a["agent"], a["status"], a["attempt"], a["duration_ms"]) for a in one["agents"]] == [
        ("b", "INTERRUPTED", 1, None), ("a", "COMPLETED", 2, 9),
    ]  # fmt: skip
    assert one["output_bytes"] == len(b'{"n":1}')
    for instant in (one["started_at"], one["agents"][1]["started_at"], one["agents"][1]["ended_at"]):
        assert rfc3339(parse_rfc3339(instant)) == instant
    assert one["duration_ms"] >= 3_600_000


async def test_pages_and_filters(projected: tuple[SessionWorld, Queries]) -> None:
    _, queries = projected
    seen: list[tuple[int, str]] = []
    cursor = None
    while True:
        page = await queries.list_sessions(limit=2, cursor=cursor)
        seen += [(row["project_id"], row["session_id"]) for row in page.rows]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [(2, "s1"), (1, "s4"), (1, "s3"), (1, "s2"), (1, "s1")]
    assert [row["session_id"] for row in (await queries.list_sessions(status=["FAILED", "CANCELLED"])).rows] == ["s3"]
    assert [row["project_id"] for row in (await queries.list_sessions(projects=[2])).rows] == [2]
    assert len((await queries.list_sessions(projects=[1, 2])).rows) == 5
    assert (await queries.list_sessions(projects=[])).rows == []
    page = await queries.list_sessions(limit=1)
    with pytest.raises(InvalidRequest):
        await queries.list_sessions(limit=1, cursor=page.next_cursor, status=["RUNNING"])
    assert [row["session_id"] for row in await queries.running_sessions()] == ["s2", "s4", "s1"]


async def test_one_session_by_name(projected: tuple[SessionWorld, Queries]) -> None:
    _, queries = projected
    assert (await queries.get_session("s1"))["project_id"] == 2, "the newest of that name"
    assert (await queries.get_session("s1", projects=[1]))["project_id"] == 1
    for name, projects in (("s9", None), ("s4", [2]), ("s4", [])):
        with pytest.raises(NotFound):
            await queries.get_session(name, projects=projects)


async def test_rows_do_not_depend_on_how_the_log_is_cut_G4(read_models: Database) -> None:
    recorded = await told(SessionWorld())
    connection = await owner(read_models.owner_url)
    reference = None
    for sizes in ((1,), (2, 3), (500,)):
        found = await shadow_versions(connection)
        await write(Writer(connection, found, epoch=EPOCH, decode=decode), recorded, sizes)
        made = await digests(connection, found)
        assert made["sessions"][0] == 5
        assert made["session_agents"][0] == 4
        assert reference in (None, made)
        reference = made
    await connection.close()


async def test_it_is_verified_and_every_carried_state_is_the_fold_G4(read_models: Database) -> None:
    world = SessionWorld()
    recorded = await told(world)
    connection = await owner(read_models.owner_url)
    await live_versions(connection)
    await project(connection, recorded)
    await connection.execute("UPDATE aura.projections SET epoch = %s", ("memory",))
    checked = await verify(SESSIONS, world.store, read_models.owner_url, decode=decode)
    assert (checked.compared, checked.differences) == (True, 0)
    await connection.execute("UPDATE p_sessions_v1.sessions SET status = 'FAILED' WHERE session_id = %s", (SESSION,))
    assert (await verify(SESSIONS, world.store, read_models.owner_url, decode=decode)).differences > 0
    await connection.close()
    states = await verify_states(world.store)
    assert (states.mismatches, states.unreadable, states.compared) == (0, 0, states.events)
