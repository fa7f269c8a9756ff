"""Waiting until the read models have come up to a sequence (``?min_seq=``: read your own writes).

While somebody waits, one task of this process asks Postgres for the checkpoint, soon at first and then less often; everybody who
waits is served by the same question. While nobody waits nothing is asked, and a commit of the projector costs
nobody anything. (It used to be announced by ``NOTIFY``: two woken backends and two woken processes for each of
hundreds of commits a second, a fifth of all processor time at 100 jobs a second.)

Failure cases: Postgres cannot be asked, or the process stops → whoever waits gets ``Unavailable``; a server that crashed and lost its
last commits is believed, since nothing is remembered from one question to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aura.errors import Unavailable

#: Between two questions, seconds: the first pause, what it grows by, and the longest; and the longest after somebody new came, so that
#: a stream of readers makes at most 200 questions a second of it, and none of them waits much longer than a single one would.
_FIRST_S, _GROWTH, _LONGEST_S, _FRESH_S = 0.001, 1.5, 0.02, 0.005
_STOPPED = "the read models are not asked any more"


class Progress:
    """How far the read models are, asked for only while somebody waits."""

    def __init__(
        self, checkpoint: Callable[[], Awaitable[int]], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._checkpoint = checkpoint
        self._sleep = sleep
        self._stopped = False
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._asking: asyncio.Task[None] | None = None
        self._pause_s = _FIRST_S

    async def stop(self) -> None:
        """Ask no more; who still waits, or comes later, gets ``Unavailable``. Safe twice."""
        self._stopped = True
        asking, self._asking = self._asking, None
        self._fail(Unavailable(_STOPPED))
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def wait_for(self, min_seq: int, timeout_s: float) -> bool:
        """Whether the read models reach ``min_seq`` within ``timeout_s``. Raises ``Unavailable`` when they cannot be asked."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                if min_seq > await self._checkpoint():
                    self._await(min_seq, reached)
                    await reached
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(reached, None)
        return True

    def _await(self, min_seq: int, reached: asyncio.Future[None]) -> None:
        if self._stopped:
            raise Unavailable(_STOPPED)
        self._waiting[reached] = min_seq
        self._pause_s = min(self._pause_s, _FRESH_S)
        if self._asking is None or self._asking.done():
            self._pause_s = _FIRST_S
            self._asking = asyncio.create_task(self._ask(), name="projection-progress")

    async def _ask(self) -> None:
        while self._waiting:
            pause_s, self._pause_s = self._pause_s, min(self._pause_s * _GROWTH, _LONGEST_S)
            await self._sleep(pause_s)
            try:
                known = await self._checkpoint()
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait
                self._fail(error)
                return
            for waiter, seq in self._waiting.items():
                if seq <= known and not waiter.done():
                    waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(error)
