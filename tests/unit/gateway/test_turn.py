"""What feeds of jobs write at the end of a turn goes out together and is counted once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aura.gateway.live.fanout.turn import Turn


class Writer:
    """Writes what it is told to, and remembers what it heard."""

    def __init__(self, flush: Callable[[], tuple[int, int]]) -> None:
        self.flush = flush
        self.errors: list[Exception] = []

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


class World:
    def __init__(self) -> None:
        self.counted: list[tuple[int, int]] = []
        self.turn = Turn(lambda messages, size: self.counted.append((messages, size)))


async def test_one_count_for_all_that_a_turn_writes() -> None:
    world = World()
    order: list[int] = []

    def flush(number: int) -> tuple[int, int]:
        order.append(number)
        return number, 10 * number

    for number in (1, 2, 0):
        world.turn.ends_with(Writer(lambda number=number: flush(number)))
    assert not order, "not before the turn ends"
    await asyncio.sleep(0)
    assert (order, world.counted) == ([1, 2, 0], [(3, 30)])
    world.turn.ends_with(Writer(lambda: flush(4)))
    await asyncio.sleep(0)
    assert world.counted == [(3, 30), (4, 40)]


async def test_nothing_written_is_not_counted() -> None:
    world = World()
    world.turn.ends_with(Writer(lambda: (0, 0)))
    await asyncio.sleep(0)
    assert not world.counted


async def test_one_that_fails_is_told_so_and_does_not_keep_the_others_from_writing() -> None:
    world = World()

    def fail() -> tuple[int, int]:
        raise RuntimeError("one client's")

    def again() -> tuple[int, int]:
        world.turn.ends_with(Writer(lambda: (1, 1)))
        return 2, 5

    broken, well = Writer(fail), Writer(again)
    world.turn.ends_with(broken)
    world.turn.ends_with(well)
    await asyncio.sleep(0)
    assert world.counted == [(2, 5)]
    assert [str(error) for error in broken.errors] == ["one client's"]
    assert not well.errors
    await asyncio.sleep(0)
    assert world.counted == [(2, 5), (1, 1)], "what is due while a turn ends belongs to the next one"
