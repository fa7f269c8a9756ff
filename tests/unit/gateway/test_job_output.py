"""Reading output costs bounded memory however much there is, and damaged or forged messages stop nobody (G12, G17)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import orjson
import pytest

from aura.clock import ManualClock
from aura.gateway.api import job_output
from aura.gateway.api.job_output import JobOutput, Subscription
from aura.ids import SystemIds
from aura.log import sealing
from aura.log.output import MAX_MESSAGE_BYTES, OutputMessage, OutputPage, SealedOutput
from aura.log.output_memory import MemoryOutputBackend

KEY = b"k" * 32
JOB = "0199c0de-0000-7000-8000-000000000000"
IDS = SystemIds()


class Content:
    """Only the data key."""

    async def data_key(self, project: int, job_id: str) -> bytes | None:
        return KEY


class Watched(SealedOutput):
    """Counts subjects per read and readers at once."""

    most_attempts = 0
    most_readers = 0
    readers = 0

    async def read(self, project: int, job_id: str, attempts: Sequence[int], **options: object) -> OutputPage:  # type: ignore[override]
        self.most_attempts = max(self.most_attempts, len(attempts))
        self.readers += 1
        self.most_readers = max(self.most_readers, self.readers)
        await asyncio.sleep(0)
        try:
            return await super().read(project, job_id, attempts, **options)  # type: ignore[arg-type]
        finally:
            self.readers -= 1


class World:
    def __init__(self) -> None:
        self.backend = MemoryOutputBackend(ManualClock())
        self.stored = Watched(self.backend, Content(), IDS)  # type: ignore[arg-type]
        self.output = JobOutput(self.stored, Content(), None, self._follow)  # type: ignore[arg-type]
        self.expected: dict[int, int] = {}
        self.counts: dict[int, int] = {}

    async def _follow(self, _subject: str, _callback: Callable[[OutputMessage], None]) -> Subscription:
        raise NotImplementedError

    async def write(
        self, attempt: int, kind: str, *records: object, first: int | None = None, raw: object = None
    ) -> int:
        """One message; records are numbered unless ``raw`` says what lies there."""
        start = self.counts.get(attempt, 0) if first is None else first
        body = [{"i": start + at, "chunk": text} for at, text in enumerate(records)] if raw is None else raw
        subject = f"aura.output.1.{JOB}.{attempt}.{kind}"
        seq = await self.backend.append(
            subject, f"aura.output.1.{JOB}.{attempt}.>", self.expected.get(attempt, 0), start, len(records),
            sealing.seal(KEY, subject, orjson.dumps(body), IDS),
        )  # fmt: skip
        self.expected[attempt] = seq
        self.counts[attempt] = start + len(records)
        return seq

    async def pages(self, attempts: Sequence[int], from_cursor: int = 0) -> list[list[tuple[int, int]]]:
        """Per page (cursor, attempt) of each message."""
        return [
            [(message.seq, message.attempt) for message in page]
            async for page in self.output.read(1, JOB, attempts, from_cursor=from_cursor)
        ]


@pytest.mark.parametrize("page", [1, 3, 200])
async def test_many_attempts_are_read_a_few_at_a_time_and_merged_by_cursor(
    page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_output, "_PAGE", page)
    world = World()
    wanted = []
    for round_ in range(6):
        for attempt in (1, 2, 3, 4, 5, 6, 7):
            if (attempt + round_) % 3:  # late writers of old attempts come in between
                wanted.append((await world.write(attempt, "stream" if round_ % 2 else "log", "x"), attempt))
    pages = await world.pages(range(1, 9))
    assert [message for found in pages for message in found] == wanted
    assert max(map(len, pages)) <= page
    assert world.stored.most_attempts <= 2
    half = wanted[len(wanted) // 2]
    assert [m for found in await world.pages(range(1, 9), from_cursor=half[0]) for m in found] == wanted[
        len(wanted) // 2 :
    ]


async def test_a_page_ends_at_its_bytes_and_always_holds_a_message() -> None:
    world = World()
    for _ in range(20):
        await world.write(1, "stream", "x" * (MAX_MESSAGE_BYTES - 1_000))
    pages = await world.pages([1])
    assert sum(map(len, pages)) == 20
    assert max(map(len, pages)) <= 8


async def test_readers_at_once_are_bounded() -> None:
    world = World()
    await world.write(1, "stream", "x")
    await asyncio.gather(*(world.pages([1]) for _ in range(50)))
    assert world.stored.most_readers <= 8


@pytest.mark.parametrize(
    "raw", [{"i": 0}, [], ["x"], [{"chunk": "no number"}], [{"i": 5, "chunk": "x"}], [{"i": True}], [{"i": "0"}], None]
)
async def test_a_message_that_is_not_numbered_as_it_says_is_left_out(raw: object) -> None:
    world = World()
    if raw is not None:
        await world.write(1, "stream", "x", raw=raw)
        world.counts[1] = 0
    good = await world.write(1, "stream", "good")
    assert [message for found in await world.pages([1]) for message in found] == [(good, 1)]
