"""Sessions over HTTP: the list, one with its content, cancelling; and whose they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from aura.commands.handler import Caller
from aura.gateway.access.scoping import LoggedProjects
from tests.support.access import auth, client, issue, secured
from tests.support.gateway import CALLER, World, receive, running

WORKER = Caller("worker:w1", "c", "c")


async def start(world: World, session_id: str, project: int = 1) -> str:
    """A session whose workflow runs; its job."""
    body = {"session_id": session_id, "project_id": project, "workflow": "retail", "input": {}}
    job_id: str = (await world.commands.call("run_workflow", body, CALLER))["job_id"]
    await world.commands.call("claim", {"job_id": job_id, "worker_id": "w1"}, WORKER)
    return job_id


async def say(world: World, job_id: str, session_id: str, event: str, **fields: Any) -> None:
    body = {"job_id": job_id, "attempt": 1, "session_id": session_id, "event": event, "agent": "a", **fields}
    await world.commands.sessions.report(body, WORKER)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


async def test_a_session_is_shown_with_what_it_handed_in(world: World) -> None:
    job_id = await start(world, "s1")
    await say(world, job_id, "s1", "agent_started")
    await say(world, job_id, "s1", "agent_completed", duration_ms=3, output={"found": 1})
    shown = (await world.http.get("/sessions/s1")).json()
    assert (shown["id"], shown["status"], shown["job_id"], shown["result"]) == ("s1", "RUNNING", job_id, None)
    (agent,) = shown["agents"]
    assert agent["output"] == {"found": 1}
    assert not {"output_part", "output_digest"} & set(agent)
    await world.commands.call("complete", {"job_id": job_id, "success": True, "details": {"n": 7}}, WORKER)
    await world.commands.sessions.settle(1, "s1", CALLER)
    answer = await world.http.get("/sessions/s1")
    assert (answer.json()["status"], answer.json()["result"]) == ("COMPLETED", {"n": 7})
    again = await world.http.get("/sessions/s1", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


async def test_the_list_pages_and_filters(world: World) -> None:
    for number in range(3):
        await start(world, f"s{number}")
    await start(world, "other", project=2)
    await world.post("/sessions/s1/cancel", {"reason": "enough"})
    first = await world.http.get("/sessions", params={"limit": 2})
    assert [row["session_id"] for row in first.json()] == ["other", "s2"]
    rest = await world.http.get(first.links["next"]["url"])
    assert [row["session_id"] for row in rest.json()] == ["s1", "s0"]
    cancelled = await world.http.get("/sessions", params={"status": "CANCELLED,FAILED", "project_id": 1})
    assert [row["session_id"] for row in cancelled.json()] == ["s1"]
    for bad in ({"status": "BROKEN"}, {"limit": 0}, {"project_id": 0}, {"unknown": 1}, {"min_seq": 10**9}):
        assert (await world.http.get("/sessions", params=bad)).status_code == 422


async def test_cancelling_a_session_ends_its_job(world: World) -> None:
    job_id = await start(world, "s1")
    answer = await world.post("/sessions/s1/cancel", {"reason": "enough"})
    assert (answer["status"], answer["job_id"]) == ("CANCELLED", job_id)
    assert (await world.http.get(f"/jobs/{job_id}")).json()["status"] == "CANCELLED"
    assert (await world.post("/sessions/s1/cancel"))["seq"] == answer["seq"]
    await world.post("/sessions/nobodys/cancel", status=404)
    done = await start(world, "s2")
    await world.commands.call("complete", {"job_id": done, "success": True}, WORKER)
    refused = await world.post("/sessions/s2/cancel", status=409)
    assert refused["code"] == "conflict"


@pytest.mark.parametrize("bad", ["a.b", "%2A", "%3E", "x" * 65, "a%20b", "%00", "%E2%80%AE"])
async def test_bad_names_bounce(world: World, bad: str) -> None:
    assert (await world.http.get(f"/sessions/{bad}")).status_code == 422
    assert (await world.http.post(f"/sessions/{bad}/cancel")).status_code == 422


async def test_progress_carries_the_agent_and_bounded_data(world: World) -> None:
    job_id = await start(world, "s1")
    path = f"/jobs/{job_id}/progress"
    await world.post(path, {"percent": 10, "step": "reading", "agent": "a", "data": {"rows": 3}})
    await world.post(path, {"percent": 10, "data": {"big": "x" * 4096}}, status=422)
    await world.post(path, {"percent": 10, "data": [1]}, status=422)
    await world.post(path, {"percent": 10, "agent": "a.b"}, status=422)
    lines = (await world.http.get(f"/jobs/{job_id}/output", headers={"accept": "application/x-ndjson"})).text
    assert '"agent":"a"' in lines
    assert '"data":{"rows":3}' in lines


async def test_sessions_of_other_projects_are_not_there_G13() -> None:
    async with secured() as world:
        await start(world, "same", project=1)
        await start(world, "same", project=2)
        await start(world, "foreign", project=2)
        key = await issue(world, "operator", [1])
        async with client(world, key) as http:
            assert [row["project_id"] for row in (await http.get("/sessions")).json()] == [1]
            assert (await http.get("/sessions", params={"project_id": 2})).json() == []
            foreign, unknown = await http.get("/sessions/foreign"), await http.get("/sessions/nobodys")
            assert (foreign.status_code, foreign.json()["detail"]) == (404, unknown.json()["detail"])
            assert (await http.post("/sessions/foreign/cancel")).status_code == 404
            mine = await http.get("/sessions/same", params={"project_id": 1})
            assert mine.json()["project_id"] == 1
            assert (await http.get("/sessions/same", params={"project_id": 2})).status_code == 404


@pytest.mark.parametrize("older_is_retried", [False, True])
async def test_a_name_in_two_projects_means_the_one_started_last_everywhere(older_is_retried: bool) -> None:
    async with secured() as world:
        jobs = {project: await start(world, "s", project) for project in (3, 2)}
        if older_is_retried:
            await world.commands.call("cancel", {"job_id": jobs[3]}, CALLER)
            await world.commands.sessions.settle(3, "s", CALLER)
            await world.commands.call("retry", {"job_id": jobs[3]}, CALLER)
            await world.commands.call("claim", {"job_id": jobs[3], "worker_id": "w1"}, WORKER)
            await say(world, jobs[3], "s", "started", attempt=2, workflow="retail", agent=None)
        await say(world, jobs[3], "s", "agent_started", attempt=1 + older_is_retried)
        await say(world, jobs[2], "s", "agent_started", agent="mine")
        await say(world, jobs[3], "s", "agent_completed", duration_ms=1, attempt=1 + older_is_retried)
        key = await issue(world, "operator", projects=[2, 3])
        found = await LoggedProjects(world.commands, world.store).of_session("s", (2, 3))
        assert (found, await LoggedProjects(world.commands, world.store).of_session("s", (3,))) == (2, 3)
        async with client(world, key) as http, world.ws("/ws/orchestrator/s", additional_headers=auth(key)) as socket:
            assert (await http.get("/sessions/s")).json()["project_id"] == 2
            assert (await receive(socket))["agent"] == "mine"
            cancelled = await http.post("/sessions/s/cancel", json={})
            assert (cancelled.status_code, cancelled.json()["project_id"]) == (200, 2)
