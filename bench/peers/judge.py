"""Runs one peer: starts its server and its worker, offers work, and counts who ran what, how often and when."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from bench import servers
from bench.machine import say
from bench.peers.ledger import Ledger
from bench.peers.pace import RATE
from bench.peers.queues import PYTHON, Peer
from bench.samples import Latency, median

#: Jobs that run before anything is measured.
WARM_UP = 500
PACED_S = 10
_PATIENCE_S = 180.0


@dataclass(frozen=True, slots=True)
class Result:
    """What one queue did. Rates are jobs per second from the first submission to the last start (ours: to the last projected
    completion). ``jobs`` is how many ran in all; ``lost`` and ``repeated`` are counted over every one of them."""

    name: str
    bulk: float
    bulk_samples: list[float]
    single: float
    single_samples: list[float]
    latency: Latency
    jobs: int
    lost: int
    repeated: int
    unfinished: int

    def to_json(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)


class Queue(Protocol):
    """A running queue with its one worker: :class:`RunningPeer`, or ours (``ours.py``)."""

    ledger: Ledger

    async def offer(self, mode: str, first: int, count: int) -> None:
        """Submit jobs ``first`` … ``first + count − 1``; returns when all are accepted."""

    async def settled(self, first: int, count: int) -> int:
        """Wait until they have run and the queue has noted that; returns when (monotonic ns) the last one was done."""

    async def unfinished(self) -> int:
        """How many jobs the queue itself thinks are not done."""


async def measure(name: str, queue: Queue, bulk_jobs: int, single_jobs: int, rounds: int) -> Result:
    """Warm up, then bulk and single in turn, then latency at a steady rate."""
    next_job = 0

    async def rate(mode: str, count: int) -> float:
        nonlocal next_job
        first, next_job = next_job, next_job + count
        await queue.offer(mode, first, count)
        ended = await queue.settled(first, count)
        began = min(sent for sent, _, _ in queue.ledger.slots(first, count))
        return count / ((ended - began) / 1e9)

    await rate("single", WARM_UP)
    bulk: list[float] = []
    single: list[float] = []
    for _ in range(rounds):
        bulk.append(await rate("bulk", bulk_jobs))
        single.append(await rate("single", single_jobs))
        say(f"    {name}: bulk {bulk[-1]:,.0f}/s, single {single[-1]:,.0f}/s")
    await rate("paced", RATE)
    first, count = next_job, RATE * PACED_S
    await rate("paced", count)
    slots = queue.ledger.slots(first, count)
    latency = Latency.of_ns([started - sent for sent, started, _ in slots if started])
    say(f"    {name}: {latency.text()}")
    ran = queue.ledger.slots(0, next_job)
    return Result(
        name=name,
        bulk=median(bulk),
        bulk_samples=bulk,
        single=median(single),
        single_samples=single,
        latency=latency,
        jobs=next_job,
        lost=sum(1 for _, _, starts in ran if starts == 0),
        repeated=sum(1 for _, _, starts in ran if starts > 1),
        unfinished=await queue.unfinished(),
    )


def capacity(bulk_jobs: int, single_jobs: int, rounds: int) -> int:
    """Slots that :func:`measure` needs."""
    return WARM_UP + rounds * (bulk_jobs + single_jobs) + RATE * (PACED_S + 1)


async def all_started(ledger: Ledger, first: int, count: int) -> int:
    """Wait for the last start; returns when it was. Raises ``TimeoutError`` with how many are missing."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        slots = ledger.slots(first, count)
        missing = sum(1 for _, _, starts in slots if not starts)
        if not missing:
            return max(started for _, started, _ in slots)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{missing} of {count} jobs never started")
        await asyncio.sleep(0.1)


class RunningPeer:
    """See :class:`Queue`."""

    def __init__(self, peer: Peer, ledger: Ledger, path: Path, env: dict[str, str], log: Path) -> None:
        self.ledger = ledger
        self._peer = peer
        self._path = path
        self._env = env
        self._log = log

    async def command(self, *args: str) -> str:
        """Run the peer's own file with a command; returns what it printed. Raises ``RuntimeError``."""
        name, *rest = args
        program = [str(PYTHON), "-m", self._peer.script, name, str(self._path), str(self.ledger.count), *rest]
        process = await servers.copy_of(program, env=self._env, log=self._log)
        printed, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self._peer.name} {name} failed: see {self._log}\n{self._log.read_text()[-2000:]}")
        return printed.decode()

    async def offer(self, mode: str, first: int, count: int) -> None:
        await self.command(mode, str(first), str(count))

    async def settled(self, first: int, count: int) -> int:
        ended = await all_started(self.ledger, first, count)
        for _ in range(100):
            if await self.unfinished() == 0:
                break
            await asyncio.sleep(0.1)
        return ended

    async def unfinished(self) -> int:
        return int(json.loads(await self.command("done"))["left"])


@asynccontextmanager
async def running(peer: Peer, folder: Path, slots: int) -> AsyncIterator[RunningPeer]:
    """A peer's server and its one worker process."""
    path = folder / "ledger"
    ledger = Ledger(path, slots)
    log = folder / "peer.log"
    async with peer.server(folder) as url:
        env = {"BENCH_URL": url, "BENCH_LEDGER": str(path), "BENCH_SLOTS": str(slots), **peer.env}
        env["PATH"] = f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}"
        queue = RunningPeer(peer, ledger, path, env, log)
        if peer.setup:
            await queue.command("setup")
        args = (str(path), str(slots)) if peer.ready else ()
        worker = await servers.copy_of([*peer.worker, *args], env=env, log=log)
        try:
            if peer.ready:
                assert worker.stdout is not None
                await asyncio.wait_for(worker.stdout.readline(), 30)
            yield queue
        finally:
            await servers.end(worker)
