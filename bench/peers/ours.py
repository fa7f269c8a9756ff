"""Ours as a peer: ``aura up``, one worker process, submissions over HTTP. The clock stops when the read models have the last completion."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench import stack
from bench.peers import pace
from bench.peers.ledger import Ledger

JOBS, SINGLE_JOBS = 20_000, 5_000
DURABILITY = "every event flushed (sync_interval: always)"
HISTORY = "every step, for ever, with who and why; read models besides"
SETTINGS = f"aura up, 1 worker process with {stack.SLOTS} slots, POST /prds of 1,000 tasks (bulk) or 1 (single, paced)"


class Ours:
    """See ``judge.Queue``."""

    def __init__(self, system: stack.Stack) -> None:
        self._system = system
        self.ledger: Ledger = system.ledger

    async def offer(self, mode: str, first: int, count: int) -> None:
        async def one(number: int) -> None:
            await self._system.submit(range(number, number + 1))

        async def many(numbers: range) -> None:
            await self._system.submit(numbers)

        match mode:
            case "bulk":
                await pace.bulk(many, self.ledger, first, count)
            case "single":
                await pace.single(one, self.ledger, first, count)
            case _:
                await pace.paced(one, self.ledger, first, count)

    async def settled(self, first: int, count: int) -> int:
        seq = await self._system.all_completed(first + count)
        await self._system.projected(seq)
        return time.monotonic_ns()

    async def unfinished(self) -> int:
        stats = await self._system.http.get("/jobs?status=QUEUED,ASSIGNED,IN_PROGRESS&limit=500")
        return len(stats)


@asynccontextmanager
async def running(folder: Path, jobs: int) -> AsyncIterator[Ours]:
    """The whole system on a fresh data folder."""
    async with stack.running(folder, jobs) as system:
        yield Ours(system)
