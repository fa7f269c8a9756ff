"""``POST /run-workflow`` on a real gateway; the worker's part is played by commands, so that every moment can be chosen."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from aura.gateway.api import workflows
from tests.support.gateway import CALLER, World, running

TEXT = "Sell ice cream in summer, 20% off"


@pytest.fixture(autouse=True)
def no_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ends sessions in this world, so nothing is waited for."""
    monkeypatch.setattr(workflows, "SETTLE_S", 0.0)


async def asked(world: World, **body: Any) -> httpx.Response:
    return await world.http.post("/run-workflow", json={"strategy_description": TEXT, **body})


async def with_worker(world: World) -> None:
    """A heartbeat of the pool for as long as somebody listens."""
    while True:
        world.health.push("agents", "w1", {"status": "ok"})
        await asyncio.sleep(0.01)  # another process' heartbeat


async def claimed(world: World) -> dict[str, Any]:
    """The workflow's job, as soon as it is there, claimed."""
    async with asyncio.timeout(10):
        async for batch in world.store.follow(1):
            for recorded in batch:
                if recorded.subject.endswith(".created"):
                    job_id = recorded.decode()["job_id"]
                    params = {"job_id": job_id, "worker_id": "w1", "model": "agents"}
                    return await world.commands.call("claim", params, CALLER)
    raise AssertionError("no job")


async def test_the_result_is_flat_and_the_same_session_gets_it_again() -> None:
    async with running() as world, asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(with_worker(world))
        asking = tasks.create_task(asked(world, session_id="s1"))
        job = await claimed(world)
        assert job["payload"] == {"workflow": "retail", "input": {"strategy_description": TEXT}}
        done = {"job_id": job["job_id"], "success": True, "details": {"units": 7, "status": "mine"}}
        committed = await world.commands.call("complete", done, CALLER)
        answer = await asking
        beating.cancel()
        assert answer.status_code == 200, answer.text
        expected = {"status": "success", "session_id": "s1", "job_id": job["job_id"], "units": 7}
        assert answer.json() == expected | {"seq": committed["seq"]}
        # No worker is there any more: what is known needs none.
        assert (await asked(world, session_id="s1", wait_s=0)).json()["units"] == 7
        other = await asked(world, session_id="s1", strategy_description="something else")
        assert (other.status_code, other.json()["code"]) == (409, "conflict")
        assert (await asked(world, session_id="s1", workflow="other")).status_code == 409


async def test_an_idempotency_key_stands_for_a_session_id_G2() -> None:
    async with running() as world, asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(with_worker(world))

        async def ask(text: str = TEXT) -> httpx.Response:
            body = {"strategy_description": text, "wait_s": 0}
            return await world.http.post("/run-workflow", json=body, headers={"idempotency-key": "k1"})

        first, again, other = await ask(), await ask(), await ask("another strategy")
        beating.cancel()
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["session_id"] == again.json()["session_id"]
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_query_parameters_and_a_bare_string_do_too() -> None:
    async with running() as world, asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(with_worker(world))
        query = {"strategy_description": TEXT, "session_id": "q", "project_id": "3", "wait_s": "0.1"}
        answer = await world.http.post("/run-workflow", params=query)
        assert answer.status_code == 202
        assert answer.headers["location"] == "/sessions/q"
        assert answer.json()["status"] == "running"
        head = await world.commands.jobs.head(answer.json()["job_id"])
        assert head.project == 3
        bare = await world.http.post("/run-workflow", json=TEXT, params={"wait_s": "0.1"})
        assert bare.status_code == 202
        assert bare.json()["session_id"]
        beating.cancel()


async def test_a_failure_says_what_users_may_know_and_a_cancellation_says_so() -> None:
    async with running() as world, asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(with_worker(world))
        asking = tasks.create_task(asked(world, session_id="f1"))
        job = await claimed(world)
        fail = {"job_id": job["job_id"], "error_code": "KeyError", "retryable": False, "reason": "Traceback: hunter2"}
        await world.commands.call("fail", fail, CALLER)
        answer = await asking
        assert answer.status_code == 502
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["code"], problem["error_code"]) == ("workflow_failed", "KeyError")
        assert problem["detail"] == "The workflow could not be finished."
        assert problem["session_id"] == "f1"
        assert "hunter2" not in answer.text

        running_on = await asked(world, session_id="c1", wait_s=0)
        asking = tasks.create_task(asked(world, session_id="c1"))
        await world.commands.call("cancel_session", {"session_id": "c1"}, CALLER)
        answer = await asking
        assert (running_on.status_code, answer.status_code) == (202, 409)
        assert answer.json()["code"] == "workflow_cancelled"
        beating.cancel()


async def test_without_a_worker_it_says_how_to_start_one_and_stores_nothing() -> None:
    async with running() as world:
        before = world.hub.head
        answer = await asked(world, wait_s=0.05)
        assert answer.status_code == 503
        assert "aura worker --workflows" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
        assert world.hub.head == before


async def test_a_client_that_leaves_cancels_nothing() -> None:
    async with running() as world, asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(with_worker(world))
        asking = tasks.create_task(asked(world, session_id="g1"))
        job = await claimed(world)
        asking.cancel()
        await asyncio.wait({asking})
        await world.commands.call("complete", {"job_id": job["job_id"], "success": True, "details": {"n": 1}}, CALLER)
        beating.cancel()
        assert (await asked(world, session_id="g1")).json()["n"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"strategy_description": ""},
        {"strategy_description": " \n "},
        {"strategy_description": "x" * 4_001},
        {"strategy_description": None},
        {"strategy_description": 7},
        {"session_id": ""},
        {"session_id": "a b"},
        {"session_id": "a.b"},
        {"session_id": "x" * 65},
        {"session_id": "*"},
        {"project_id": 0},
        {"wait_s": 121},
        {"wait_s": -1},
        {"workflow": "a/b"},
        {"unknown": 1},
    ],
)
async def test_malformed_requests_are_refused(body: dict[str, Any]) -> None:
    async with running() as world:
        answer = await asked(world, **body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
