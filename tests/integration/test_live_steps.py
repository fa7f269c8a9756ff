"""History costs little memory however large it is and whoever does not read it (G12), and 4408 says where the log is to be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from aura.gateway.limits import Limits
from tests.integration.test_live_bounds import NATIVE, _small, closed_with, fill, frames
from tests.support.gateway import World, running
from tests.support.loops import event_loop_policy  # noqa: F401 - all of these run on both event loops

#: What asyncio's transport holds before it says "enough", with a step on top and a word or two.
MOST_UNSENT = 64 * 1024 + Limits().page_bytes + 64 * 1024


async def spoken(world: World, records: int, size: int) -> str:
    """A claimed job with output."""
    [job_id] = await world.submit()
    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w1"})
    for number in range(records):
        await world.post(f"/jobs/{job_id}/stream", {"chunk": f"{number}:" + "x" * size})
    return job_id


async def subscribed(world: World, job_id: str, last: int) -> list[dict[str, Any]]:
    """What a subscription to the last records gets until it is live."""
    found: list[dict[str, Any]] = []
    async with world.ws("/ws", **NATIVE) as socket:
        op = {"op": "subscribe", "id": "o", "subject": f"aura.output.1.{job_id}.>", "from": {"last": last}}
        await socket.send(orjson.dumps(op).decode())
        async with asyncio.timeout(10):
            async for frame in frames(socket):
                found.append(frame)
                if frame.get("op") == "live":
                    break
    return found[1:]


@pytest.mark.parametrize(
    ("limits", "last", "kept", "recovered"),
    [
        (Limits(), 3, 3, True),
        (Limits(), 20, 8, True),
        (replace(Limits(), last_records=5), 5, 5, True),
        (replace(Limits(), last_records=5), 6, 5, False),
        (replace(Limits(), outbound_bytes=4_000), 100_000, 3, False),
        (replace(Limits(), outbound_bytes=100), 1, 1, True),
    ],
)
async def test_the_last_records_are_bounded_in_number_and_bytes_and_a_cut_is_said_G12(
    limits: Limits, last: int, kept: int, recovered: bool
) -> None:
    async with running(limits=limits) as world:
        job_id = await spoken(world, 8, 1_000)
        first, *rest = await subscribed(world, job_id, last)
    begins = 8 - kept  # the cursor before the first that is told: one record a message
    assert first == {"op": "subscribed", "id": "o", "seq": begins, "recovered": recovered}
    if not recovered:
        reset = rest.pop(0)
        assert (reset["op"], reset["id"], reset["seq"]) == ("reset", "o", begins)
    assert [one["event"]["i"] for one in rest[:-1]] == list(range(begins, 8))
    assert rest[-1] == {"op": "live", "id": "o", "seq": 8}


async def test_from_now_what_was_said_is_not_read() -> None:
    async with running() as world, world.ws("/ws", **NATIVE) as socket:
        job_id = await spoken(world, 3, 10)
        await socket.send('{"op":"subscribe","id":"o","subject":"aura.output.1.%s.>"}' % job_id)  # noqa: UP031
        got = frames(socket)
        async with asyncio.timeout(10):
            while (frame := await anext(got)).get("op") != "subscribed":
                pass
            assert (frame["seq"], frame["recovered"]) == (3, True)
            await world.post(f"/jobs/{job_id}/stream", {"chunk": "new"})
            said = [frame async for frame in _until_live_and(got, 1)]
        assert [(one["event"]["i"], one["event"]["chunk"]) for one in said] == [(3, "new")], (
            "nothing older, nothing lost"
        )


async def _until_live_and(got: AsyncIterator[dict[str, Any]], records: int) -> AsyncIterator[dict[str, Any]]:
    while records:
        frame = await anext(got)
        if "op" not in frame:
            records -= 1
            yield frame


class Watched:
    """The most that was ever unsent of the one client of a gateway."""

    def __init__(self, world: World) -> None:
        self.most = 0
        [outlet] = world.hub._outlets
        write: Any = outlet.write

        def watched(data: bytes) -> None:
            write(data)
            self.most = max(self.most, outlet.buffered())

        outlet.write = watched  # type: ignore[method-assign]


async def _not_reading(world: World, path: str, *ops: dict[str, Any]) -> tuple[int, int, str]:
    """A client that reads nothing until it is told to go: the most unsent, and how it was closed."""
    options: dict[str, Any] = {"subprotocols": [Subprotocol("aura.v1")]} if ops else {}
    async with world.ws(
        path, max_queue=1, max_size=None, ping_interval=None, sock=await _small(world), **options
    ) as socket:
        watched = Watched(world)
        for op in ops:
            await socket.send(orjson.dumps(op).decode())
        async with asyncio.timeout(20):
            [outlet] = world.hub._outlets
            while not outlet.closed:
                await asyncio.sleep(0.01)
            code, reason = await closed_with(socket)
    return watched.most, code, reason


def output_ops(job_id: str, from_: dict[str, int]) -> list[dict[str, Any]]:
    subject = f"aura.output.1.{job_id}.>"
    return [{"op": "subscribe", "id": f"o{n}", "subject": subject, "from": from_} for n in range(8)]


IMPATIENT = replace(Limits(), stall_s=0.3, ring_frames=50, page_events=200)


@pytest.mark.parametrize("from_", [{"seq": 0}, {"last": 100_000}])
async def test_output_that_is_not_read_costs_a_step_and_4408_names_the_place_in_the_log_G12(
    from_: dict[str, int],
) -> None:
    async with running(limits=IMPATIENT) as world:
        job_id = await spoken(world, 60, 30_000)
        head = await world.last_seq()
        ops = [{"op": "subscribe", "id": "log", "subject": "aura.>"}, *output_ops(job_id, from_)]
        most, code, reason = await _not_reading(world, "/ws", *ops)
    assert (code, reason) == (4408, f"since={head}")
    assert most <= MOST_UNSENT


async def test_a_replay_that_is_not_read_costs_a_step_and_4408_names_the_place_in_the_log_G12() -> None:
    async with running(limits=IMPATIENT) as world:
        await fill(world, 300, size=16_000)
        await world.hub.caught_up(300)
        replays = [
            {"op": "replay", "id": f"r{n}", "subject": "aura.system.>", "from": {"seq": 1}, "speed": 1e6}
            for n in range(4)
        ]
        most, code, reason = await _not_reading(
            world, "/ws", {"op": "subscribe", "id": "log", "subject": "aura.>"}, *replays
        )
    assert (code, reason) == (4408, "since=300")
    assert most <= MOST_UNSENT


@pytest.mark.parametrize("feed", ["events", "native", "job"])
async def test_history_is_written_a_step_at_a_time_G12(feed: str) -> None:
    async with running(limits=IMPATIENT) as world:
        if feed == "job":
            path = f"/ws/job/{await spoken(world, 300, 30_000)}"
        else:
            await fill(world, 300, size=16_000)
            await world.hub.caught_up(300)
            path = "/ws" if feed == "native" else "/ws/events?since=0"
        ops = [{"op": "subscribe", "id": "log", "subject": "aura.>", "from": {"seq": 1}}] if feed == "native" else []
        most, code, reason = await _not_reading(world, path, *ops)
    assert code == 4408
    if feed != "job":
        assert 0 < int(reason.removeprefix("since=")) < 200, "as far as it was written"
    assert most <= MOST_UNSENT


async def test_a_job_whose_reader_was_cut_is_resumed_where_it_was_cut_G11() -> None:
    async with running(limits=IMPATIENT) as world:
        job_id = await spoken(world, 300, 30_000)
        async with world.ws(f"/ws/job/{job_id}", max_queue=1, max_size=None, sock=await _small(world)) as socket:
            seen = []
            [outlet] = world.hub._outlets
            async with asyncio.timeout(20):
                while not outlet.closed:
                    await asyncio.sleep(0.01)
                with suppress(ConnectionClosed):
                    while True:
                        seen.append(orjson.loads(await socket.recv()))
            assert socket.close_code == 4408
            assert 0 < len(seen) < 300
        async with world.ws(f"/ws/job/{job_id}?{socket.close_reason}", max_size=None) as again:
            async with asyncio.timeout(20):
                while not any(one.get("i") == 299 for one in seen):
                    seen.append(orjson.loads(await again.recv()))
        assert [one["i"] for one in seen if one["type"] == "job.stream"] == list(range(300))


async def test_what_is_read_when_an_older_subscription_comes_is_not_taken_for_its_own_G11() -> None:
    async with (
        running(limits=replace(Limits(), ring_frames=50, page_events=100)) as world,
        world.ws("/ws", **NATIVE) as socket,
    ):
        await fill(world, 300)
        await world.hub.caught_up(300)
        reading, go_on = asyncio.Event(), asyncio.Event()
        read = world.store.read

        async def held(*args: Any, **options: Any) -> AsyncIterator[Any]:
            reading.set()
            await go_on.wait()
            async for batch in read(*args, **options):
                yield batch

        world.store.read = held  # type: ignore[method-assign]
        got, newest, live = frames(socket), {"a": 149, "b": 0}, set[str]()
        heard: dict[str, list[int]] = {"a": [], "b": []}
        async with asyncio.timeout(10):
            await socket.send('{"op":"subscribe","id":"a","subject":"aura.>","from":{"seq":150}}')
            await reading.wait()
            await socket.send('{"op":"subscribe","id":"b","subject":"aura.system.>","from":{"seq":1}}')
            while (frame := await anext(got)).get("id") != "b":
                pass
            go_on.set()
            while live != {"a", "b"}:
                frame = await anext(got)
                live |= {frame["id"]} if frame.get("op") == "live" else set()
                for id, seq in newest.items():
                    if frame.get("seq", 0) > seq and "op" not in frame:  # the rule of docs/reference/live.md
                        newest[id] = frame["seq"]
                        heard[id].append(frame["seq"])
    assert heard == {"a": list(range(150, 301)), "b": list(range(1, 301))}
