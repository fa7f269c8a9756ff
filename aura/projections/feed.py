"""Between the stream and the writer: a bounded buffer that hands out what arrived meanwhile as one batch.

Sequences are contiguous unless the stream forgets; a repeated event is dropped (duplicate delivery does no harm), a hole is
refused with ``Unavailable`` so that the runner starts over from its checkpoint, with the log's identity checked again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

from aura.errors import Unavailable
from aura.log.store import Recorded
from aura.projections.projection import BLOCK_BITS

#: Most events of one transaction while keeping up, and while behind.
LIVE_BATCH = 2_000
CATCH_UP_BATCH = 10_000
#: Reading pauses while this many events wait.
BUFFER = 2 * CATCH_UP_BATCH


class Feed:
    """Filled by :meth:`fill` (one task), emptied by :meth:`take` (another)."""

    def __init__(self, position: int, *, forgetful: bool = False) -> None:
        self._position = position
        self._forgetful = forgetful
        self._buffer: deque[Recorded] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._error: Exception | None = None
        self._wanted = 1

    def __len__(self) -> int:
        return len(self._buffer)

    async def fill(self, batches: AsyncIterator[list[Recorded]]) -> None:
        """Read until cancelled. What ends the reading is raised to the taker."""
        try:
            async for batch in batches:
                for recorded in batch:
                    self._put(recorded)
                if len(self._buffer) >= BUFFER:
                    self._room.clear()
                    await self._room.wait()
            self._error = Unavailable("the log stopped answering")
        except Exception as error:  # noqa: BLE001 - whatever ends the reading belongs to the task that takes
            self._error = error
        self._arrived.set()

    def _put(self, recorded: Recorded) -> None:
        if recorded.seq <= self._position:
            return
        if recorded.seq != self._position + 1 and not self._forgetful:
            raise Unavailable(f"the log skipped from {self._position} to {recorded.seq}")
        self._position = recorded.seq
        self._buffer.append(recorded)
        if len(self._buffer) >= self._wanted:
            self._arrived.set()

    async def wait(self, timeout_s: float, count: int = 1) -> bool:
        """Wait for ``count`` events to take; after ``timeout_s`` seconds, whether there are any. Raises what ended the reading."""
        if len(self._buffer) < count and self._error is None:
            self._wanted = count
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            self._wanted = 1
        if not self._buffer and self._error is not None:
            raise self._error
        return bool(self._buffer)

    def take(self) -> list[Recorded]:
        """What has arrived, at most one batch, never across a block. Call after :meth:`wait` said yes."""
        buffer = self._buffer
        limit = CATCH_UP_BATCH if len(buffer) > LIVE_BATCH else LIVE_BATCH
        block = buffer[0].seq >> BLOCK_BITS
        taken: list[Recorded] = []
        while buffer and len(taken) < limit and buffer[0].seq >> BLOCK_BITS == block:
            taken.append(buffer.popleft())
        if len(buffer) < BUFFER:
            self._room.set()
        return taken
