"""Live feeds over real sockets: every event once and in order (G11), bounded (G12), whatever the client does."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from aura.gateway.limits import Limits
from aura.log.store import Append
from tests.support.gateway import World, receive, receive_until, running

SMALL = replace(Limits(), ring_frames=64, page_events=50, page_bytes=2_000)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with running(limits=SMALL) as made:
        yield made


async def fill(world: World, count: int, size: int = 20) -> None:
    """System events straight into the log."""
    for _ in range(count):
        event_id = world.ctx.ids.uuid7()
        body = orjson.dumps({"id": event_id, "type": "system.alert_raised", "v": 1, "code": "x" * size})
        await world.store.append(Append("aura.system.alert_raised", None, 0, event_id, body))


async def claimed(world: World) -> str:
    [job_id] = await world.submit()
    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w1"})
    return job_id


async def until_joined(world: World, clients: int = 1) -> None:
    """Wait until so many clients are live in the hub."""
    async with asyncio.timeout(5):
        while sum(len(group.members) for group in world.hub._groups.values()) < clients:
            await asyncio.sleep(0)


# ---------------------------------------------------------------- /ws/events


async def test_events_arrive_live_as_flat_json_with_seq_first(world: World) -> None:
    async with world.ws("/ws/events") as socket:
        await until_joined(world)
        [job_id] = await world.submit()
        raw = await socket.recv()
        assert str(raw).startswith('{"seq":1,"id":')
        event = orjson.loads(raw)
        assert (event["type"], event["job_id"], event["seq"]) == ("job.created", job_id, 1)
        assert socket.response is not None
        assert socket.response.headers["aura-epoch"] == "memory"


@pytest.mark.parametrize("since", [0, 1, 120, 170, 199, 200])
async def test_replay_from_log_and_ring_joins_live_without_gap_or_duplicate_G11(world: World, since: int) -> None:
    await fill(world, 200)
    async with world.ws(f"/ws/events?since={since}") as socket:
        await fill(world, 30)
        got = await receive_until(socket, lambda event: event["seq"] == 230)
    assert [event["seq"] for event in got] == list(range(since + 1, 231))


async def test_last_n_replays_n(world: World) -> None:
    await fill(world, 100)
    await world.hub.caught_up(100)
    async with world.ws("/ws/events?last=3") as socket:
        assert [(await receive(socket))["seq"] for _ in range(3)] == [98, 99, 100]


async def test_a_cursor_that_cannot_be_honoured_is_reset_never_skipped_G11(world: World) -> None:
    await fill(world, 5)
    await world.hub.caught_up(5)
    for query in ("since=1000", "since=2&epoch=another"):
        async with world.ws(f"/ws/events?{query}") as socket:
            reset = await receive(socket)
            assert (reset["type"], reset["epoch"], reset["seq"]) == ("reset", "memory", await world.last_seq())
            await fill(world, 1)
            assert (await receive(socket))["seq"] == reset["seq"] + 1


async def test_a_subject_filter_applies_to_replay_and_live(world: World) -> None:
    await world.submit()
    await fill(world, 5)
    async with world.ws("/ws/events?since=0&subject=aura.job.>") as socket:
        assert (await receive(socket))["seq"] == 1
        await fill(world, 5)
        [job_id] = await world.submit()
        assert (await receive(socket))["job_id"] == job_id


async def test_a_filtered_replay_reaches_behind_the_ring_and_joins_live(world: World) -> None:
    jobs = [(await world.submit())[0]]
    await fill(world, 150)
    jobs.append((await world.submit())[0])
    await fill(world, 150)
    async with world.ws("/ws/events?since=0&subject=aura.job.*.*.created") as socket:
        jobs.append((await world.submit())[0])
        assert [(await receive(socket))["job_id"] for _ in range(3)] == jobs


async def test_heartbeats_and_log_lines_come_live_without_seq(world: World) -> None:
    job_id = await claimed(world)
    async with world.ws("/ws/events") as socket:
        await until_joined(world)
        world.health.push("m", "w", {"type": "model.heartbeat", "model": "m", "worker_id": "w"})
        beat = await receive(socket)
        assert beat["type"] == "model.heartbeat"
        assert "seq" not in beat
        await world.post(f"/jobs/{job_id}/log", {"line": "hello"})
        line = await receive(socket)
        assert (line["type"], line["line"], line["job_id"]) == ("job.log", "hello", job_id)
        assert "seq" not in line
    async with asyncio.timeout(5):
        while world.live.followers:
            await asyncio.sleep(0)


async def test_a_burst_reaches_many_clients_in_order(world: World) -> None:
    async def client(wanted: int) -> list[int]:
        async with world.ws("/ws/events") as socket:
            joined.release()
            return [event["seq"] for event in await receive_until(socket, lambda e: e["seq"] == wanted)]

    joined = asyncio.Semaphore(0)
    clients = [asyncio.ensure_future(client(300)) for _ in range(20)]
    await until_joined(world, 20)
    await fill(world, 300)
    for got in await asyncio.gather(*clients):
        assert got == list(range(1, 301))


async def test_a_client_that_does_not_read_is_closed_with_4408_and_others_are_not_G12() -> None:
    limits = replace(SMALL, outbound_bytes=64 * 1024, ring_bytes=1 << 20, ring_frames=4_096)
    async with running(limits=limits) as world, world.ws("/ws/events") as good:
        slow = await _never_reads(world)
        await until_joined(world, 2)
        task = asyncio.ensure_future(receive_until(good, lambda event: event["seq"] == 500))
        for _ in range(50):
            await fill(world, 10, size=16_000)
            await asyncio.sleep(0)
        assert [event["seq"] for event in await task] == list(range(1, 501))
        async with asyncio.timeout(5):
            while world.hub.connections > 1:
                await asyncio.sleep(0.01)
        data = await _drain(slow)
        code, reason = _close_frame(data)
        assert code == 4408
        assert reason.startswith("since=")
        resume = int(reason.removeprefix("since="))
        assert 0 < resume < 500
        assert b'{"seq":%d,' % resume in data
        assert b'{"seq":%d,' % (resume + 1) not in data, "the reason names exactly where it stopped"
        async with world.ws(f"/ws/events?{reason}", max_queue=None) as socket:
            assert (await receive(socket))["seq"] == resume + 1


async def _never_reads(world: World) -> sockets.socket:
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    loop = asyncio.get_running_loop()
    raw.setblocking(False)
    await loop.sock_connect(raw, ("127.0.0.1", world.service.port))
    await loop.sock_sendall(raw, _handshake(world, "/ws/events"))
    return raw


def _handshake(world: World, path: str, *headers: str) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{world.service.port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *headers, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


async def _drain(raw: sockets.socket) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    async with asyncio.timeout(10):
        try:
            while part := await loop.sock_recv(raw, 1 << 20):
                found += part
        except ConnectionError:
            pass
    raw.close()
    return found


def _close_frame(data: bytes) -> tuple[int, str]:
    at = data.index(b"\x11\x38since=")  # 4408 and the reason, at the end of the stream
    size = data[at - 1]
    return int.from_bytes(data[at : at + 2]), data[at + 2 : at + size].decode()


async def test_shutdown_says_1001_promptly() -> None:
    async with running() as world:
        async with world.ws("/ws/events") as socket:
            async with asyncio.timeout(3):
                await world.service.stop()
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


async def test_a_log_that_is_another_one_resets_everybody_G5(world: World) -> None:
    async with world.ws("/ws/events") as socket:
        await until_joined(world)
        world.hub.lost("the log has another epoch")
        assert (await receive(socket))["type"] == "reset"
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    assert (await world.http.get("/ready")).status_code == 503
    with pytest.raises(InvalidStatus) as refused:
        await world.ws("/ws/events").__aenter__()
    assert refused.value.response.status_code == 503


# ---------------------------------------------------------------- /ws/job/{id}


async def test_a_job_feed_shows_everything_so_far_then_live(world: World) -> None:
    job_id = await claimed(world)
    for number in range(3):
        await world.post(f"/jobs/{job_id}/stream", {"chunk": f"c{number}"})
    async with world.ws(f"/ws/job/{job_id}") as socket:
        early = [await receive(socket) for _ in range(5)]
        assert [message["type"] for message in early] == ["job.created", "job.claimed"] + ["job.stream"] * 3
        await world.post(f"/jobs/{job_id}/stream", {"chunk": "c3", "final": True})
        await world.post(f"/jobs/{job_id}/progress", {"percent": 100, "step": "done"})
        await world.post(f"/jobs/{job_id}/complete", {"success": True})
        late = await receive_until(socket, lambda message: message["type"] == "job.completed")
    assert [message.get("i") for message in early[2:] + late] == [0, 1, 2, 3, 4, None]
    assert late[0] == {**late[0], "chunk": "c3", "final": True, "attempt": 1, "job_id": job_id}


async def test_the_terminal_event_waits_for_output_that_live_delivery_lost(world: World) -> None:
    job_id = await claimed(world)
    async with world.ws(f"/ws/job/{job_id}") as socket:
        await receive_until(socket, lambda message: message["type"] == "job.claimed")
        world.live.drop = lambda message: message.first in (1, 3)
        for number in range(4):
            await world.post(f"/jobs/{job_id}/stream", {"chunk": f"c{number}"})
        await world.post(f"/jobs/{job_id}/complete", {"success": True})
        got = await receive_until(socket, lambda message: message["type"] == "job.completed")
    assert [message.get("chunk") for message in got] == ["c0", "c1", "c2", "c3", None]


async def test_a_purged_job_shows_its_events(world: World) -> None:
    job_id = await claimed(world)
    await world.post(f"/jobs/{job_id}/stream", {"chunk": "gone"})
    await world.post(f"/jobs/{job_id}/complete", {"success": True})
    await world.content.erase(1, job_id)
    async with world.ws(f"/ws/job/{job_id}") as socket:
        got = await receive_until(socket, lambda message: message["type"] == "job.completed")
    assert [message["type"] for message in got] == ["job.created", "job.claimed", "job.completed"]


async def test_a_job_feed_resumes_in_the_middle_of_a_message(world: World) -> None:
    job_id = await claimed(world)
    records = [{"ts": "t", "chunk": str(number), "final": False} for number in range(5)]
    await world.output.append(1, job_id, 1, "stream", records)
    await world.output.append(1, job_id, 1, "stream", records)
    async with world.ws(f"/ws/job/{job_id}?since=2&from=1&after=2") as socket:
        got = [await receive(socket) for _ in range(7)]
    assert [message["i"] for message in got] == [3, 4, 5, 6, 7, 8, 9]


async def test_output_of_an_attempt_that_the_log_never_claimed_is_not_shown(world: World) -> None:
    job_id = await claimed(world)
    await world.output.append(1, job_id, 2, "stream", [{"ts": "t", "chunk": "forged", "final": False}])
    await world.post(f"/jobs/{job_id}/stream", {"chunk": "true"})
    async with world.ws(f"/ws/job/{job_id}") as socket:
        got = await receive_until(socket, lambda message: message["type"] == "job.stream")
        assert got[-1]["chunk"] == "true"
        await world.post(f"/jobs/{job_id}/release")
        await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w2"})
        after = await receive_until(socket, lambda message: message["type"] == "job.stream")
    assert [message["type"] for message in after] == ["job.released", "job.claimed", "job.stream"]
    assert after[-1]["attempt"] == 2


async def test_an_unknown_job_is_refused_before_the_upgrade(world: World) -> None:
    for job_id in ("0199c0de-0000-7000-8000-000000000000", "*", "x"):
        with pytest.raises(InvalidStatus) as refused:
            await world.ws(f"/ws/job/{job_id}").__aenter__()
        assert refused.value.response.status_code in (404, 422)
        assert orjson.loads(refused.value.response.body or b"")["code"] in ("not_found", "invalid_request")


# ---------------------------------------------------------------- SSE


async def _sse(world: World, path: str, count: int, **headers: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    current: dict[str, str] = {}
    async with asyncio.timeout(10), world.http.stream("GET", path, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name:
                current[name] = value
            elif "data" in current:
                found.append(current)
                current = {}
                if len(found) == count:
                    break
            else:
                current = {}
    return found


async def test_sse_events_carry_the_sequence_as_id_and_resume_by_it(world: World) -> None:
    await fill(world, 150)
    first = await _sse(world, "/sse/events?since=0", 100)
    assert [event["id"] for event in first] == [str(seq) for seq in range(1, 101)]
    rest = await _sse(world, "/sse/events?since=0", 50, **{"last-event-id": "100"})
    assert [event["id"] for event in rest] == [str(seq) for seq in range(101, 151)]
    reset = await _sse(world, "/sse/events?since=9999", 1)
    assert reset[0]["event"] == "reset"
    assert (await world.http.get("/sse/events", headers={"last-event-id": "1.2"})).status_code == 422


async def test_sse_job_resumes_exactly(world: World) -> None:
    job_id = await claimed(world)
    for number in range(4):
        await world.post(f"/jobs/{job_id}/stream", {"chunk": f"c{number}"})
    every = await _sse(world, f"/sse/job/{job_id}", 6)
    for position in range(6):
        rest = (
            await _sse(world, f"/sse/job/{job_id}", 5 - position, **{"last-event-id": every[position]["id"]})
            if position < 5
            else []
        )
        assert [event["data"] for event in rest] == [event["data"] for event in every[position + 1 :]]
    newest = max(orjson.loads(event["data"]).get("seq", 0) for event in every)
    rest = await _sse(world, f"/sse/job/{job_id}", 4, **{"last-event-id": str(newest)})
    assert [orjson.loads(event["data"])["chunk"] for event in rest] == ["c0", "c1", "c2", "c3"], (
        "events are behind it, output is told"
    )


@pytest.mark.parametrize("feed", ["events", "job", "orchestrator", "studio"])
async def test_the_head_of_an_event_stream_ends_and_leaves_nobody_behind(world: World, feed: str) -> None:
    [job_id] = await world.submit()
    path = {"job": f"/sse/job/{job_id}", "orchestrator": "/sse/orchestrator/s"}.get(feed, f"/sse/{feed}")
    async with asyncio.timeout(5):
        answer = await world.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["aura-epoch"] == world.hub.epoch
        while world.hub.connections:
            await asyncio.sleep(0)
        assert (await world.http.head("/sse/job/nobody")).status_code == 422
        assert (await world.http.get("/prds")).status_code == 200


async def test_sse_ends_promptly_at_shutdown() -> None:
    async with running() as world, world.http.stream("GET", "/sse/events") as answer:
        async with asyncio.timeout(3):
            stopping = asyncio.ensure_future(world.service.stop())
            async for _line in answer.aiter_lines():
                pass
            await stopping


async def test_sse_sends_comments_while_idle() -> None:
    async with running(limits=replace(SMALL, sse_heartbeat_s=0.01)) as world:
        await asyncio.wait_for(_first_comment(world), 5)


async def _first_comment(world: World) -> None:
    async with world.http.stream("GET", "/sse/events") as answer:
        async for line in answer.aiter_lines():
            if line == ": alive":
                return


# ---------------------------------------------------------------- reconnecting


async def test_many_clients_that_reconnect_at_once_read_the_log_once_each_page() -> None:
    async with running(limits=replace(SMALL, ring_frames=50, page_events=100)) as world:
        await fill(world, 600)
        await world.hub.caught_up(600)
        reads = 0
        read = world.store.read

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal reads
            reads += 1
            return read(*args, **options)

        world.store.read = counted  # type: ignore[method-assign]

        async def client() -> list[int]:
            async with world.ws("/ws/events?since=100") as socket:
                return [event["seq"] for event in await receive_until(socket, lambda e: e["seq"] == 600)]

        for got in await asyncio.gather(*(client() for _ in range(40))):
            assert got == list(range(101, 601))
        assert reads <= 6


async def test_http_goes_on_while_live_clients_come_and_go(world: World) -> None:
    async def visitor() -> None:
        async with world.ws("/ws/events?last=5"):
            pass

    await fill(world, 20)
    await asyncio.gather(*(visitor() for _ in range(50)))
    async with asyncio.timeout(5):
        while world.hub.connections:
            await asyncio.sleep(0)
    assert (await world.http.get("/health")).status_code == 200
    assert isinstance(world.http, httpx.AsyncClient)
