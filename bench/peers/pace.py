"""How producers offer work, the same for every peer: in bulk, one by one with a window, or at a steady rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.peers.ledger import Ledger

#: Jobs per call of a bulk submission, and calls in flight.
CHUNK, CHUNKS_IN_FLIGHT = 1_000, 2
#: Submissions in flight when each job is a call of its own.
WINDOW = 64
RATE = 100


async def bulk(many: Callable[[range], Awaitable[None]], ledger: Ledger, first: int, count: int) -> None:
    """Submit ``count`` jobs in calls of :data:`CHUNK`."""
    gate = asyncio.Semaphore(CHUNKS_IN_FLIGHT)

    async def call(numbers: range) -> None:
        async with gate:
            ledger.sent_many(numbers.start, len(numbers))
            await many(numbers)

    end = first + count
    await asyncio.gather(*(call(range(start, min(start + CHUNK, end))) for start in range(first, end, CHUNK)))


async def single(one: Callable[[int], Awaitable[None]], ledger: Ledger, first: int, count: int) -> None:
    """Submit ``count`` jobs, each with a call of its own, :data:`WINDOW` at a time."""
    numbers = iter(range(first, first + count))

    async def lane() -> None:
        for number in numbers:
            ledger.sent(number)
            await one(number)

    await asyncio.gather(*(lane() for _ in range(WINDOW)))


async def paced(one: Callable[[int], Awaitable[None]], ledger: Ledger, first: int, count: int) -> None:
    """Submit :data:`RATE` jobs a second, on schedule whatever the answers take (an open loop: no coordinated omission)."""
    began = time.monotonic()
    pending: set[asyncio.Task[None]] = set()

    async def submit(number: int) -> None:
        await one(number)

    for index in range(count):
        wait = began + index / RATE - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        ledger.sent(first + index)
        task = asyncio.create_task(submit(first + index))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
