"""What live clients may cost and see: many at once read the log once (G11), slow ones are cut exactly (G12), users have their share, and
what somebody may not follow is not there (G13). Metrics say all of it."""

from __future__ import annotations

import asyncio
import re
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from aura.gateway.limits import Limits
from aura.log.store import Append
from tests.support.access import auth, client, issue, key_id, secured, submit
from tests.support.gateway import World, receive, running

NATIVE: dict[str, Any] = {"subprotocols": [Subprotocol("aura.v1")]}


async def fill(world: World, count: int, size: int = 20) -> None:
    for _ in range(count):
        event_id = world.ctx.ids.uuid7()
        body = orjson.dumps({"id": event_id, "type": "system.alert_raised", "v": 1, "code": "x" * size})
        await world.store.append(Append("aura.system.alert_raised", None, 0, event_id, body))


async def frames(socket: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    async for message in socket:
        got = orjson.loads(message)
        for frame in got if isinstance(got, list) else [got]:
            yield frame


async def closed_with(socket: ClientConnection) -> tuple[int, str]:
    """Read until the server closes."""
    async with asyncio.timeout(10):
        with suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code or 0, socket.close_reason or ""


async def metric(world: World, name: str) -> float:
    text = (await world.http.get("/metrics")).text
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)} ([0-9.e+]+)$", text, re.MULTILINE))


class Counting:
    """How often the log is read."""

    def __init__(self, world: World) -> None:
        self.reads = 0
        read = world.store.read

        def counted(*args: Any, **options: Any) -> Any:
            self.reads += 1
            return read(*args, **options)

        world.store.read = counted  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["plain", "native", "filtered"])
async def test_many_that_reconnect_with_different_cursors_cost_the_log_O1_G11(kind: str) -> None:
    async with running(limits=replace(Limits(), ring_frames=50, page_events=100)) as world:
        await fill(world, 600)
        await world.hub.caught_up(600)
        counting = Counting(world)

        async def resume(since: int) -> list[int]:
            if kind == "native":
                async with world.ws("/ws", max_queue=None, **NATIVE) as socket:
                    op = {"op": "subscribe", "id": "s", "subject": "aura.>", "from": {"seq": since + 1}}
                    await socket.send(orjson.dumps(op).decode())
                    return await _until(socket, 600)
            query = "&subject=aura.system.>" if kind == "filtered" else ""
            async with world.ws(f"/ws/events?since={since}{query}", max_queue=None) as socket:
                return await _until(socket, 600)

        got = await asyncio.gather(*(resume(100 + number) for number in range(150)))
        for number, seqs in enumerate(got):
            assert seqs == list(range(101 + number, 601))
        assert counting.reads <= 6, "one per page, however many ask"
        assert await metric(world, 'aura_live_resumes_total{source="log"}') == 150


async def _until(socket: ClientConnection, last: int) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(20):
        async for frame in frames(socket):
            if "op" not in frame:
                found.append(frame["seq"])
                if frame["seq"] == last:
                    return found
    raise AssertionError("closed")


async def test_a_subject_far_behind_is_filtered_by_the_log() -> None:
    async with running(limits=replace(Limits(), ring_frames=50, page_events=100, pages=2)) as world:
        [job_id] = await world.submit()
        await fill(world, 600)
        await world.hub.caught_up(601)
        async with world.ws("/ws", **NATIVE) as socket:
            await socket.send(
                '{"op":"subscribe","id":"s","subject":"aura.job.1.%s.>","from":{"seq":1}}' % job_id  # noqa: UP031
            )
            got = [await receive(socket) for _ in range(4)]
        assert [one.get("op") for one in got] == ["welcome", "subscribed", None, "live"]
        assert await metric(world, 'aura_live_resumes_total{source="filtered"}') == 1


async def test_an_aura_v1_client_that_does_not_read_is_4408_with_where_to_resume_G12() -> None:
    limits = replace(Limits(), outbound_bytes=64 * 1024)
    async with running(limits=limits) as world, world.ws("/ws/events", max_queue=None) as good:
        slow = world.ws("/ws", max_queue=1, sock=await _small(world), **NATIVE)
        async with slow as socket:
            await socket.send('{"op":"subscribe","id":"s","subject":"aura.>"}')
            async with asyncio.timeout(5):
                while sum(len(group.members) for group in world.hub._groups.values()) < 2:
                    await asyncio.sleep(0)
            task = asyncio.ensure_future(_until(good, 600))
            for _ in range(60):
                await fill(world, 10, size=16_000)
                await asyncio.sleep(0)
            assert await task == list(range(1, 601)), "the others do not notice"
            seen = []
            try:
                async for frame in frames(socket):
                    seen.append(frame.get("seq"))
            except ConnectionClosed:
                pass
            assert socket.close_code == 4408
            resume = int((socket.close_reason or "").removeprefix("since="))
            assert max(seq for seq in seen if seq is not None) == resume
        assert await metric(world, 'aura_live_dropped_total{reason="too_slow"}') == 1


async def _small(world: World) -> sockets.socket:
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", world.service.port))
    return raw


async def test_too_many_that_connect_at_once_are_429_and_later_ones_are_not() -> None:
    async with (
        running(limits=replace(Limits(), accept_burst=2, accept_per_s=20.0)) as world,
        world.ws("/ws/events"),
        world.ws("/ws"),
    ):
        with pytest.raises(InvalidStatus) as refused:
            await world.ws("/ws/events").__aenter__()
        assert refused.value.response.status_code == 429
        assert "retry-after" in refused.value.response.headers
        async with asyncio.timeout(5):
            while (await world.http.get("/metrics")).status_code == 200:
                try:
                    async with world.ws("/ws/events"):
                        break
                except InvalidStatus:
                    continue


async def test_metrics_tell_connections_deliveries_bytes_and_latency() -> None:
    async with running() as world, world.ws("/ws/events") as one, world.ws("/ws"), world.ws("/ws", **NATIVE):
        async with asyncio.timeout(5):
            while sum(len(group.members) for group in world.hub._groups.values()) < 2:
                await asyncio.sleep(0)
        await fill(world, 3)
        assert (await receive(one))["seq"] == 1
        for dialect in ("events", "studio", "native"):
            assert await metric(world, f'aura_live_connections{{dialect="{dialect}"}}') == 1
        assert await metric(world, "aura_hub_deliveries_total") >= 3
        assert await metric(world, "aura_live_bytes_total") > 100
        assert await metric(world, "aura_live_publish_seconds_count") >= 1


# ---------------------------------------------------------------- who may


async def test_the_11th_connection_of_a_user_is_refused_and_another_user_is_not_G12() -> None:
    async with secured(limits=replace(Limits(), connections_per_user=2)) as world:
        mine, other = await issue(world, "viewer"), await issue(world, "viewer")
        async with (
            world.ws("/ws/events", additional_headers=auth(mine)),
            client(world, mine) as http,
            http.stream("GET", "/sse/events") as stream,
        ):
            assert stream.status_code == 200
            with pytest.raises(InvalidStatus) as refused:
                await world.ws("/ws", additional_headers=auth(mine), **NATIVE).__aenter__()
            assert refused.value.response.status_code == 429
            async with world.ws("/ws", additional_headers=auth(other), **NATIVE) as socket:
                assert (await receive(socket))["op"] == "welcome"
        async with asyncio.timeout(5):
            while world.hub.connections:
                await asyncio.sleep(0.01)
        async with world.ws("/ws/events", additional_headers=auth(mine)):
            pass


async def _ticket(world: World, key: str) -> str:
    answer = await world.http.post("/auth/tickets", headers=auth(key))
    assert answer.status_code in (200, 201), answer.text
    ticket: str = answer.json()["ticket"]
    return ticket


@pytest.mark.parametrize("path", ["/ws/events", "/ws", "/ws/orchestrator/s1", "native"])
async def test_a_browser_s_first_message_brings_its_ticket_once(path: str) -> None:
    async with secured(limits=replace(Limits(), auth_s=0.3)) as world:
        key = await issue(world, "viewer")
        options = NATIVE if path == "native" else {}
        path = "/ws" if path == "native" else path
        message = orjson.dumps({"op": "auth", "ticket": await _ticket(world, key)}).decode()
        async with world.ws(path, **options) as socket:
            await socket.send(message)
            if options:
                assert (await receive(socket))["op"] == "welcome"
            async with world.ws(path, **options) as again:
                await again.send(message)
                assert (await closed_with(again))[0] == 4401
            async with world.ws(path, **options) as silent:
                assert (await closed_with(silent))[0] == 4401
            async with world.ws(path, **options) as wrong:
                await wrong.send('{"op":"subscribe","id":"s","subject":"aura.>"}')
                assert (await closed_with(wrong))[0] == 4401
            await socket.ping()


async def test_a_revoked_key_ends_its_live_streams_G13() -> None:
    async with secured() as world:
        key, director = await issue(world, "viewer"), await issue(world, "director")
        async with (
            world.ws("/ws/events", additional_headers=auth(key)) as plain,
            world.ws("/ws", additional_headers=auth(key), **NATIVE) as native,
            client(world, director) as http,
        ):
            answer = await http.post(f"/auth/keys/{key_id(key)}/revoke", json={})
            assert answer.status_code == 200, answer.text
            assert (await closed_with(plain))[0] == 4401
            assert (await closed_with(native))[0] == 4401


async def test_another_project_is_not_there_G13() -> None:
    async with secured() as world:
        key, director = await issue(world, "viewer", [1]), await issue(world, "director")
        async with client(world, director) as http:
            own = (await submit(http, 1))["job_ids"][0]
            foreign = (await submit(http, 2))["job_ids"][0]
        headers = auth(key)
        async with world.ws("/ws/events?since=0", additional_headers=headers) as socket:
            assert (await receive(socket))["job_id"] == own
        for path in ("/ws/events?subject=aura.job.2.>", f"/ws/job/{foreign}"):
            with pytest.raises(InvalidStatus) as refused:
                await world.ws(path, additional_headers=headers).__aenter__()
            assert refused.value.response.status_code in (403, 404)
        async with world.ws("/ws", additional_headers=headers, **NATIVE) as native:
            assert (await receive(native))["op"] == "welcome"
            for subject in ("aura.job.>", "aura.*.2.>", "aura.job.2.>", f"aura.output.2.{foreign}.>", "health.aura.>"):
                await native.send(orjson.dumps({"op": "subscribe", "id": "x", "subject": subject}).decode())
                assert (await receive(native))["code"] in ("forbidden", "not_found"), subject
            await native.send('{"op":"replay","id":"r","subject":"aura.job.2.>","from":{"seq":1}}')
            assert (await receive(native))["code"] == "forbidden"
            await native.send('{"op":"subscribe","id":"all","subject":"aura.>","from":{"seq":1}}')
            told: list[dict[str, Any]] = []
            while not told or told[-1].get("op") != "live":
                async with asyncio.timeout(5):
                    got = orjson.loads(await native.recv())
                told += got if isinstance(got, list) else [got]
            jobs = [one["event"]["job_id"] for one in told if "event" in one and "job_id" in one["event"]]
            assert jobs == [own], "aura.> is everything that one may see"
