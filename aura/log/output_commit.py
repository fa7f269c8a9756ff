"""Group commit for output: what a turn of the event loop submits is looked at together.

::

    submit ──▶ queue ──end of the turn──▶ group.py's choice: one atomic batch, or plain

A flush that returns frees all attempts that shared it, and each of them has something to write again, in the same turn. ``GroupCommit``
alone sends the first :data:`~aura.log.group.MAX_PLAIN` of them one by one before anybody waits, each with a flush of its own, and the
others wait for all of these: with a hundred attempts that was half of the time from a chunk to its acknowledgement. A lone write loses
nothing but the rest of its turn. Bounds and outcomes are those of ``group.py``.
"""

from __future__ import annotations

import asyncio

from aura.errors import Overloaded
from aura.log.batch import AtomicWriter
from aura.log.group import MAX_QUEUED, GroupCommit
from aura.log.guarded import GuardedWriter, Write


class TurnCommit(GroupCommit):
    """See the module docstring."""

    def __init__(self, writer: GuardedWriter, batches: AtomicWriter) -> None:
        super().__init__(writer, batches)
        self._scheduled = False

    def submit(self, write: Write) -> asyncio.Future[int]:
        """See :meth:`GroupCommit.submit`; what a plain append would raise is in the future."""
        if len(self._queue) >= MAX_QUEUED:
            raise Overloaded("too many appends are waiting for the log")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._queue.append((write, future, self._writer.now()))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._end_of_turn)
        return future

    def _end_of_turn(self) -> None:
        self._scheduled = False
        self._pump()
