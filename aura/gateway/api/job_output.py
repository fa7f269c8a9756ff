"""The adapter between stored output and what the gateway shows: decrypts each message once, on the way in.

Live delivery is at most once and in order per job; readers notice what is missing by ``i`` (``job_feed``). A message that does
not open under its job's key, or whose records are not numbered as it says, is left out and logged: it is damaged or forged, and must
not stop what follows.

Memory of a read is bounded (G12) whatever a job has written: a page keeps at most :data:`_PAGE` messages and :data:`_PAGE_BYTES` of
them, attempts are asked for a few at a time (each subject of one answers at most 4 MiB), and at most :data:`_READS_AT_ONCE` pages are
being read in this process.
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
from aura.log.sealing import BrokenSeal, JobCipher

log = structlog.get_logger("aura.gateway")

#: Messages and bytes (of ciphertext, at least one message) of one page.
_PAGE = 200
_PAGE_BYTES = 4 * 1024 * 1024
#: Attempts that are asked for at once, and pages that are read at once.
_ATTEMPTS_AT_ONCE = 2
_READS_AT_ONCE = 8
#: Messages of one kind of all jobs that wait for their keys; more are dropped (they are live only).
_WAITING = 1_000


class StoredOutput(Protocol):
    """``log.output.SealedOutput``."""

    async def last_seq(self) -> int:
        """The newest cursor."""

    async def newest(self, project: int, job_id: str) -> int:
        """The newest cursor of one job."""

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
        self._reading = asyncio.Semaphore(_READS_AT_ONCE)

    async def last_seq(self) -> int:
        """See the port."""
        return await self._stored.last_seq()

    async def newest(self, project: int, job_id: str) -> int:
        """See the port."""
        return await self._stored.newest(project, job_id)

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
        groups = [attempts[at : at + _ATTEMPTS_AT_ONCE] for at in range(0, len(attempts), _ATTEMPTS_AT_ONCE)]
        while data_key is not None and groups:
            async with self._reading:
                page, groups = await self._page(project, job_id, groups, after, kinds)
            cipher = JobCipher(data_key)
            yield [opened for stored in page.messages if (opened := _open(stored, cipher)) is not None]
            if not page.more or not page.messages:
                return
            after = page.messages[-1].seq

    async def _page(
        self, project: int, job_id: str, groups: Sequence[Sequence[int]], after: int, kinds: Sequence[OutputKind]
    ) -> tuple[OutputPage, list[Sequence[int]]]:
        """The next messages of all groups of attempts by sequence, and the groups that have any left."""
        kept: list[StoredMessage] = []
        left: list[Sequence[int]] = []
        complete_to: int | None = None
        for group in groups:
            page = await self._stored.read(project, job_id, group, after_seq=after, limit=_PAGE, kinds=kinds)
            if not page.messages:
                continue
            left.append(group)
            if page.more:
                complete_to = min(page.messages[-1].seq, complete_to or page.messages[-1].seq)
            found = sorted([*kept, *page.messages], key=lambda message: message.seq)
            kept = _within_budget([message for message in found if complete_to is None or message.seq <= complete_to])
            if len(kept) < len(found):  # what follows is read again, with the next page
                complete_to = kept[-1].seq
        return OutputPage(kept, complete_to is not None), left

    async def watch(self, project: int, job_id: str, sink: OutputSink) -> Stop:
        """See the port."""
        data_key = await self._content.data_key(project, job_id)
        if data_key is None:
            return _nothing
        cipher = JobCipher(data_key)

        def receive(stored: StoredMessage) -> None:
            opened = _open(stored, cipher)
            if opened is not None:
                sink(job_id, project, opened)

        return (await self._follow(f"aura.output.{project}.{job_id}.>", receive)).unsubscribe

    async def watch_all(self, kind: OutputKind, sink: OutputSink) -> Stop:
        """See the port."""
        waiting: asyncio.Queue[StoredMessage] = asyncio.Queue(_WAITING)

        def receive(stored: StoredMessage) -> None:
            if not waiting.full():
                waiting.put_nowait(stored)

        subscription = await self._follow(f"aura.output.*.*.*.{kind}", receive)
        opening = asyncio.get_running_loop().create_task(self._open_all(waiting, sink))

        async def stop() -> None:
            opening.cancel()
            await subscription.unsubscribe()
            await asyncio.gather(opening, return_exceptions=True)

        return stop

    async def _open_all(self, waiting: asyncio.Queue[StoredMessage], sink: OutputSink) -> None:
        while True:
            stored = await waiting.get()
            try:
                where = subjects.parse_output(stored.subject)
                head = await self._jobs.head(where.job_id)
                data_key = await self._content.data_key(where.project, where.job_id)
            except (AuraError, ValueError) as error:
                log.warning("output.record_lost", error=type(error).__name__)
                continue
            if data_key is not None and head.state.attempt >= where.attempt:
                opened = _open(stored, JobCipher(data_key))
                if opened is not None:
                    sink(where.job_id, where.project, opened)


async def _nothing() -> None:
    """Nothing was opened."""


def _within_budget(messages: Sequence[StoredMessage]) -> list[StoredMessage]:
    """The first messages that fit in one page, at least one."""
    size = 0
    for at, message in enumerate(messages[:_PAGE]):
        size += len(message.sealed)
        if size > _PAGE_BYTES and at:
            return list(messages[:at])
    return list(messages[:_PAGE])


def _open(stored: StoredMessage, cipher: JobCipher) -> OutputMessage | None:
    try:
        records = stored.opened(cipher)
        if not isinstance(records, list) or not records:
            raise ValueError("no list of records")
        for at, record in enumerate(records, stored.first):
            if not isinstance(record, dict) or record.get("i") != at:
                raise ValueError("records that are not numbered as the message says")
        where = subjects.parse_output(stored.subject)
        return OutputMessage(stored.seq, where.attempt, where.kind, records, stored.stored_at_ns)
    except (BrokenSeal, ValueError) as error:
        log.warning("output.unreadable", subject=stored.subject, seq=stored.seq, error=type(error).__name__)
        return None
