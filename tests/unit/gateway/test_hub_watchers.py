"""One watcher's failure is its own (G11): the hub, the observers and the others go on, and what cannot be told is no reason to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from aura.clock import ManualClock
from aura.gateway.limits import Limits
from aura.gateway.live.dialects import studio
from aura.gateway.live.dialects.job import START, PlainJob
from aura.gateway.live.dialects.orchestrator import Orchestrator
from aura.gateway.live.fanout.frames import Frame
from aura.gateway.live.fanout.hub import Hub
from aura.gateway.metrics import Metrics
from aura.log.store import Append, LogIdentity, Recorded
from tests.properties.test_feed import Client
from tests.support.gateway import World, receive, receive_until, running


def recorded(seq: int) -> Recorded:
    return Recorded(seq, "aura.job.1.a.created", 0, b'{"n":%d}' % seq)


async def begun() -> Hub:
    hub = Hub(ManualClock(), Limits(), Metrics())
    hub.begin(LogIdentity("e", 1, 0), 1)
    return hub


async def test_a_watcher_that_raises_ends_alone() -> None:
    hub, client = await begun(), Client()
    calls: list[str] = []
    failures: list[Exception] = []

    def bad(frame: Frame) -> None:
        calls.append("bad")
        raise TypeError("unhashable")

    hub.watch(("aura.job.>",), bad, failures.append)
    hub.watch(("aura.>",), bad)
    hub.watch(("aura.job.>",), lambda _frame: calls.append("good"))
    hub.join(("aura.job.>",), client)
    hub.on_batch([recorded(1), recorded(2)])
    hub.flush()
    assert sorted(calls) == ["bad", "bad", "good", "good"]
    assert [type(failure) for failure in failures] == [TypeError]
    assert client.taken == [1, 2]
    assert hub.failure is None


async def test_leaving_twice_does_not_take_away_the_group_of_those_that_came_since() -> None:
    hub, first, second = await begun(), Client(), Client()
    group = hub.join(("aura.job.>",), first)
    hub.leave(group, first)
    newer = hub.join(("aura.job.>",), second)
    hub.leave(group, first)
    assert hub.join(("aura.job.>",), first) is newer
    hub.leave(newer, first)
    hub.leave(newer, second)
    assert not hub.listens("aura.job.1.a.created"), "nothing is left behind"


# ---------------------------------------------------------------- a whole gateway


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


async def raw(world: World, subject: str, body: dict[str, Any]) -> int:
    """An event that no decider would have made."""
    event_id = world.ctx.ids.uuid7()
    guard = None if subject.startswith("aura.system.") else ".".join([*subject.split(".")[:4], ">"])
    last = await world.store.last(guard) if guard else None
    text = orjson.dumps({"id": event_id} | body)
    return await world.store.append(Append(subject, guard, last.seq if last else 0, event_id, text))


STRANGE = {"type": "job.assigned", "state": {"status": ["x"]}}


async def test_observers_are_independent_of_each_other_and_of_the_hub(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: asyncio.Queue[int] = asyncio.Queue()

    def bad(_batch: list[Recorded]) -> None:
        raise TypeError("unhashable")

    world.service._observers = (bad, lambda batch: seen.put_nowait(batch[-1].seq))
    async with asyncio.timeout(10):
        assert await raw(world, "aura.system.x", {}) == await seen.get()
        assert world.hub.failure is None
        monkeypatch.setattr(world.hub, "on_batch", bad)
        assert await raw(world, "aura.system.x", {}) == await seen.get()
    assert world.hub.failure is not None, "live feeds end, and say so"


async def test_an_event_that_nobody_foresaw_ends_no_feed(world: World) -> None:
    [job_id] = await world.submit()
    await raw(world, "aura.session.1.s.started", {"type": "session.started", "workflow": "w", "job_id": job_id})
    async with (
        world.ws("/ws/events") as events,
        world.ws("/ws/orchestrator/s") as told,
        world.ws("/ws") as watched,
        world.ws("/ws/orchestrator/t") as waiting,
    ):
        async with asyncio.timeout(10):
            while (
                sum(len(group.members) for group in world.hub._groups.values()) < 2
                or len(world.hub._trie.match(f"aura.job.1.{job_id}.x")) < 3
            ):
                await asyncio.sleep(0)
        for subject in (f"aura.job.1.{job_id}.assigned", "aura.job.x.y.z", "aura.session.x.t.started"):
            await raw(world, subject, STRANGE)
        await raw(world, f"aura.job.1.{job_id}.y", {"type": ["job.created"], "state": {}})
        await raw(world, f"aura.session.1.s.x", {"type": "session.agent_started", "agent": "a"})  # noqa: F541
        await raw(world, "aura.session.1.t.started", {"type": "session.started", "workflow": "w", "job_id": job_id})
        await raw(world, "aura.session.1.t.x", {"type": "session.agent_started", "agent": "b"})
        end = await raw(world, f"aura.job.1.{job_id}.failed", {"type": "job.failed", "state": {"status": "FAILED"}})
        assert [one["seq"] for one in await receive_until(events, lambda one: one["seq"] == end)] == list(
            range(3, end + 1)
        )
        assert (await receive(told))["agent"] == "a"
        assert (await receive(waiting))["agent"] == "b"
        studio_heard = await receive_until(watched, lambda one: one["payload"].get("status") == "FAILED")
        assert "reset" in [one["type"] for one in studio_heard], "what could not be told is no silence"
    assert world.hub.failure is None


async def test_a_feed_that_cannot_go_on_is_closed_and_the_others_are_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = await world.submit()
    tell = PlainJob.tell

    def bad(self: PlainJob, frame: Any, *more: Any) -> bytes:
        if frame.seq == 2:
            raise TypeError("unhashable")
        return tell(self, frame, *more)

    async with world.ws("/ws/events?since=0") as events, world.ws(f"/ws/job/{job_id}") as job:
        await receive(job)
        monkeypatch.setattr(PlainJob, "tell", bad)
        for _ in range(2):
            await raw(world, f"aura.job.1.{job_id}.x", {"type": "job.x"})
        with pytest.raises(ConnectionClosed):
            await receive(job)
        assert job.close_code == 1011
        await receive_until(events, lambda one: one["seq"] == 3)


# ---------------------------------------------------------------- translators

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_TYPES = st.sampled_from(
    ["session.started", "session.agent_started", "session.agent_completed", "session.agent_failed", "session.completed",
     "session.failed", "session.cancelled", "job.created", "job.stage_changed", "job.completed"]
)  # fmt: skip
_STATES = _JSON | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("status", "role", "model", "worker", "attempt"), _JSON)
)
_FIELDS = ("workflow", "agent", "message", "error_code", "duration_ms", "stages", "subject", "title", "ts", "attempt")
_EVENTS = st.fixed_dictionaries(
    {}, optional={"type": _TYPES | _JSON, "state": _STATES, **dict.fromkeys(_FIELDS, _JSON)}
)


@given(st.lists(_EVENTS, max_size=6))
def test_translators_take_any_json(events: list[dict[str, Any]]) -> None:
    teller = Orchestrator("s", "ws")
    for seq, flat in enumerate(events, 1):
        frame = Frame(Recorded(seq, "aura.job.1.a.x", 0, orjson.dumps(flat)))
        assert teller.over in (True, False)
        teller.tell(frame, flat, START.past(frame))
        assert studio.needs_subject(flat) in (True, False)
        orjson.dumps(studio.of_event(flat, None) + studio.of_event(flat, "sub"))
    if teller.over:
        assert teller.complete(None, START)
