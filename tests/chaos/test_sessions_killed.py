"""No session stays RUNNING once its job has ended, whoever dies: the worker, the gateway, both. On a real ``aura up``."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.support.system import REPOSITORY, System

WORKER = REPOSITORY / "tests" / "support" / "session_worker.py"
GUARD_S = 60


@asynccontextmanager
async def worker(system: System, name: str, go: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    args = (sys.executable, str(WORKER), name, str(go))
    process = await asyncio.create_subprocess_exec(*args, env=system.environment(), stdin=asyncio.subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def submit(http: httpx.AsyncClient, session_id: str, max_attempts: int) -> str:
    task = {"type": "workflow", "payload": {}, "session_id": session_id, "max_attempts": max_attempts}
    answer = await http.post("/prds", json={"title": "T", "tasks": [task]})
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["job_ids"][0]
    return job_id


async def until(system: System, session_id: str, event: str, *, attempt: int | None = None, agent: str = "") -> Any:
    """The session's event, now or when it comes."""
    async with asyncio.timeout(GUARD_S), system.log_store() as store:
        async for batch in store.follow(1):
            for recorded in batch:
                if recorded.subject == f"aura.session.1.{session_id}.{event}":
                    flat = recorded.decode()
                    if attempt in (None, flat.get("attempt")) and flat.get("agent", "") == agent:
                        return {**flat, "seq": recorded.seq}
    raise AssertionError("the log never ends")


async def shown(http: httpx.AsyncClient, session_id: str, seq: int) -> Any:
    answer = await http.get(f"/sessions/{session_id}", params={"min_seq": seq})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def aura(system: System, *args: str) -> bytes:
    """What a command says on stdout."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aura", *args, env=system.environment(), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said


@pytest.mark.slow
async def test_a_session_ends_or_goes_on_when_its_worker_is_killed_G7_G8(tmp_path: Path) -> None:
    system, go = System(tmp_path / "data"), tmp_path / "go"
    await system.start()
    try:
        async with httpx.AsyncClient(base_url=system.url, timeout=30) as http:
            async with worker(system, "w1", go) as first:
                await submit(http, "once", 1)
                await until(system, "once", "agent_started", agent="second")
                first.kill()
                await first.wait()
            ended = await until(system, "once", "failed")
            row = await shown(http, "once", ended["seq"])
            assert (row["status"], row["error_code"]) == ("FAILED", "lease_expired")
            assert "worker stopped" in row["message"]
            assert [one["status"] for one in row["agents"]] == ["COMPLETED", "INTERRUPTED"]
            async with worker(system, "w2", go) as second:
                await submit(http, "again", 3)
                await until(system, "again", "agent_started", agent="second")
                second.kill()
                await second.wait()
            await system.kill("gateway")  # what was to be ended, and who was to end it
            go.touch()
            async with worker(system, "w3", go):
                ended = await until(system, "again", "completed")
            await system.ready()
            row = await shown(http, "again", ended["seq"])
            assert (row["status"], row["attempt"], row["result"]) == ("COMPLETED", 2, {"attempt": 2})
            assert [(one["agent"], one["status"], one["attempt"]) for one in row["agents"]] == [
                ("first", "COMPLETED", 2), ("second", "COMPLETED", 2),
            ]  # fmt: skip
            assert row["agents"][1]["output"] == {"by": "second"}
            listed = orjson.loads(await aura(system, "sessions", "ls", "-o", "json"))
            assert [(one["session_id"], one["status"]) for one in listed] == [
                ("again", "COMPLETED"),
                ("once", "FAILED"),
            ]
            assert b"second  COMPLETED" in await aura(system, "sessions", "show", "again")
            go.unlink()
            async with worker(system, "w4", go):
                await submit(http, "unwanted", 3)
                await until(system, "unwanted", "agent_started", agent="second")
                await aura(system, "sessions", "cancel", "unwanted", "--reason", "enough")
            assert (
                orjson.loads(await aura(system, "sessions", "show", "unwanted", "-o", "json"))["status"] == "CANCELLED"
            )
            assert (await http.get("/sessions", params={"status": "RUNNING"})).json() == []
    finally:
        assert await system.stop() == 0
