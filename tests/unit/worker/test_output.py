"""An attempt's output on its way: at once when nothing is in flight, else together; in order, once, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aura.clock import ManualClock
from aura.errors import Fenced, TooLarge, Unavailable, WrongExpectedSequence
from aura.events.subjects import OutputKind
from aura.worker.context import MAX_CHUNK
from aura.worker.output import MAX_PENDING, CollectedOutput


class Writer:
    """Stands in for :class:`OutputWriter`: each write is stored, or fails, when the test says so."""

    def __init__(self) -> None:
        self.count = 0
        self.stored: list[tuple[OutputKind, Any]] = []
        self.writes: list[tuple[OutputKind, list[dict[str, Any]], asyncio.Future[None]]] = []
        self.lost: list[tuple[OutputKind, list[dict[str, Any]]]] = []
        """Stored, and the acknowledgement did not come."""
        self.resumed = 0

    async def write(self, kind: OutputKind, records: list[dict[str, Any]]) -> int:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writes.append((kind, records, answer))
        await answer
        self.store(kind, records)
        return self.count

    def store(self, kind: OutputKind, records: list[dict[str, Any]]) -> None:
        self.stored += [(kind, record.get("chunk") or record.get("line")) for record in records]
        self.count += len(records)

    async def resume(self) -> None:
        self.resumed += 1
        for kind, records in self.lost:
            self.store(kind, records)

    async def answer(self, error: Exception | None = None) -> None:
        """Answer the write that is in flight."""
        await settle()
        future = self.writes[-1][2]
        assert not future.done()
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        await settle()


class NoPause:
    async def wait(self) -> None:
        """At once."""


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def made() -> tuple[CollectedOutput, Writer]:
    writer = Writer()
    return CollectedOutput(writer, ManualClock(), NoPause, pace_s=0), writer  # type: ignore[arg-type]


def chunk(text: str, *, final: bool = False) -> dict[str, Any]:
    return {"chunk": text, "final": final}


async def test_a_lone_chunk_is_on_its_way_at_once() -> None:
    output, writer = made()
    await output.write("stream", chunk("a"))
    await settle()
    assert [records[0]["chunk"] for _, records, _ in writer.writes] == ["a"]
    await writer.answer()
    await output.flush()
    assert writer.stored == [("stream", "a")]


async def test_what_comes_while_one_is_in_flight_is_the_next_one() -> None:
    output, writer = made()
    await output.write("stream", chunk("a"))
    await settle()
    for text in "bcd":
        await output.write("stream", chunk(text))
        await settle()
    assert len(writer.writes) == 1, "one write at a time"
    await writer.answer()
    assert [record["chunk"] for record in writer.writes[1][1]] == ["bcd"], "text becomes one record"
    await writer.answer()
    await output.flush()
    assert (writer.stored, output.count) == ([("stream", "a"), ("stream", "bcd")], 2)


async def test_text_joins_what_waits_and_nothing_else() -> None:
    output, writer = made()
    assert not output.join("a", False), "nothing waits"
    await output.write("stream", chunk("a"))
    assert output.join("b", False)
    await settle()
    assert not output.join("c", False), "it is on its way"
    await output.write("stream", chunk("c"))
    assert output.join("d", True)
    assert not output.join("e", False), "what is final stays so"
    await output.write("log", {"level": "info", "line": "f"})
    assert not output.join("g", False), "the order is that of the calls"
    await writer.answer()
    await writer.answer()
    await writer.answer()
    await output.flush()
    assert writer.stored == [("stream", "ab"), ("stream", "cd"), ("log", "f")]
    assert (writer.writes[1][1][0]["final"], output.count) == (True, 3)


async def test_text_joins_up_to_the_size_of_a_chunk() -> None:
    output, writer = made()
    await output.write("stream", chunk("x" * (MAX_CHUNK - 2)))
    assert not output.join("abc", False)
    assert output.join("ab", False)
    assert not output.join("c", False)
    assert output.join("", True)
    await writer.answer()
    assert [len(text) for _, text in writer.stored] == [MAX_CHUNK]


async def test_nothing_joins_what_was_discarded_or_cannot_be_stored() -> None:
    output, writer = made()
    await output.write("stream", chunk("a"))
    output.discard()
    assert not output.join("b", False)
    output, writer = made()
    await output.write("stream", chunk("a"))
    await settle()
    await output.write("stream", chunk("b"))
    await writer.answer(WrongExpectedSequence("guard", 0, 3))
    assert not output.join("c", False)
    with pytest.raises(Fenced):
        await output.write("stream", chunk("c"))


async def test_g12_text_that_joins_is_bounded_too() -> None:
    output, _ = made()
    await output.write("stream", chunk("a"))
    await settle()
    await output.write("stream", chunk("b"))
    joined = 0
    while output.join("", False):
        joined += 1
    assert joined <= MAX_PENDING // 64


async def test_kinds_keep_the_order_of_the_calls() -> None:
    output, writer = made()
    said: list[tuple[OutputKind, dict[str, Any]]] = [
        ("stream", chunk("a")), ("log", {"level": "info", "line": "b"}), ("log", {"level": "info", "line": "c"}), ("stream", chunk("d")),
    ]  # fmt: skip
    for kind, record in said:
        await output.write(kind, record)
    for _ in range(3):
        await writer.answer()
    await output.flush()
    assert writer.stored == [("stream", "a"), ("log", "b"), ("log", "c"), ("stream", "d")]
    assert len(writer.writes) == 3


@pytest.mark.parametrize("was_stored", [True, False])
async def test_g2_after_a_lost_acknowledgement_exactly_the_rest_is_written(was_stored: bool) -> None:
    output, writer = made()
    await output.write("log", {"level": "info", "line": "a"})
    await settle()
    if was_stored:
        writer.lost.append(writer.writes[0][:2])
    await writer.answer(Unavailable("no answer"))
    assert writer.resumed == 1
    if not was_stored:
        await writer.answer()
    await output.flush()
    assert writer.stored == [("log", "a")]


async def test_g12_more_than_may_be_pending_waits_for_the_log() -> None:
    output, writer = made()
    await output.write("stream", chunk("a"))
    await settle()
    half = "x" * (MAX_PENDING // 2)
    waiting = [asyncio.ensure_future(output.write("log", {"level": "info", "line": half})) for _ in range(3)]
    await settle()
    assert [one.done() for one in waiting] == [True, False, False]
    await writer.answer()
    assert all(one.done() for one in waiting)
    await writer.answer()
    await output.flush()
    assert writer.count == 4


async def _write(output: CollectedOutput) -> None:
    await output.write("stream", chunk("b"))


@pytest.mark.parametrize("call", [_write, CollectedOutput.flush])
@pytest.mark.parametrize(
    ("refused", "raised"), [(WrongExpectedSequence("guard", 0, 3), Fenced), (TooLarge("too large", limit=1), TooLarge)]
)
async def test_g3_what_cannot_be_stored_is_said(
    refused: Exception, raised: type[Exception], call: Callable[[CollectedOutput], Awaitable[None]]
) -> None:
    output, writer = made()
    await output.write("stream", chunk("a"))
    await writer.answer(refused)
    with pytest.raises(raised):
        await call(output)
    assert not writer.stored


async def test_after_a_discard_nothing_is_written() -> None:
    output, writer = made()
    await output.write("stream", chunk("a"))
    await settle()
    await output.write("stream", chunk("b"))
    output.discard()
    await output.write("stream", chunk("c"))
    await settle()
    assert len(writer.writes) == 1
    assert writer.writes[0][2].cancelled()


async def test_messages_of_one_attempt_keep_a_pace_but_the_first_and_the_last_do_not() -> None:
    writer, clock = Writer(), ManualClock()
    output = CollectedOutput(writer, clock, NoPause, pace_s=60)  # type: ignore[arg-type]
    await output.write("stream", chunk("a"))
    await settle()
    assert len(writer.writes) == 1, "the first chunk waits for nothing"
    await writer.answer()
    for text in "bc":
        await output.write("stream", chunk(text))
    await settle()
    assert len(writer.writes) == 1, "the next ones travel together"
    flushing = asyncio.create_task(output.flush())
    await settle()
    await writer.answer()
    await flushing
    assert [text for _, text in writer.stored] == ["a", "bc"]
    clock.advance(61)
    await output.write("stream", chunk("d"))
    await settle()
    assert len(writer.writes) == 3, "after a pause it is the first again"
    await writer.answer()
