"""``aura.v1`` over real sockets: every subscription gets its events once and in order (G11), within bounds (G12), and nothing a client
says closes its socket but abuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from aura.clock import rfc3339
from aura.gateway.limits import Limits
from aura.log.store import Append
from tests.support.gateway import World, running

SMALL = replace(Limits(), ring_frames=64, page_events=50, page_bytes=2_000, pages=2)
NATIVE = [Subprotocol("aura.v1")]


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with running(limits=SMALL) as made:
        yield made


async def fill(world: World, count: int) -> None:
    """System events straight into the log."""
    for _ in range(count):
        event_id = world.ctx.ids.uuid7()
        body = orjson.dumps({"id": event_id, "type": "system.alert_raised", "v": 1, "code": "x"})
        await world.store.append(Append("aura.system.alert_raised", None, 0, event_id, body))


class Native:
    """A client that takes arrays apart and looks at what it gets."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._waiting: list[dict[str, Any]] = []
        self.arrays = 0

    async def say(self, **op: Any) -> None:
        await self.socket.send(orjson.dumps({name.rstrip("_"): value for name, value in op.items()}).decode())

    async def next(self) -> dict[str, Any]:
        while not self._waiting:
            async with asyncio.timeout(10):
                got = orjson.loads(await self.socket.recv())
            self.arrays += isinstance(got, list)
            self._waiting = got if isinstance(got, list) else [got]
        return self._waiting.pop(0)

    async def until(self, **wanted: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while not found or any(found[-1].get(name) != value for name, value in wanted.items()):
            found.append(await self.next())
        return found

    async def subscribe(self, id: str, subject: str, from_: Any = "now") -> list[dict[str, Any]]:
        """Until the subscription is live."""
        await self.say(op="subscribe", id=id, subject=subject, from_=from_)
        return await self.until(op="live", id=id)


@asynccontextmanager
async def native(world: World) -> AsyncIterator[Native]:
    async with world.ws("/ws", subprotocols=NATIVE) as socket:
        assert socket.subprotocol == "aura.v1"
        client = Native(socket)
        welcome = await client.next()
        assert welcome == {"op": "welcome", "epoch": "memory", "seq": world.hub.head}
        yield client


def seqs(frames: Iterable[dict[str, Any]]) -> list[int]:
    return [frame["seq"] for frame in frames if "op" not in frame]


async def test_a_subscription_is_welcomed_confirmed_live_and_gets_shared_frames(world: World) -> None:
    async with native(world) as client:
        assert await client.subscribe("s1", "aura.job.1.>") == [
            {"op": "subscribed", "id": "s1", "seq": 0, "recovered": True},
            {"op": "live", "id": "s1", "seq": 0},
        ]
        [job_id] = await world.submit()
        frame = await client.next()
        assert (frame["seq"], frame["subject"]) == (1, f"aura.job.1.{job_id}.created")
        assert set(frame) == {"seq", "subject", "event"}
        assert (frame["event"]["type"], frame["event"]["job_id"]) == ("job.created", job_id)
        await client.say(op="ping")
        assert await client.next() == {"op": "pong"}


@pytest.mark.parametrize("start", [0, 1, 2, 121, 171, 200, 201])
async def test_history_joins_live_without_gap_or_duplicate_G11(world: World, start: int) -> None:
    await fill(world, 200)
    await world.hub.caught_up(200)
    async with native(world) as client:
        await client.say(op="subscribe", id="s", subject="aura.>", from_={"seq": start})
        await fill(world, 30)
        got = await client.until(seq=230)
    assert seqs(got) == list(range(max(start, 1), 231))


async def test_overlapping_subscriptions_deliver_an_event_once_in_order_G11(world: World) -> None:
    async with native(world) as client:
        for id, subject in (("a", "aura.>"), ("b", "aura.system.>"), ("c", "aura.*.alert_raised")):
            await client.subscribe(id, subject)
        await fill(world, 50)
        assert seqs(await client.until(seq=50)) == list(range(1, 51))
        await client.say(op="unsubscribe", id="a")
        await client.until(op="unsubscribed", id="a")
        await fill(world, 5)
        assert seqs(await client.until(seq=55)) == list(range(51, 56))
        await world.submit()
        await fill(world, 1)
        assert seqs(await client.until(seq=57)) == [57], "nobody asked for jobs any more"


async def test_subscriptions_that_resume_together_are_one_walk_G11(world: World) -> None:
    await fill(world, 300)
    await world.hub.caught_up(300)
    async with native(world) as client:
        ops = [
            {"op": "subscribe", "id": str(n), "subject": "aura.system.>", "from": {"seq": 1 + n * 40}} for n in range(8)
        ]
        await client.socket.send(orjson.dumps(ops).decode())
        got = await client.until(op="live", id="7")
    assert seqs(got) == list(range(1, 301))


async def test_a_later_subscription_gets_its_whole_history_and_the_first_one_no_hole_G11(world: World) -> None:
    await fill(world, 10)
    await world.hub.caught_up(10)
    async with native(world) as client:
        assert seqs(await client.subscribe("a", "aura.system.>", {"seq": 1})) == list(range(1, 11))
        assert seqs(await client.subscribe("b", "aura.system.>", {"seq": 6})) == list(range(6, 11))
        await fill(world, 5)
        assert seqs(await client.until(seq=15)) == list(range(11, 16))


async def test_last_n_and_a_time(world: World) -> None:
    await fill(world, 150)
    await world.hub.caught_up(150)
    async with native(world) as client:
        assert seqs(await client.subscribe("n", "aura.>", {"last": 3})) == [148, 149, 150]
        stored = {recorded.seq: recorded.stored_at_ns async for batch in world.store.read() for recorded in batch}
        at = datetime.fromtimestamp(stored[70] // 1_000_000_000, UTC) + timedelta(
            microseconds=stored[70] % 1_000_000_000 // 1_000
        )
        got = seqs(await client.subscribe("t", "aura.>", {"time": rfc3339(at)}))
        assert got == [seq for seq, at_ns in stored.items() if at_ns > stored[70] // 1_000 * 1_000]
        assert 1 <= len(got) < 150
        assert seqs(await client.subscribe("future", "aura.>", {"time": "2999-01-01T00:00:00Z"})) == []
        assert len(seqs(await client.subscribe("ever", "aura.>", {"time": "1999-01-01T00:00:00Z"}))) == 150


async def test_cursors_that_cannot_be_honoured_are_reset_never_skipped_G11(world: World) -> None:
    await fill(world, 5)
    await world.hub.caught_up(5)
    async with native(world) as client:
        for id, origin in (("f", {"seq": 7}), ("m", {"seq": 2**63 - 1}), ("e", {"seq": 2, "epoch": "another"})):
            got = await client.subscribe(id, "aura.>", origin)
            assert got[0] == {"op": "subscribed", "id": id, "seq": 5, "recovered": False}
            assert (got[1]["op"], got[1]["id"], got[1]["epoch"], got[1]["seq"]) == ("reset", id, "memory", 5)
        await fill(world, 1)
        assert (await client.next())["seq"] == 6


BAD = [
    "", "nonsense", "[]", "7", "null", '"x"', "[" * 10_000, '{"op":' * 5_000,
    '{"op":"ping","op":"ping"}', '{"op":"ping","x":NaN}', '{"op":"ping","x":1e999}', '{"op":"ping","x":-Infinity}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{"seq":1' + "0" * 400 + "}}",
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{"seq":-1}}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{"seq":9223372036854775808}}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{"seq":1.5}}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{"seq":true}}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{"seq":"1"}}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{}}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{"seq":1,"last":1}}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{"last":100001}}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":{"time":"yesterday"}}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":"then"}',
    '{"op":"subscribe","id":"x","subject":"aura.>","speed":1}',
    '{"op":"subscribe","id":"","subject":"aura.>"}',
    '{"op":"subscribe","id":"a\\u0000b","subject":"aura.>"}', '{"op":"subscribe","id":"a\\n","subject":"aura.>"}',
    '{"op":"subscribe","id":"a\\u202eb","subject":"aura.>"}', '{"op":"subscribe","id":"' + "x" * 129 + '","subject":"aura.>"}',
    '{"op":"subscribe","id":"x","subject":"aura.>","from":true}', '{"op":"subscribe","id":"x","subject":"aura.>","from":-1}',
    '{"op":"subscribe","id":"\\ud800","subject":"aura.>"}',
    '{"op":"subscribe","id":7,"subject":"aura.>"}',
    '{"op":"subscribe","subject":"aura.>"}', '{"op":"subscribe","id":"x"}',
    '{"op":"unsubscribe","id":"never"}', '{"op":"purge"}', '{"op":null}', '{"op":["ping"]}', '{"id":"x"}',
    '{"op":"auth","ticket":"x"}',
    '{"op":"replay","id":"x","subject":"aura.>","from":{"seq":1},"speed":0}',
    '{"op":"replay","id":"x","subject":"aura.>","from":{"seq":1},"speed":-1}',
    '{"op":"replay","id":"x","subject":"aura.>","from":{"seq":1},"speed":1e300}',
    '{"op":"replay","id":"x","subject":"aura.>","from":"now"}',
    '{"op":"replay","id":"x","subject":"health.aura.>","from":{"seq":1}}',
    '{"op":"subscribe","id":"x","subject":"health.aura.m.w","from":{"seq":1}}',
]  # fmt: skip
SUBJECTS = [
    ">", "*", "aura", "aura.*", "aura..x", "aura.>.x", "aura.job.*.a b.>", "$JS.API.STREAM.PURGE.AURA_LOG", "append.aura.job.>",
    "content.aura.>", "cmd.aura.>", "lease.aura.>", "_INBOX.>", "aura.output.>", "aura.output.1.>", "aura.output.*.*.*.log",
    "aura.output.1.0199c0de-0000-7000-8000-000000000000.>", "aura.output.99999999999.0199c0de-0000-7000-8000-000000000000.>",
    "aura.output.1.x.>", "aura.secret.>", "health.>", "health.aura", "health.other.>", "health.aura.m.w.x", "aura." + "a" * 500,
    "aura.job." + "*." * 20 + ">", "aura.job.\u202e.>", "aura.job.\r\n.>", "studio.>",
]  # fmt: skip


async def test_what_is_wrong_is_an_error_and_nothing_else(world: World) -> None:
    async with running(limits=replace(SMALL, inbound_burst=1_000)) as world, native(world) as client:
        texts = BAD + [orjson.dumps({"op": "subscribe", "id": "x", "subject": one}).decode() for one in SUBJECTS]
        for text in texts:
            await client.socket.send(text)
            answer = await client.next()
            assert answer["op"] == "error", (text[:100], answer)
            assert set(answer) == {"op", "id", "code", "detail"}
            assert len(orjson.dumps(answer)) < 400, "nothing long is echoed"
        await client.socket.send(b"\x00\x01")
        assert (await client.next())["op"] == "error"
        await client.say(op="ping")
        assert await client.next() == {"op": "pong"}, "and the connection lives"


async def test_the_129th_subscription_is_an_error_G12(world: World) -> None:
    async with native(world) as client:
        ops = [{"op": "subscribe", "id": str(n), "subject": f"aura.model.m{n}.>"} for n in range(128)]
        await client.socket.send(orjson.dumps(ops).decode())
        await client.until(op="live", id="127")
        await client.say(op="subscribe", id="more", subject="aura.>")
        answer = await client.next()
        assert (answer["op"], answer["id"], answer["code"]) == ("error", "more", "overloaded")
        await client.say(op="unsubscribe", id="0")
        await client.until(op="unsubscribed", id="0")
        await client.subscribe("more", "aura.>")
        await client.say(op="subscribe", id="more", subject="aura.>")
        assert (await client.next())["op"] == "error", "the id is taken or there are too many"


async def test_too_many_messages_are_1008_and_too_large_ones_1009(world: World) -> None:
    async with native(world) as client:
        await _flood(client.socket)
        with pytest.raises(ConnectionClosed) as closed:
            await client.until(op="never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
    async with native(world) as client:
        await client.socket.send("x" * 65_537)
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def _flood(socket: ClientConnection) -> None:
    try:
        for _ in range(10_000):
            await socket.send('{"op":"ping"}')
    except ConnectionClosed:
        pass


async def test_heartbeats_of_a_worker(world: World) -> None:
    async with native(world) as client:
        await client.subscribe("h", "health.aura.m.*")
        world.health.push("other", "w", {"slots": 1})
        world.health.push("m", "w", {"slots": 2})
        frame = await client.next()
        assert (frame["subject"], frame["event"]["type"], frame["event"]["slots"]) == (
            "health.aura.m.w",
            "model.heartbeat",
            2,
        )
        assert "seq" not in frame


async def claimed(world: World) -> str:
    [job_id] = await world.submit()
    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w1"})
    return job_id


async def test_output_of_a_job_from_the_start_from_a_cursor_and_from_now(world: World) -> None:
    job_id = await claimed(world)
    for number in range(4):
        await world.post(f"/jobs/{job_id}/stream", {"chunk": f"c{number}"})
    subject = f"aura.output.1.{job_id}.>"
    async with native(world) as client:
        got = [one for one in await client.subscribe("all", subject, {"seq": 0}) if "op" not in one]
        assert [one["event"]["i"] for one in got] == [0, 1, 2, 3]
        assert got[0]["subject"] == f"aura.output.1.{job_id}.1.stream"
        assert "seq" not in got[0]
        last = await client.subscribe("last", subject, {"last": 1})
        assert [one["event"]["i"] for one in last if "op" not in one] == [3]
        cursor = await client.subscribe("cursor", subject, {"seq": got[2]["event"]["cursor"]})
        assert [one["event"]["i"] for one in cursor if "op" not in one] == [2, 3]
        beyond = await client.subscribe("beyond", subject, {"seq": 1_000})
        assert [one["op"] for one in beyond if "op" in one] == ["subscribed", "reset", "live"]
        for id in ("all", "last", "cursor", "beyond"):
            await client.say(op="unsubscribe", id=id)
            await client.until(op="unsubscribed", id=id)
        assert [one.get("op") for one in await client.subscribe("now", subject)] == ["subscribed", "live"]
        await world.post(f"/jobs/{job_id}/log", {"line": "hello"})
        frame = await client.next()
        assert (frame["subject"].rpartition(".")[2], frame["event"]["line"]) == ("log", "hello")


async def test_a_replay_plays_a_window_named_and_in_order(world: World) -> None:
    await fill(world, 120)
    await world.submit()
    await world.hub.caught_up(121)
    async with native(world) as client:
        await client.say(
            op="replay", id="r", subject="aura.system.>", from_={"seq": 11}, to={"seq": 110}, speed=100_000
        )
        got = await client.until(op="replayed", id="r")
        assert got[0] == {"op": "subscribed", "id": "r", "seq": 10, "recovered": True}
        assert [one["seq"] for one in got[1:-1]] == list(range(11, 111))
        assert {one["id"] for one in got[1:-1]} == {"r"}
        await client.say(op="replay", id="r", subject="aura.job.>", from_={"last": 1}, speed=1)
        assert [one.get("op") for one in await client.until(op="replayed", id="r")] == ["subscribed", None, "replayed"]
        await client.say(
            op="replay", id="aura.system.> (again)", subject="aura.system.>", from_=11, to=20, speed=100_000
        )
        assert len(await client.until(op="replayed", id="aura.system.> (again)")) == 12, (
            "bare sequences, a name of one's own"
        )
        await client.say(op="replay", id="f", subject="aura.>", from_={"seq": 500})
        assert [one["op"] for one in await client.until(op="replayed")] == ["subscribed", "reset", "replayed"]


async def test_an_unknown_subprotocol_is_refused_and_ours_is_chosen_among_others(world: World) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await world.ws("/ws", subprotocols=[Subprotocol("graphql-ws")]).__aenter__()
    assert refused.value.response.status_code == 422
    async with world.ws("/ws", subprotocols=[Subprotocol("x"), Subprotocol("aura.v1")]) as socket:
        assert socket.subprotocol == "aura.v1"


async def test_a_closed_connection_leaves_nothing_behind(world: World) -> None:
    job_id = await claimed(world)
    async with native(world) as client:
        await client.subscribe("a", "aura.>")
        await client.subscribe("o", f"aura.output.1.{job_id}.>")
        await client.say(op="replay", id="r", subject="aura.>", from_={"seq": 1}, speed=0.0001)
        await client.until(op="subscribed", id="r")
    async with asyncio.timeout(5):
        while world.hub.connections or world.live.followers or world.hub._groups or not world.hub._trie._root.empty:
            await asyncio.sleep(0.01)


async def test_a_burst_travels_as_arrays(world: World) -> None:
    async with native(world) as client:
        await client.subscribe("a", "aura.>")
        world.hub.flush()
        await world.submit(count=50)
        got = await client.until(seq=50)
        assert seqs(got) == list(range(1, 51))
        assert client.arrays > 0
