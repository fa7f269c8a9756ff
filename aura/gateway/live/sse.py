"""Server-sent events as an outlet: the hub puts bytes in, one response takes them out.

Unsent bytes are what the hub put in and uvicorn has not accepted yet; uvicorn accepts while its transport's buffer is
below the high-water mark, so a client that reads nothing holds at most the budget. The response ends with the outlet:
at shutdown, for a slow client, or when the client leaves. What was written before the end still goes out, as long as the client takes
it; then its connection is cut. An idle stream carries a comment every 15 s.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Send

from aura.gateway.live.fanout.outlet import Lane, Wire
from aura.gateway.live.websocket import closing
from aura.gateway.live.websocket.outlet import taken

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class SseOutlet:
    """One event stream."""

    __slots__ = ("_buffered", "_drained", "_ended", "_ending", "_parts", "_wake", "lane")
    wire: Wire = "sse"

    lane: Lane | None

    def __init__(self) -> None:
        self.lane = None
        self._parts: list[bytes] = []
        self._buffered = 0
        self._ended = False
        self._ending = asyncio.Event()
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def closed(self) -> bool:
        return self._ended

    def write(self, data: bytes) -> None:
        if not self._ended:
            self._parts.append(data)
            self._buffered += len(data)
            self._drained.clear()
            self._wake.set()

    def past(self) -> None:
        """There is no such way: uvicorn frames what a response says."""

    def buffered(self) -> int:
        return self._buffered

    async def drained(self, timeout_s: float) -> bool:
        while not self._drained.is_set() and not self._ended:
            before = self._buffered
            try:
                async with asyncio.timeout(timeout_s):
                    await self._drained.wait()
            except TimeoutError:
                if self._buffered >= before:
                    return False
        return True

    def end(self, code: int, reason: str) -> None:
        """The reason goes out as a comment; browsers reconnect with ``Last-Event-ID`` by themselves."""
        if not self._ended:
            safe = "".join(char for char in reason if char.isprintable())
            self._parts.append(f": {code} {safe}\n\n".encode())
            self._ended = True
            self._ending.set()
            self._wake.set()
            self._drained.set()

    async def respond(
        self, transport: asyncio.Transport, receive: Receive, send: Send, *, epoch: str, heartbeat_s: float
    ) -> None:
        """The response: until the outlet ends or the client leaves. ``transport`` is the connection's."""
        headers = [*_HEADERS, (b"aura-epoch", epoch.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
        sender = asyncio.ensure_future(self._send_all(send, heartbeat_s))
        gone = asyncio.ensure_future(_client_gone(receive))
        cutting = asyncio.ensure_future(self._cut(transport))
        try:
            await asyncio.wait({sender, gone, cutting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ended = True
            self._drained.set()
            for task in (sender, gone, cutting):
                task.cancel()
            await asyncio.gather(sender, gone, cutting, return_exceptions=True)

    async def _cut(self, transport: asyncio.Transport) -> None:
        """Once the outlet has ended: wait while the client takes what is left, at most so long, then end the connection."""
        await self._ending.wait()
        for _ in range(closing.CLOSE_LOOKS):
            before = taken(transport)
            await asyncio.sleep(closing.CLOSE_WAIT_S)
            if taken(transport) <= before:
                break
        transport.abort()

    async def _send_all(self, send: Send, heartbeat_s: float) -> None:
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    await self._wake.wait()
                self._wake.clear()
            except TimeoutError:
                await send({"type": "http.response.body", "body": b": alive\n\n", "more_body": True})
                continue
            data, self._parts = b"".join(self._parts), []
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._buffered = sum(map(len, self._parts))
            if not self._parts:
                if self._ended:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                self._drained.set()


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
