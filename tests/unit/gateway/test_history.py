"""History as it is written: joined once for all that ask for the same, and bounded."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.events.subjects import EVERYTHING
from aura.gateway.live import history
from aura.gateway.live.fanout.frames import Frame
from aura.gateway.live.fanout.outlet import Wire
from aura.gateway.live.history import EVEN, History, even
from aura.gateway.live.pieces import cut
from aura.log.store import Recorded


def frames(first: int, last: int, size: int = 10) -> list[Frame]:
    return [
        Frame(Recorded(seq, f"aura.job.{seq % 2 + 1}.a.created", 0, b'{"id":"%d","pad":"%b"}' % (seq, b"x" * size)))
        for seq in range(first, last + 1)
    ]


async def test_the_same_run_is_the_same_bytes_and_another_is_not() -> None:
    shared, run = History(1_000), frames(1, 100)
    one = list(shared.run(run, EVERYTHING, "ws"))
    assert [piece.data for piece in shared.run(frames(1, 100), EVERYTHING, "ws")] == [piece.data for piece in one]
    assert all(again is piece for again, piece in zip(shared.run(run, EVERYTHING, "ws"), one, strict=True))
    assert b"".join(piece.data for piece in one) == b"".join(frame.ws for frame in run)
    assert [piece.last for piece in one][-1] == 100
    for other in (
        shared.run(frames(1, 99), EVERYTHING, "ws"),
        shared.run(run, ("aura.job.1.>",), "ws"),
        shared.run(run, EVERYTHING, "sse"),
        shared.run(run, EVERYTHING, "native"),
    ):
        assert [piece.data for piece in other] != [piece.data for piece in one]
    assert sum(piece.events for piece in shared.run(run, ("aura.job.1.>",), "ws")) == 50
    assert shared.run(run, ("aura.job.3.>",), "ws") == []


async def test_what_is_kept_is_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT_BYTES", 10_000)
    monkeypatch.setattr(history, "KEPT_S", 0.0)
    shared = History(100_000)
    for first in range(1, 2_000, 100):
        shared.run(frames(first, first + 9, 200), EVERYTHING, "ws")
        assert shared._bytes <= 10_000
    shared.run(frames(1, 100, 1_000), EVERYTHING, "ws")
    assert not shared._kept, "nor one that is larger than all that is kept"
    monkeypatch.setattr(history, "MOST_BYTES", 1_000)
    large = shared.run(frames(1, 10, 200), EVERYTHING, "ws")
    assert sum(piece.events for piece in large) == 10
    assert not shared._kept, "made piece by piece"
    monkeypatch.setattr(history, "MOST_BYTES", 10_000)
    shared.run(frames(1, 10), EVERYTHING, "ws")
    while shared._timer is not None:
        await asyncio.sleep(0)
    assert (shared._bytes, len(shared._kept)) == (0, 0)


@given(after=st.integers(0, 1_000), count=st.integers(1, 1_000))
def test_a_run_ends_where_others_end_and_always_goes_on(after: int, count: int) -> None:
    run = list(range(after + 1, after + count + 1))
    found = list(even(after, run))  # type: ignore[arg-type]
    assert found
    assert found == run[: len(found)]
    assert len(found) == count or (len(found) >= EVEN and found[-1] % EVEN == 0)  # type: ignore[operator]


@pytest.mark.parametrize("wire", ["ws", "sse", "native"])
def test_pieces_are_within_the_step_and_lose_nothing(wire: Wire) -> None:
    run = frames(1, 50)
    found = list(cut(run, wire, 300))
    assert sum(piece.events for piece in found) == 50
    assert [piece.last for piece in found] == sorted({piece.last for piece in found})
    assert all(sum(len(frame.ws) for frame in run[piece.last - piece.events : piece.last]) <= 300 for piece in found)
