"""kill -9 of every process, one after another, under load: nothing acknowledged is lost, nothing happens twice (G1–G8).

One real ``aura up``, real workers in processes of their own, submissions over HTTP with idempotency keys, repeated until they are
acknowledged. Afterwards the whole log is checked by ``tests/support/history.py``, every output is compared with what the workers
wrote, and the read models are compared with a fold of the log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.history import History, read_history
from tests.support.system import REPOSITORY, System, alive

WORKER = REPOSITORY / "tests" / "support" / "chaos_worker.py"
PRDS = 60
TASKS = 5
VICTIMS = ("nats", "postgres", "projector", "scheduler", "gateway", "worker")


class Workers:
    """Two worker processes; the one that is killed is replaced by another of the same name."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str) -> None:
        self._running[name] = await asyncio.create_subprocess_exec(
            sys.executable, str(WORKER), name, env=self._system.environment(), stdin=asyncio.subprocess.DEVNULL
        )

    async def kill_one(self) -> None:
        name = next(iter(self._running))
        victim = self._running.pop(name)
        victim.send_signal(signal.SIGKILL)
        await victim.wait()
        await self.start(name)

    async def stop(self) -> None:
        for process in self._running.values():
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            async with asyncio.timeout(30):
                await process.wait()


async def submit(http: httpx.AsyncClient, number: int) -> list[str]:
    """Repeat one submission under its key until it is acknowledged."""
    tasks = [{"type": "chaos", "payload": {"prd": number, "task": task}, "max_attempts": 20} for task in range(TASKS)]
    body = {"project_id": 1, "title": f"PRD {number}", "tasks": tasks}
    while True:
        try:
            answer = await http.post("/prds", json=body, headers={"Idempotency-Key": f"prd-{number}"})
        except httpx.HTTPError:
            await asyncio.sleep(0.05)  # the process we talk to was killed
            continue
        if answer.status_code == 201:
            job_ids: list[str] = answer.json()["job_ids"]
            return job_ids
        assert answer.status_code in (429, 503), answer.text
        await asyncio.sleep(0.05)


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[System]:
    system = System(tmp_path / "data")
    await system.start()
    try:
        yield system
    finally:
        await system.stop()


async def settled(system: System, wanted: set[str]) -> History:
    """The checked history once every wanted job has ended."""
    async with system.log_store() as store:
        identity = await store.identity()
        done: set[str] = set()
        async for batch in store.follow(identity.first_seq):
            for recorded in batch:
                if recorded.subject.endswith((".completed", ".cancelled")) or (
                    recorded.subject.endswith((".failed", ".lease_expired")) and b'"retention_until"' in recorded.body
                ):
                    done.add(recorded.subject.split(".")[3])
            if wanted <= done:
                break
        return await read_history(store)


@pytest.mark.slow
@pytest.mark.timeout(420)
async def test_kill_every_process_under_load(tmp_path: Path) -> None:
    async with running(tmp_path) as system, httpx.AsyncClient(base_url=system.url, timeout=10) as http:
        workers = Workers(system)
        for name in ("chaos-1", "chaos-2"):
            await workers.start(name)
        submitting = [asyncio.create_task(submit(http, number)) for number in range(PRDS // 2)]
        for round_number, victim in enumerate(VICTIMS):
            if victim == "worker":
                await workers.kill_one()
            else:
                await system.kill(victim)
            first = PRDS // 2 + round_number * 5
            submitting += [asyncio.create_task(submit(http, number)) for number in range(first, first + 5)]
        async with asyncio.timeout(180):
            acknowledged = await asyncio.gather(*submitting)
            wanted = {job_id for job_ids in acknowledged for job_id in job_ids}
            history = await settled(system, wanted)
        await workers.stop()
        assert history.wrongs == []
        assert set(history.jobs) == wanted, "G1, G2: exactly what was acknowledged, once"
        assert {job.status for job in history.jobs.values()} == {"COMPLETED"}
        assert all(job.types.count("job.completed") == 1 for job in history.jobs.values())
        await outputs_are_whole(http, history)
        await read_models_equal_the_log(system, http, history)


async def outputs_are_whole(http: httpx.AsyncClient, history: History) -> None:
    """Each job's output is that of the attempt that completed: nothing missing, nothing doubled."""
    await asyncio.sleep(0)
    for job_id, job in history.jobs.items():
        answer = await http.get(
            f"/jobs/{job_id}/output", params={"attempt": job.attempt}, headers={"Accept": "application/x-ndjson"}
        )
        assert answer.status_code == 200, answer.text
        lines = [line for line in answer.text.splitlines() if f'"attempt":{job.attempt}' in line.replace(" ", "")]
        assert len(lines) == job.last["output"]["count"], job_id


async def read_models_equal_the_log(system: System, http: httpx.AsyncClient, history: History) -> None:
    """G4: the rows are the fold, and a rebuild gives identical rows."""
    async with system.log_store() as store:
        last = (await store.identity()).last_seq
    seen: dict[str, str] = {}
    url: str | None = f"/jobs?limit=100&min_seq={last}"
    while url:
        answer = await http.get(url)
        assert answer.status_code == 200, answer.text
        seen |= {row["id"]: row["status"] for row in answer.json()}
        url = answer.links.get("next", {}).get("url")
    assert seen == {job_id: job.status for job_id, job in history.jobs.items()}
    verify = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aura", "projections", "verify", env=system.environment(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await verify.communicate()
    assert verify.returncode == 0, output.decode()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_kill_the_supervisor_itself(tmp_path: Path) -> None:
    """kill -9 of ``aura up``: no orphan stays, and the next start has everything that was acknowledged."""
    system = System(tmp_path / "data")
    await system.start()
    async with httpx.AsyncClient(base_url=system.url, timeout=10) as http:
        before = await submit(http, 1)
    children = await system.kill_supervisor()
    async with asyncio.timeout(20):
        while any(alive(pid) for pid in children.values()):
            await asyncio.sleep(0.02)  # processes outside
    await system.start()
    try:
        async with httpx.AsyncClient(base_url=system.url, timeout=10) as http:
            assert await submit(http, 1) == before, "G2: the same key, the same jobs, after a crash of everything"
            async with system.log_store() as store:
                history = await read_history(store)
            assert history.wrongs == []
            assert set(history.jobs) == set(before)
    finally:
        assert await system.stop() == 0
    left = [pid for pid in system.pids().values() if alive(pid)]
    assert left == [], "no orphan after a clean stop"
    assert os.path.exists(system.data), "the data stays"
