"""How long a client has after the last that it is told: then its connection is cut, whatever is unsent.

After our close frame a client of a WebSocket has :data:`CLOSE_WAIT_S` to answer, and up to :data:`CLOSE_LOOKS` times as long while it takes
what was written before, so that a slow one gets to read its 4408 and where to resume. A transport that is closed goes when all is sent,
which it may never be.
"""

from __future__ import annotations

import asyncio

from aura.gateway.live.websocket.outlet import taken

CLOSE_WAIT_S = 2.0
CLOSE_LOOKS = 15


class Closing:
    """Begins when our close frame is out."""

    __slots__ = ("_loop", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._wait(CLOSE_LOOKS)

    def stop(self) -> None:
        """It has answered, or is gone. Safe twice."""
        self._timer.cancel()

    def _wait(self, looks: int) -> None:
        self._timer = self._loop.call_later(CLOSE_WAIT_S, self._look, taken(self._transport), looks)

    def _look(self, before: int, looks: int) -> None:
        if looks and taken(self._transport) > before:
            self._wait(looks - 1)
        else:
            self._transport.abort()


def abort_soon(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> asyncio.TimerHandle:
    """For a transport that is closed. To be cancelled when its connection is lost, or it is held for as long."""
    return loop.call_later(CLOSE_WAIT_S, transport.abort)
