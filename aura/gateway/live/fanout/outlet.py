"""What the hub knows of a client: somewhere to put bytes, and how many of them are still unsent.

Two implementations: ``websocket.outlet.WebSocketOutlet`` writes straight to the transport, ``sse.SseOutlet`` fills a response.
"""

from __future__ import annotations

from typing import Literal, Protocol

#: How bytes are framed: WebSocket text per event, server-sent events, or objects of ``aura.v1`` that travel as arrays.
Wire = Literal["ws", "sse", "native"]


class Lane(Protocol):
    """Somebody who sends past an outlet's queue (:meth:`~Outlet.past`)."""

    def queue(self, outlet: Outlet) -> None:
        """Do it no more: something is about to be queued, or nothing will be sent any more."""


class Outlet(Protocol):
    """One client. All methods but :meth:`drained` are plain calls that never block."""

    lane: Lane | None
    """Who sends past the queue. It is told, and this is ``None``, before anything is queued and before the connection is closed."""

    def past(self) -> int | None:
        """The way past the queue, for whoever is :attr:`lane` and only while nothing is :meth:`buffered`: a file descriptor that does not
        block. ``None``: there is none."""

    @property
    def wire(self) -> Wire:
        """Which bytes of a frame this client takes."""

    @property
    def closed(self) -> bool:
        """Nothing will be sent any more."""

    def write(self, data: bytes) -> None:
        """Queue bytes (whole frames). Ignored when closed."""

    def buffered(self) -> int:
        """Bytes that the operating system has not taken yet."""

    async def drained(self, timeout_s: float) -> bool:
        """Wait until little is buffered (or it is closed). ``False``: the client took nothing for so long."""

    def end(self, code: int, reason: str) -> None:
        """Send a close with a code of API.md (SSE: end the response). Safe twice."""


class Ending:
    """Close codes of API.md."""

    DONE = 1000
    GOING_AWAY = 1001
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    TRY_LATER = 1013
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    TOO_SLOW = 4408
