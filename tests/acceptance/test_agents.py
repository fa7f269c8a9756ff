"""The worked example on a whole ``aura up``: asked over HTTP, watched over the socket, killed in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from aura.running import process_start
from tests.support.system import System

WORKER = "worker-agents"
TEXT = "Push ice cream in summer with 20% off for 4 weeks in the north"
AGENTS = ["strategy_analyst", "demand_forecaster", "planner"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    up = System(tmp_path_factory.mktemp("agents") / "data")
    await up.start()
    try:
        yield up
    finally:
        await up.stop()


async def run(system: System, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=system.url, timeout=130, trust_env=False) as http:
        return await http.post("/run-workflow", json={"strategy_description": TEXT, "wait_s": 120, **body})


async def watch(system: System, session_id: str) -> tuple[list[dict[str, Any]], int | None]:
    """Every message until the server closes, without heartbeats, and the close code."""
    async with (
        asyncio.timeout(120),
        connect(f"{system.url.replace('http', 'ws', 1)}/ws/orchestrator/{session_id}") as socket,
    ):
        messages = [json.loads(message) async for message in socket]
    return [message for message in messages if message["type"] != "heartbeat"], socket.close_code


async def events(system: System, session_id: str) -> list[dict[str, Any]]:
    async with system.log_store() as store:
        return [
            recorded.decode()
            async for batch in store.read(subject=f"aura.session.1.{session_id}.>")
            for recorded in batch
        ]


def told(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(m["type"], m.get("agent"), m.get("status"), m.get("progress")) for m in messages]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_strategy_becomes_a_forecast_that_everybody_can_watch(system: System) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=system.url, trust_env=False) as http:
        while not (await http.get("/models/health")).json():  # the worker comes after the gateway
            await asyncio.sleep(0.05)
    pid = system.pids()[WORKER]
    resident = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    assert int(resident.split()[1]) < 56 * 1024, "the statistics library is loaded by the first workflow only"

    early = asyncio.create_task(watch(system, "s1"))
    answer = await run(system, session_id="s1")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["status"], found["session_id"]) == ("success", "s1")
    assert found["parameters"]["category"] == "frozen"
    assert len(found["forecast"]) == 4
    assert found["totals"]["units"] == sum(week["units"] for week in found["forecast"]) > 0
    assert found["uplift"]["units"] > 0
    assert 0 < found["backtest"]["mape_pct"] < 15

    log = await events(system, "s1")
    expected = [("session.started", None)]
    for agent in AGENTS:
        expected += [("session.agent_started", agent), ("session.agent_completed", agent)]
    assert [(event["type"], event.get("agent")) for event in log] == [*expected, ("session.completed", None)]
    assert log[0]["job_id"] == found["job_id"]

    messages, code = await early
    assert code == 1000
    assert {message["session_id"] for message in messages} == {"s1"}
    assert [m["agent"] for m in messages if m["type"] == "agent_status" and m["status"] == "Started"] == AGENTS
    assert {m["agent"] for m in messages if m["type"] == "progress"} == set(AGENTS)
    last = messages[-1]
    assert (last["type"], last["status"], last["progress"]) == ("complete", "Complete", 100)
    assert last["data"]["totals"] == found["totals"]

    late, code = await watch(system, "s1")
    assert (late, code) == (messages, 1000), "who comes late is told the same"

    again = await run(system, session_id="s1")
    assert again.json() == found
    other = await run(system, session_id="s1", strategy_description="Sell bread for 6 weeks")
    assert other.status_code == 409
    assert (await run(system, session_id="no good")).status_code == 422


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_workflow_fails_in_plain_words(system: System) -> None:
    answer = await run(system, session_id="u1", workflow="nothing")
    assert answer.status_code == 502
    assert answer.json()["detail"] == "There is no workflow of that name here."
    messages, code = await watch(system, "u1")
    assert ([message["type"] for message in messages], code) == (["error"], 1000)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_that_is_killed_in_the_middle_leaves_nothing_stuck_G7(system: System) -> None:
    before = system.pids()[WORKER]
    url = f"{system.url.replace('http', 'ws', 1)}/ws/orchestrator/k1"
    async with asyncio.timeout(200), connect(url) as socket:
        asking = asyncio.create_task(run(system, session_id="k1"))
        async for text in socket:
            if json.loads(text).get("status") == "Loading the sales history":
                os.kill(before, signal.SIGKILL)
                break
        answer = await asking
    assert answer.status_code == 200, answer.text
    log = await events(system, "k1")
    attempts = [event["attempt"] for event in log if event["type"] == "session.agent_completed"]
    assert attempts[-3:] == [2, 2, 2], "the second attempt runs every agent again"
    assert log[-1]["type"] == "session.completed"
    assert sum(event["type"] == "session.started" for event in log) == 1
    async with asyncio.timeout(30):
        while system.pids().get(WORKER, before) == before or process_start(system.pids()[WORKER]) is None:
            await asyncio.sleep(0.02)  # a process outside
    messages, code = await watch(system, "k1")
    assert code == 1000
    assert told(messages)[-1] == ("complete", "planner", "Complete", 100)
