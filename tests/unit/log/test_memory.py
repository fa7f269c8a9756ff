"""The switch of the in-memory store: what a simulation can do to it, and what still holds."""

from __future__ import annotations

import uuid

import pytest

from aura.clock import ManualClock
from aura.errors import Unavailable
from aura.log.memory import MemoryEventStore, matches
from aura.log.store import Append


def event(n: int = 1) -> Append:
    return Append(f"aura.job.1.{n}.created", f"aura.job.1.{n}.>", 0, str(uuid.uuid4()), b"{}")


class Faults:
    def __init__(self, *points: str) -> None:
        self.points = list(points)

    async def __call__(self, point: str) -> None:
        if point in self.points:
            self.points.remove(point)
            raise Unavailable(point)


async def test_lost_before_storing_leaves_nothing() -> None:
    store = MemoryEventStore(ManualClock(), switch=Faults("append.before"))
    append = event()
    with pytest.raises(Unavailable):
        await store.append(append)
    assert (await store.identity()).last_seq == 0
    assert await store.append(append) == 1


async def test_g2_lost_acknowledgement_is_found_by_the_repeat() -> None:
    store = MemoryEventStore(ManualClock(), switch=Faults("append.after", "append.after"))
    append, batch = event(), [event(2), event(3)]
    with pytest.raises(Unavailable):
        await store.append(append)
    with pytest.raises(Unavailable):
        await store.append_batch(batch)
    assert await store.append(append) == 1
    assert await store.append_batch(batch) == [2, 3]
    assert (await store.identity()).last_seq == 3


async def test_reads_can_fail() -> None:
    store = MemoryEventStore(ManualClock(), switch=Faults("read", "deliver"))
    with pytest.raises(Unavailable):
        await store.last("aura.job.1.1.>")
    await store.append(event())
    with pytest.raises(Unavailable):
        await anext(store.follow(1))
    assert (await anext(store.follow(1)))[0].seq == 1


async def test_store_time_is_the_manual_clocks() -> None:
    clock = ManualClock()
    store = MemoryEventStore(clock)
    await store.append(event(1))
    clock.advance(1.5)
    await store.append(event(2))
    first, second = await store.get(1), await store.get(2)
    assert first is not None
    assert second is not None
    assert second.stored_at_ns - first.stored_at_ns == 1_500_000_000


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*.c", "a.b.c", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b.>", "a.b", False),
        ("a.b.c", "a.b", False),
    ],
)
def test_nats_wildcards(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern.split("."), subject) is expected
