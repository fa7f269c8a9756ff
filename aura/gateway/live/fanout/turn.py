"""The end of a turn of the event loop, for all feeds of jobs together: what each of them has to write then, and one count of it.

One message from the log is a few bytes for each of its watchers, and one read of the socket brings messages of many jobs. A callback and
two counters for each of their watchers would cost about as much as the writing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger("aura.gateway")


class Writer(Protocol):
    """Somebody who has something pending for one client."""

    def flush(self) -> tuple[int, int]:
        """Write it. How many messages and bytes."""

    def failed(self, error: Exception) -> None:
        """:meth:`flush` raised, so something may be missing now: this client must be told. Never raises."""


class Turn:
    """See the module docstring. ``wrote`` is told how many messages and bytes a turn wrote."""

    def __init__(self, wrote: Callable[[int, int], None]) -> None:
        self._wrote = wrote
        self._due: list[Writer] = []

    def ends_with(self, writer: Writer) -> None:
        """Let it write when this turn ends, in the order of these calls; once for each of them."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._end)
        self._due.append(writer)

    def _end(self) -> None:
        due, self._due = self._due, []
        messages = size = 0
        for writer in due:
            try:
                flushed = writer.flush()
            except Exception as error:  # one client's; the others' bytes must go out
                log.exception("turn.flush_failed")
                writer.failed(error)
                continue
            messages += flushed[0]
            size += flushed[1]
        if messages:
            self._wrote(messages, size)
