"""The feed hands out contiguous batches that never cross a block, drops repeats, refuses holes (G3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aura.errors import Unavailable
from aura.log.store import Recorded
from aura.projections.feed import LIVE_BATCH, Feed
from aura.projections.projection import BLOCK


def events(first: int, last: int) -> list[Recorded]:
    return [Recorded(seq, "aura.system.x", 0, b"{}") for seq in range(first, last + 1)]


async def source(*batches: list[Recorded]) -> AsyncIterator[list[Recorded]]:
    for batch in batches:
        yield batch
    await asyncio.Event().wait()


async def test_batches_end_at_blocks() -> None:
    feed = Feed(BLOCK - 4)
    task = asyncio.create_task(feed.fill(source(events(BLOCK - 3, BLOCK + 3))))
    assert await feed.wait(5)
    assert [one.seq for one in feed.take()] == [BLOCK - 3, BLOCK - 2, BLOCK - 1]
    assert [one.seq for one in feed.take()] == [BLOCK, BLOCK + 1, BLOCK + 2, BLOCK + 3]
    task.cancel()


async def test_g4_duplicate_delivery_is_dropped() -> None:
    feed = Feed(0)
    task = asyncio.create_task(feed.fill(source(events(1, 3), events(2, 5))))
    assert await feed.wait(5)
    assert [one.seq for one in feed.take()] == [1, 2, 3, 4, 5]
    task.cancel()


async def test_g3_a_hole_is_refused_after_what_came_before_it() -> None:
    feed = Feed(0)
    task = asyncio.create_task(feed.fill(source(events(1, 2), events(4, 5))))
    assert await feed.wait(5)
    assert [one.seq for one in feed.take()] == [1, 2]
    with pytest.raises(Unavailable, match="skipped from 2 to 4"):
        await feed.wait(5)
    await task


async def test_a_stream_that_forgets_may_have_holes() -> None:
    feed = Feed(0, forgetful=True)
    task = asyncio.create_task(feed.fill(source(events(7, 8), events(10, 10))))
    assert await feed.wait(5)
    assert [one.seq for one in feed.take()] == [7, 8, 10]
    task.cancel()


async def test_small_batches_while_keeping_up_large_ones_behind() -> None:
    feed = Feed(0)
    task = asyncio.create_task(feed.fill(source(events(1, 3 * LIVE_BATCH))))
    assert await feed.wait(5)
    assert len(feed.take()) == 3 * LIVE_BATCH
    task.cancel()


async def test_g12_reading_pauses_while_the_buffer_is_full() -> None:
    read: list[int] = []

    async def endless() -> AsyncIterator[list[Recorded]]:
        seq = 1
        while True:
            read.append(seq)
            yield events(seq, seq + 999)
            seq += 1000

    feed = Feed(0)
    task = asyncio.create_task(feed.fill(endless()))
    assert await feed.wait(5)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(feed) == 20_000
    seen = len(read)
    feed.take()
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(read) > seen
    task.cancel()


async def test_silence_is_not_an_error() -> None:
    feed = Feed(0)
    task = asyncio.create_task(feed.fill(source()))
    assert not await feed.wait(0.001)
    task.cancel()
