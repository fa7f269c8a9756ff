"""How history is written to one client: in steps of at most ``page_bytes``, each when the last one has left (G12).

All that catches up on one connection shares one :class:`Steps`, so that together they hold no more unsent than one of them would. A step
is never split within an event or a record: one that is larger goes alone.

Failure cases: a client that takes nothing for ``stall_s`` is closed with 4408 and where to resume, as of what was written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aura.gateway.context import Gateway
from aura.gateway.live.fanout.outlet import Outlet


class Steps:
    """See the module docstring. ``resume`` is the query to connect with again, when it is asked."""

    def __init__(self, gateway: Gateway, outlet: Outlet, resume: Callable[[], str]) -> None:
        self._gateway = gateway
        self._outlet = outlet
        self._resume = resume
        self._one = asyncio.Lock()
        self.turns = asyncio.Semaphore(gateway.limits.outputs_at_once)
        """For those that read much before they write anything: so many at a time."""

    async def write(
        self, data: bytes, messages: int, written: Callable[[], object], due: Callable[[], bool] = lambda: True
    ) -> bool:
        """One step, if it is still ``due`` when its turn comes. ``written`` is called when it is on its way. ``False``: it was not due, or
        the client is gone or was told that it is too slow."""
        async with self._one:
            if self._outlet.closed or not due():
                return False
            self._outlet.write(data)
            written()
            self._gateway.hub.wrote(messages, len(data))
            if not await self._outlet.drained(self._gateway.limits.stall_s):
                self.slow()
                return False
            return not self._outlet.closed

    def slow(self) -> None:
        """Close the client, with where to resume."""
        self._gateway.hub.slow(self._outlet, self._resume())
