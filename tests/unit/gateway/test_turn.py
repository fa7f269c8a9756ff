"""What feeds of jobs write at the end of a turn goes out together and is counted once."""

from __future__ import annotations

import asyncio

from aura.gateway.live.turn import Turn


async def test_one_count_for_all_that_a_turn_writes() -> None:
    counted: list[tuple[int, int]] = []
    turn = Turn(lambda messages, size: counted.append((messages, size)))
    order: list[int] = []

    def flush(number: int) -> tuple[int, int]:
        order.append(number)
        return number, 10 * number

    for number in (1, 2, 0):
        turn.ends_with(lambda number=number: flush(number))
    assert not order, "not before the turn ends"
    await asyncio.sleep(0)
    assert (order, counted) == ([1, 2, 0], [(3, 30)])
    turn.ends_with(lambda: flush(4))
    await asyncio.sleep(0)
    assert counted == [(3, 30), (4, 40)]


async def test_nothing_written_is_not_counted() -> None:
    counted: list[tuple[int, int]] = []
    turn = Turn(lambda messages, size: counted.append((messages, size)))
    turn.ends_with(lambda: (0, 0))
    await asyncio.sleep(0)
    assert not counted


async def test_one_that_fails_does_not_keep_the_others_from_writing() -> None:
    counted: list[tuple[int, int]] = []
    turn = Turn(lambda messages, size: counted.append((messages, size)))

    def broken() -> tuple[int, int]:
        raise RuntimeError("one client's")

    def again() -> tuple[int, int]:
        turn.ends_with(lambda: (1, 1))
        return 2, 5

    turn.ends_with(broken)
    turn.ends_with(again)
    await asyncio.sleep(0)
    assert counted == [(2, 5)]
    await asyncio.sleep(0)
    assert counted == [(2, 5), (1, 1)], "what is due while a turn ends belongs to the next one"
