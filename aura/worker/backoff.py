"""Pauses between repeats: doubling from 50 ms to 2 s, with jitter so that workers do not return in step."""

from __future__ import annotations

import asyncio

from aura.ids import IdSource

FIRST_S, MOST_S = 0.05, 2.0


class Backoff:
    """The pauses of one repeated thing, none longer than ``most_s`` seconds."""

    __slots__ = ("_ids", "_most_s", "_next_s")

    def __init__(self, ids: IdSource, most_s: float = MOST_S) -> None:
        self._ids = ids
        self._most_s = most_s
        self._next_s = FIRST_S

    async def wait(self) -> None:
        """Sleep for the next pause: between half of it and all of it."""
        pause, self._next_s = self._next_s, min(self._most_s, self._next_s * 2)
        await asyncio.sleep(pause * (0.5 + int.from_bytes(self._ids.random_bytes(2)) / 131_072))
