"""Waiting until the read models have come up to a sequence (``?min_seq=``: read your own writes).

The projector announces every commit with ``NOTIFY``; one connection of this process listens and wakes whoever waits. What is known
can only be too low, never too high: it is forgotten when the connection is lost, since a server that crashed may have
lost its last commits. While somebody waits the checkpoint is also asked for now and then, so that a lost notification
costs milliseconds and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg
import structlog

from aura.errors import Unavailable
from aura.projections.connection import CHANNEL, adapt, parameters

_log = structlog.get_logger("aura.projections")
_ASK_S = 0.1
_RECONNECT_S = 0.5


class Progress:
    """How far the read models are, as far as this process knows."""

    def __init__(self, conninfo: str, checkpoint: Callable[[], Awaitable[int]]) -> None:
        self._conninfo = conninfo
        self._checkpoint = checkpoint
        self._known = 0
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start listening."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="projection-progress")

    async def stop(self) -> None:
        """Stop listening. Safe twice."""
        task, self._task = self._task, None
        while task is not None and not task.done():
            # Again and again: psycopg waits with ``asyncio.wait_for``, which in Python 3.11 may swallow a cancellation.
            task.cancel()
            await asyncio.wait({task}, timeout=0.2)

    @property
    def known(self) -> int:
        """The newest sequence known to be committed."""
        return self._known

    async def wait_for(self, min_seq: int, timeout_s: float) -> bool:
        """Whether the read models reach ``min_seq`` within ``timeout_s``. Raises ``Unavailable`` when they cannot be asked."""
        if min_seq <= self._known:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._learn(await self._checkpoint())
                while self._known < min_seq:
                    await self._woken(min_seq)
        except TimeoutError:
            return False
        return True

    async def _woken(self, min_seq: int) -> None:
        try:
            async with asyncio.timeout(_ASK_S), self._changed:
                await self._changed.wait_for(lambda: self._known >= min_seq)
        except TimeoutError:
            await self._learn(await self._checkpoint())

    async def _learn(self, seq: int) -> None:
        async with self._changed:
            if seq > self._known:
                self._known = seq
                self._changed.notify_all()

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (psycopg.Error, Unavailable, OSError) as error:
                _log.info("progress connection lost", error=type(error).__name__)
            self._known = 0
            await asyncio.sleep(_RECONNECT_S)

    async def _listen_once(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo, **parameters("aura-progress", read_only=True)
        )
        adapt(connection)
        try:
            await connection.execute(f"LISTEN {CHANNEL}")
            with suppress(Unavailable):
                await self._learn(await self._checkpoint())
            async for notify in connection.notifies():
                await self._learn(int(notify.payload.rpartition(":")[2]))
        finally:
            await connection.close()
