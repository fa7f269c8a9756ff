"""One window of a read: given up after silence, not after a time; what came of it is kept, unless a loss may have torn a hole."""

from __future__ import annotations

import asyncio

import pytest

from aura.clock import ManualClock
from aura.ids import SystemIds
from aura.log import reader, wire
from aura.log.connection import Connection
from aura.log.inbox import Inbox
from aura.log.reader import StreamReader
from aura.log.store import Recorded


def message(seq: int) -> tuple[bytes, bytes]:
    head = (
        f"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: s.{seq}\r\nNats-Sequence: {seq}\r\n"
        "Nats-Time-Stamp: 2026-01-01T00:00:00Z\r\n\r\n"
    )
    return head.encode(), b"{}"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def inbox(clock: ManualClock) -> Inbox:
    return Inbox(Connection(), clock, SystemIds())


async def test_a_slow_answer_is_waited_for_as_long_as_it_comes(clock: ManualClock, inbox: Inbox) -> None:
    window: reader._Window[Recorded] = reader._Window(inbox, wire.recorded)
    for seq in range(1, 11):
        clock.advance(0.9 * (window.deadline - clock.monotonic_s()))
        assert not window.on_reply(*message(seq))
        clock.advance(window.deadline - clock.monotonic_s())
        later = window.on_overdue()
        assert later is not None
        window.deadline = later
    clock.advance(window.deadline - clock.monotonic_s())
    assert window.on_overdue() is None
    assert isinstance(window.done.exception(), reader._Lost)


async def test_what_came_before_the_silence_is_kept(inbox: Inbox) -> None:
    stream = StreamReader(inbox, "S", wire.recorded, gapless=True)
    window: reader._Window[Recorded] = reader._Window(inbox, wire.recorded)
    for seq in (1, 2):
        window.on_reply(*message(seq))
    window.on_reconnect()
    found, pending = await stream._collect((window, inbox._prefix + "1"))
    assert ([one.seq for one in found], pending) == ([1, 2], 1)


async def test_the_rest_of_an_answer_after_a_loss_is_not_believed(inbox: Inbox) -> None:
    window: reader._Window[Recorded] = reader._Window(inbox, wire.recorded)
    window.on_reply(*message(1))
    inbox._on_lost()
    assert window.on_reply(*message(7))
    assert [one.seq for one in window.found] == [1]
    with pytest.raises(reader._Lost):
        await asyncio.wait_for(window.done, 5)
