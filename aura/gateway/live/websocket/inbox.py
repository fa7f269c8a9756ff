"""What an ASGI application has yet to take of its connection. One reader. Most never have anything, so nothing is made before."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any


class Inbox:
    """Messages in order."""

    __slots__ = ("_loop", "_messages", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: deque[dict[str, Any]] | None = None
        self._waiting: asyncio.Future[None] | None = None

    @property
    def empty(self) -> bool:
        """Everything was taken."""
        return self._messages is None

    def put(self, message: dict[str, Any]) -> None:
        """One more."""
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def take(self) -> dict[str, Any]:
        """The next one, as soon as there is one."""
        while self._messages is None:
            self._waiting = self._loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        message = self._messages.popleft()
        if not self._messages:
            self._messages = None
        return message
