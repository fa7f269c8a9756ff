"""The whole system under load: ``aura up``, one no-op worker process, a producer over HTTP, and the log as a witness."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aura.log.connection import Connection, connect
from aura.log.wire import sequence
from bench import servers
from bench.http import Http
from bench.noop_worker import MODEL
from bench.peers.ledger import Ledger
from bench.processes import CpuMeter
from bench.servers import AuraUp

SLOTS = 1_000
_PATIENCE_S = 300.0


def task(number: int) -> dict[str, Any]:
    """A no-op job that carries its number."""
    return {"type": "noop", "role": "Employee", "payload": {"n": number}}


class Stack:
    """A running system. ``on_event(event name, job id, monotonic ns)`` may be set to see committed events as they come."""

    def __init__(self, up: AuraUp, http: Http, ledger: Ledger, connection: Connection, worker: int) -> None:
        self.up = up
        self._worker = worker
        self.http = http
        self.ledger = ledger
        self.connection = connection
        self.completed = 0
        self.last_completed_seq = 0
        self.on_event: Callable[[str, str, int], None] | None = None
        self._watch: tuple[int, asyncio.Future[int]] | None = None

    def meter(self) -> CpuMeter:
        """Processor time from now on, by process; ``bench`` is the producer."""
        return CpuMeter({**self.up.pids, "worker": self._worker, "bench": os.getpid()})

    async def watch(self) -> None:
        """Follow the committed space, as `nats sub 'aura.job.>'` would."""
        await self.connection.subscribe_raw("aura.job.*.*.completed", self._on_completed)
        await self.connection.subscribe_raw("aura.job.*.*.assigned.*", self._on_assigned)
        await self.connection.flush()

    def _on_completed(self, _subject: bytes, _reply: bytes, _body: bytes, headers: bytes | None) -> None:
        self.completed += 1
        if headers is not None:
            self.last_completed_seq = sequence(headers)
        if self._watch is not None and self.completed >= self._watch[0] and not self._watch[1].done():
            self._watch[1].set_result(self.last_completed_seq)

    def _on_assigned(self, subject: bytes, _reply: bytes, _body: bytes, _headers: bytes | None) -> None:
        if self.on_event is not None:
            self.on_event("assigned", subject.split(b".", 4)[3].decode(), time.monotonic_ns())

    async def submit(self, numbers: range) -> list[str]:
        """One PRD; returns its job ids."""
        body = {"project_id": 1, "title": "bench", "tasks": [task(number) for number in numbers]}
        answer = await self.http.post("/prds", body)
        found: list[str] = answer["job_ids"]
        return found

    async def all_completed(self, total: int) -> int:
        """Wait until ``total`` jobs are completed since the start; returns the sequence of the last one's event.

        Raises ``TimeoutError`` saying how many were."""
        if self.completed < total:
            self._watch = (total, asyncio.get_running_loop().create_future())
            try:
                await asyncio.wait_for(self._watch[1], _PATIENCE_S)
            except TimeoutError:
                raise TimeoutError(f"{self.completed} of {total} jobs completed in {_PATIENCE_S:.0f} s") from None
        return self.last_completed_seq

    async def projected(self, seq: int) -> None:
        """Wait until the read models have ``seq`` (the API's own read-your-writes)."""
        while True:
            try:
                await self.http.get(f"/jobs?limit=1&min_seq={seq}")
                return
            except RuntimeError as error:
                if "503" not in str(error) and "425" not in str(error):
                    raise


@asynccontextmanager
async def running(
    folder: Path, jobs: int, *, slots: int = SLOTS, env: dict[str, str] | None = None
) -> AsyncIterator[Stack]:
    """Start everything; yields when the worker takes jobs."""
    path = folder / "ledger"
    ledger = Ledger(path, jobs)
    async with servers.aura_up(folder, env=env) as up:
        program = [sys.executable, "-m", "bench.noop_worker", str(path), str(jobs), str(slots)]
        worker = await servers.copy_of(program, env=up.nats_env(), log=folder / "worker.log")
        state = up.state()
        connection = await connect(state["nats"]["url"], up.data / "credentials" / "observer.creds", name="bench")
        http = Http(up.url)
        stack = Stack(up, http, ledger, connection, worker.pid)
        try:
            await stack.watch()
            await _worker_seen(http, worker)
            yield stack
        finally:
            await servers.end(worker, 25.0)
            http.close()
            await connection.close()


async def _worker_seen(http: Http, worker: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        while True:
            if worker.returncode is not None:
                raise RuntimeError(f"the worker ended with {worker.returncode}")
            try:
                models = await http.get("/models/health")
            except RuntimeError as error:
                if not str(error).startswith("503"):
                    raise
                models = []
            if any(model.get("model_name") == MODEL for model in models):
                return
            await asyncio.sleep(0.1)
