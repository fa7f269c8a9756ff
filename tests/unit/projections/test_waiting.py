"""Waiting for the read models: how often they are asked, and what those get who wait when it ends."""

from __future__ import annotations

import asyncio

import pytest

from aura.errors import Unavailable
from aura.projections.waiting import Progress


class Asked:
    """A checkpoint, and pauses that end when the test says so."""

    def __init__(self) -> None:
        self.seq = 0
        self.pauses: list[float] = []
        self._slept = asyncio.Semaphore(0)
        self._paused = asyncio.Event()
        self.progress = Progress(self._checkpoint, sleep=self._sleep)

    async def _checkpoint(self) -> int:
        return self.seq

    async def _sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self._paused.set()
        await self._slept.acquire()

    async def question(self) -> None:
        """Until the next pause begins, having ended the present one."""
        self._paused.clear()
        self._slept.release()
        async with asyncio.timeout(5):
            await self._paused.wait()

    async def waiter(self) -> asyncio.Task[bool]:
        """One more who waits for sequence 1."""
        known = len(self.progress._waiting)
        task = asyncio.create_task(self.progress.wait_for(1, 60))
        async with asyncio.timeout(5):
            while len(self.progress._waiting) == known:
                await asyncio.sleep(0)
        return task


async def test_a_stream_of_readers_does_not_make_it_ask_as_if_each_were_the_first() -> None:
    """200 readers a second used to start the pauses at 1 ms each time: 490 questions a second."""
    asked = Asked()
    waiters = [await asked.waiter()]
    for _ in range(5):
        await asked.question()
    first = list(asked.pauses)
    assert first[0] == 0.001
    assert first == sorted(first)
    for _ in range(20):
        waiters.append(await asked.waiter())
        await asked.question()
    assert min(asked.pauses[len(first) :]) >= 0.005
    assert max(asked.pauses[len(first) :]) <= 0.01, (
        "and somebody new does not wait as long as somebody whom nothing comes for"
    )
    asked.seq = 1
    asked._slept.release()
    async with asyncio.timeout(5):
        assert all(await asyncio.gather(*waiters))
    await asked.progress.stop()


async def test_who_waits_when_it_stops_gets_unavailable_and_is_not_cancelled() -> None:
    asked = Asked()
    waiter = await asked.waiter()
    await asked.progress.stop()
    await asked.progress.stop()
    with pytest.raises(Unavailable):
        async with asyncio.timeout(5):
            await waiter
    with pytest.raises(Unavailable):
        await asked.progress.wait_for(1, 60)
    asked.seq = 1
    assert await asked.progress.wait_for(1, 60)
