"""A client that catches up while its job goes on talking: what is pushed meanwhile is told after what was read, or read if it must be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from aura.gateway.limits import Limits
from aura.gateway.live.dialects.job import PlainJob
from aura.gateway.live.fanout.turn import Turn
from aura.gateway.live.follow_job import JobFollower
from aura.gateway.live.job_feed import Message
from aura.gateway.live.taps import Follower, Missed, OutputFrame, shown
from aura.gateway.ports import OutputMessage
from aura.log.store import Recorded

JOB = "0199c0de-0000-7000-8000-000000000000"


class World:
    """Everything a follower stands on; storage answers when the test says so."""

    def __init__(self) -> None:
        self.stored: list[OutputMessage] = []
        self.reads = 0
        self.reading = asyncio.Event()
        self.answer = asyncio.Event()
        self.followers: list[tuple[Follower, Missed]] = []
        self.written = b""
        self.closed, self.wire, self.limits = False, "ws", Limits()
        self.hub = SimpleNamespace(head=1, watch=lambda *_: lambda: None, wrote=lambda *_: None)
        self.ctx = SimpleNamespace(store=self, output=SimpleNamespace(read=self.read_output))
        self.taps = self
        self.turn = Turn(lambda *_: None)

    async def read(self, *, subject: str, to_seq: int) -> AsyncIterator[list[Recorded]]:
        claimed = orjson.dumps({"type": "job.claimed", "attempt": 1})
        yield [Recorded(1, f"aura.job.1.{JOB}.claimed", 0, claimed)]

    async def read_output(self, *_: Any, from_cursor: int) -> AsyncIterator[Sequence[OutputMessage]]:
        self.reads += 1
        found = [message for message in self.stored if message.seq >= from_cursor]
        self.reading.set()
        await self.answer.wait()
        yield found

    async def follow(self, _project: int, _job: str, follower: Follower, missed: Missed) -> Any:
        self.followers.append((follower, missed))

        async def stop() -> None:
            self.followers.clear()

        return stop

    def write(self, data: bytes) -> None:
        self.written += data

    def buffered(self) -> int:
        return 0

    async def drained(self, _timeout_s: float) -> bool:
        return True

    def said(self) -> list[int]:
        """The ``i`` of every record written."""
        return [int(part.partition(b",")[0]) for part in self.written.split(b'"i":')[1:]]


def message(seq: int, text: str = "x") -> OutputMessage:
    return OutputMessage(seq, 1, "stream", [{"i": seq - 1, "ts": "t", "chunk": text, "final": False}])


def pushed(of: OutputMessage) -> Message[OutputFrame]:
    return shown(JOB, 1, of)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_pushed_during_a_read_is_told_after_it_without_another() -> None:
    world = World()
    world.stored = [message(1), message(2), message(3)]
    run = asyncio.create_task(JobFollower(world, world, 1, JOB, PlainJob("ws")).run())  # type: ignore[arg-type]
    await world.reading.wait()
    ((tell, _),) = world.followers
    for seq in (3, 4, 5):  # 3 is read as well
        tell(pushed(message(seq)))
    world.answer.set()
    await settle()
    assert (world.said(), world.reads) == ([0, 1, 2, 3, 4], 1)
    tell(pushed(message(6)))
    await settle()
    assert (world.said(), world.reads) == ([0, 1, 2, 3, 4, 5], 1), "it is live"
    run.cancel()


async def test_g11_a_hole_in_what_was_pushed_is_read() -> None:
    world = World()
    world.stored = [message(1)]
    run = asyncio.create_task(JobFollower(world, world, 1, JOB, PlainJob("ws")).run())  # type: ignore[arg-type]
    await world.reading.wait()
    ((tell, _),) = world.followers
    tell(pushed(message(3)))
    world.stored = [message(1), message(2), message(3)]
    world.answer.set()
    await settle()
    assert (world.said(), world.reads) == ([0, 1, 2], 2)
    run.cancel()


async def test_a_message_larger_than_the_bound_is_held_alone() -> None:
    """Else a job of such messages would be read for ever."""
    world = World()
    world.limits = Limits(outbound_bytes=1_000)
    world.stored = [message(1)]
    run = asyncio.create_task(JobFollower(world, world, 1, JOB, PlainJob("ws")).run())  # type: ignore[arg-type]
    await world.reading.wait()
    ((tell, _),) = world.followers
    tell(pushed(message(2, "x" * 5_000)))
    world.answer.set()
    await settle()
    assert (world.said(), world.reads) == ([0, 1], 1)
    run.cancel()


async def test_g11_a_feed_whose_write_fails_ends_and_has_no_hole() -> None:
    world = World()
    world.stored = [message(1)]
    run = asyncio.create_task(JobFollower(world, world, 1, JOB, PlainJob("ws")).run())  # type: ignore[arg-type]
    world.answer.set()
    await settle()
    ((tell, _),) = world.followers
    write = world.write

    def fail(data: bytes) -> None:
        world.write = write  # type: ignore[method-assign]
        raise RuntimeError("no such luck")

    world.write = fail  # type: ignore[method-assign]
    tell(pushed(message(2)))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="no such luck"):
        await asyncio.wait_for(run, 5)
    assert world.said() == [0]


async def test_g12_more_than_is_held_is_read() -> None:
    world = World()
    world.limits = Limits(outbound_bytes=1_000)
    world.stored = [message(1)]
    follower = JobFollower(world, world, 1, JOB, PlainJob("ws"))  # type: ignore[arg-type]
    run = asyncio.create_task(follower.run())
    await world.reading.wait()
    ((tell, _),) = world.followers
    for seq in range(2, 30):
        tell(pushed(message(seq)))
        assert len(follower._held) < 10
    world.stored = [message(seq) for seq in range(1, 30)]
    world.answer.set()
    await settle()
    assert (world.said(), world.reads) == (list(range(29)), 2)
    run.cancel()
