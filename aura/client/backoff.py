"""Pauses between tries: exponential with full jitter, so that a thousand clients of a restarted gateway do not return in step.

The n-th pause is drawn evenly from 0 to ``min(most_s, first_s * 2**n)``. A try that held for ``steady_s`` starts the series anew; one that
broke off sooner does not, so a gateway that accepts and drops is not hammered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aura.clock import Clock
from aura.ids import IdSource

FIRST_S, MOST_S, STEADY_S = 0.1, 10.0, 10.0

Sleep = Callable[[float], Awaitable[None]]


class Backoff:
    """The pauses of one repeated thing. ``sleep`` is what waits (a test passes its own)."""

    def __init__(
        self,
        clock: Clock,
        ids: IdSource,
        *,
        first_s: float = FIRST_S,
        most_s: float = MOST_S,
        steady_s: float = STEADY_S,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._ids = ids
        self._first_s, self._most_s, self._steady_s = first_s, most_s, steady_s
        self._sleep = sleep
        self._failures = 0
        self._since: float | None = None

    def began(self) -> None:
        """The thing works, from now on."""
        self._since = self._clock.monotonic_s()

    async def wait(self, at_least_s: float = 0.0) -> float:
        """It failed: pause. ``at_least_s`` is what the server asked for (it comes on top: jitter stays). Returns the seconds."""
        if self._since is not None and self._clock.monotonic_s() - self._since >= self._steady_s:
            self._failures = 0
        self._since = None
        most = min(self._most_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        pause = at_least_s + most * int.from_bytes(self._ids.random_bytes(4)) / 2**32
        await self._sleep(pause)
        return pause
