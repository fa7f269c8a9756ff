"""The adapter between stored output and what the gateway shows: decrypts each message once, on the way in.

Live delivery is at most once and in order per job; readers notice what is missing by ``i`` (``job_feed``). A message that does
not open under its job's key is left out and logged: it is damaged or forged, and must not stop what follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from aura.errors import AuraError
from aura.events import subjects
from aura.events.subjects import OUTPUT_KINDS, OutputKind
from aura.gateway.ports import Jobs, OutputMessage, OutputSink, Stop
from aura.log.output import OutputMessage as StoredMessage
from aura.log.output import OutputPage
from aura.log.ports import ContentStore
from aura.log.sealing import BrokenSeal

log = structlog.get_logger("aura.gateway")

#: Messages of one page.
_PAGE = 200
#: Log messages of all jobs that wait for their keys; more are dropped (they are live only).
_LOG_QUEUE = 1_000


class StoredOutput(Protocol):
    """``log.output.SealedOutput``."""

    async def read(
        self,
        project: int,
        job_id: str,
        attempts: Sequence[int],
        *,
        after_seq: int = 0,
        limit: int = 500,
        kinds: Sequence[OutputKind] = OUTPUT_KINDS,
    ) -> OutputPage:
        """One page."""


class Subscription(Protocol):
    """``log.connection.RawSubscription``."""

    async def unsubscribe(self) -> None:
        """Stop. Safe twice."""


FollowOutput = Callable[[str, Callable[[StoredMessage], None]], Awaitable[Subscription]]
"""``(subject pattern, callback)``: ``log.output_jetstream.follow_output`` with its connection bound."""


class JobOutput:
    """Implements :class:`~aura.gateway.ports.OutputReader`."""

    def __init__(self, stored: StoredOutput, content: ContentStore, jobs: Jobs, follow: FollowOutput) -> None:
        self._stored = stored
        self._content = content
        self._jobs = jobs
        self._follow = follow

    async def read(
        self,
        project: int,
        job_id: str,
        attempts: Sequence[int],
        *,
        from_cursor: int = 0,
        kinds: Sequence[OutputKind] = OUTPUT_KINDS,
    ) -> AsyncIterator[Sequence[OutputMessage]]:
        """See the port."""
        after = max(from_cursor - 1, 0)
        data_key = await self._content.data_key(project, job_id)
        while data_key is not None and attempts:
            page = await self._stored.read(project, job_id, attempts, after_seq=after, limit=_PAGE, kinds=kinds)
            yield [opened for stored in page.messages if (opened := _open(stored, data_key)) is not None]
            if not page.more or not page.messages:
                return
            after = page.messages[-1].seq

    async def watch(self, project: int, job_id: str, sink: OutputSink) -> Stop:
        """See the port."""
        data_key = await self._content.data_key(project, job_id)
        if data_key is None:
            return _nothing

        def receive(stored: StoredMessage) -> None:
            opened = _open(stored, data_key)
            if opened is not None:
                sink(job_id, project, opened)

        return (await self._follow(f"aura.output.{project}.{job_id}.>", receive)).unsubscribe

    async def watch_logs(self, sink: OutputSink) -> Stop:
        """See the port."""
        waiting: asyncio.Queue[StoredMessage] = asyncio.Queue(_LOG_QUEUE)

        def receive(stored: StoredMessage) -> None:
            if not waiting.full():
                waiting.put_nowait(stored)

        subscription = await self._follow("aura.output.*.*.*.log", receive)
        opening = asyncio.get_running_loop().create_task(self._open_logs(waiting, sink))

        async def stop() -> None:
            opening.cancel()
            await subscription.unsubscribe()
            await asyncio.gather(opening, return_exceptions=True)

        return stop

    async def _open_logs(self, waiting: asyncio.Queue[StoredMessage], sink: OutputSink) -> None:
        while True:
            stored = await waiting.get()
            try:
                where = subjects.parse_output(stored.subject)
                head = await self._jobs.head(where.job_id)
                data_key = await self._content.data_key(where.project, where.job_id)
            except (AuraError, ValueError) as error:
                log.warning("output.log_line_lost", error=type(error).__name__)
                continue
            if data_key is not None and head.state.attempt >= where.attempt:
                opened = _open(stored, data_key)
                if opened is not None:
                    sink(where.job_id, where.project, opened)


async def _nothing() -> None:
    """Nothing was opened."""


def _open(stored: StoredMessage, data_key: bytes) -> OutputMessage | None:
    try:
        return OutputMessage(stored.seq, stored.attempt, stored.kind, stored.records(data_key))
    except (BrokenSeal, ValueError) as error:
        log.warning("output.unreadable", subject=stored.subject, seq=stored.seq, error=type(error).__name__)
        return None
