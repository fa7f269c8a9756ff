"""A keep-alive HTTP/1.1 client that costs little, so that the gateway is measured and not the client. Loopback, JSON, no TLS.

Knows exactly what the gateway answers: a status line, headers with ``content-length``, a body. Nothing more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast
from urllib.parse import urlsplit

import orjson


class _Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the gateway closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        lower = bytes(head).lower()
        at = lower.find(b"content-length:")
        size = int(lower[at + 15 : (lower.find(b"\r", at) + len(lower) + 1) % (len(lower) + 1)]) if at >= 0 else 0
        if len(body) < size or self._answer is None:
            return
        status = int(head[9:12])
        content = bytes(body[:size])
        self._buffer.clear()
        if not self._answer.done():
            self._answer.set_result((status, content))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Http:
    """A pool of connections to one gateway; grows to what is in flight."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._address = (where.hostname or "127.0.0.1", where.port or 80)
        self._host = where.netloc
        self._free: deque[_Line] = deque()

    async def _line(self) -> _Line:
        while self._free:
            line = self._free.pop()
            if not line.closed:  # the gateway closes idle connections
                return line
        _, fresh = await asyncio.get_running_loop().create_connection(_Line, *self._address)
        return fresh

    async def _ask(self, request: bytes) -> Any:
        line = await self._line()
        status, body = await line.ask(request)
        self._free.append(line)
        if status >= 400:
            raise RuntimeError(f"{status}: {body[:500]!r}")
        return orjson.loads(body) if body else None

    async def post(self, path: str, body: Any) -> Any:
        """POST JSON; the decoded answer. Raises ``RuntimeError`` for 4xx and 5xx."""
        data = orjson.dumps(body)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        return await self._ask(head.encode() + data)

    async def get(self, path: str) -> Any:
        """GET; the decoded answer."""
        return await self._ask(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())

    def close(self) -> None:
        """Close idle connections."""
        while self._free:
            self._free.pop().close()
