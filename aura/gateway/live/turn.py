"""The end of a turn of the event loop, for all feeds of jobs together: what each of them has to write then, and one count of it.

One message from the log is a few bytes for each of its watchers, and one read of the socket brings messages of many jobs. A callback and
two counters for each of their watchers would cost about as much as the writing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

log = structlog.get_logger("aura.gateway")

#: Writes what is pending for one client; ``(messages, bytes)``.
Flush = Callable[[], tuple[int, int]]


class Turn:
    """See the module docstring. ``wrote`` is told how many messages and bytes a turn wrote."""

    def __init__(self, wrote: Callable[[int, int], None]) -> None:
        self._wrote = wrote
        self._due: list[Flush] = []

    def ends_with(self, flush: Flush) -> None:
        """Call ``flush`` when this turn ends, in the order of these calls; once for each of them."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._end)
        self._due.append(flush)

    def _end(self) -> None:
        due, self._due = self._due, []
        messages = size = 0
        for flush in due:
            try:
                flushed = flush()
            except Exception:  # one client's; the others' bytes must go out
                log.exception("turn.flush_failed")
                continue
            messages += flushed[0]
            size += flushed[1]
        if messages:
            self._wrote(messages, size)
