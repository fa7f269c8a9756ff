"""Crowds at the door and clients that will not read: bounded, answered, and gone afterwards, while everybody else is served (G12, G13)."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from aura.gateway.limits import Limits
from aura.gateway.live.websocket import closing
from aura.log.store import Append
from tests.support.access import auth, client, issue, secured
from tests.support.gateway import World, receive, running
from tests.support.loops import event_loop_policy  # noqa: F401 - all of these run on both event loops

UPGRADE = (
    "GET /ws/events HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
NATIVE: dict[str, Any] = {"subprotocols": [Subprotocol("aura.v1")]}


async def metric(world: World, name: str) -> float:
    text = world.ctx.metrics.exposition().decode()
    return sum(map(float, re.findall(rf"^{re.escape(name)}(?:{{.*}})? ([0-9.e+]+)$", text, re.MULTILINE)))


async def opened(world: World, path: str = "/ws/events", **options: Any) -> ClientConnection | int:
    """A socket, or the status it was refused with."""
    try:
        return await world.ws(path, open_timeout=20, **options).__aenter__()
    except InvalidStatus as refused:
        return refused.response.status_code


async def ends_with(client: ClientConnection) -> int:
    try:
        while True:
            await client.recv()
    except ConnectionClosed:
        return client.close_code or 0


async def nobody_left(world: World, tasks: int) -> None:
    """Connections, tasks and sockets are as before the crowd came."""
    async with asyncio.timeout(10):
        while world.hub.connections or len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.01)
    assert await metric(world, "aura_live_connections") == 0
    server = world.service._server
    assert server is not None
    assert len(server.server_state.connections) <= 2, "the tests' own HTTP connections"


async def fill(world: World, count: int, size: int) -> None:
    for _ in range(count):
        event_id = world.ctx.ids.uuid7()
        body = orjson.dumps({"id": event_id, "type": "system.alert_raised", "v": 1, "code": "x" * size})
        await world.store.append(Append("aura.system.alert_raised", None, 0, event_id, body))
        await asyncio.sleep(0)


# ---------------------------------------------------------------- handshakes


async def test_a_flood_of_handshakes_is_answered_429_beyond_the_rate_and_http_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = replace(Limits(), accept_burst=60, accept_per_s=0.001)
    async with running(limits=limits) as world:
        await world.http.get("/health")
        tasks = len(asyncio.all_tasks())
        paths = ("/ws/events", "/ws", "/ws/orchestrator/s", "/ws/events?since=0")
        flood = [asyncio.ensure_future(opened(world, paths[n % 4])) for n in range(400)]
        assert (await world.http.get("/health")).status_code == 200
        found = await asyncio.gather(*flood)
        refused = Counter(one for one in found if isinstance(one, int))
        inside = [one for one in found if not isinstance(one, int)]
        assert refused == {429: 340}
        assert len(inside) == world.hub.connections == 60
        assert await metric(world, 'aura_live_dropped_total{reason="accept_rate"}') == 340
        answer = await world.http.get("/sse/events")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        await asyncio.gather(*(one.close() for one in inside))
        await nobody_left(world, tasks)
        assert caplog.records == [], "nor does a flood fill the disk with log lines"


async def test_sockets_that_never_authenticate_are_4401_at_the_deadline_whatever_they_do() -> None:
    async with secured(limits=replace(Limits(), auth_s=0.5, pending_per_address=150)) as world:
        key = await issue(world, "director")
        await world.http.get("/health")
        tasks = len(asyncio.all_tasks())
        async with world.ws("/ws/events", additional_headers=auth(key)) as known:
            crowd = await asyncio.gather(*(opened(world, ("/ws/events", "/ws")[n % 2]) for n in range(150)))
            assert not [one for one in crowd if isinstance(one, int)], "all of them may try"
            for one in crowd[:50]:
                assert not isinstance(one, int)
                await one.ping()  # it keeps a connection, not a deadline
            ends = await asyncio.gather(*(ends_with(one) for one in crowd if not isinstance(one, int)))
            assert Counter(ends) == {4401: 150}
            await fill(world, 1, 10)
            assert (await receive(known))["seq"], "who is known does not notice"
        await nobody_left(world, tasks)


async def test_those_who_have_not_authenticated_take_no_connections_and_are_few() -> None:
    async with secured(limits=replace(Limits(), connections=1, pending_per_address=20)) as world:
        key = await issue(world, "viewer")
        crowd = [await opened(world) for _ in range(25)]
        ends = [await ends_with(one) for one in crowd[:5] if not isinstance(one, int)]
        assert ends == [1013] * 5, "the first ones made room for the last ones"
        known = await opened(world, additional_headers=auth(key))
        assert not isinstance(known, int)
        assert await opened(world, additional_headers=auth(key)) == 503
        assert await metric(world, 'aura_live_dropped_total{reason="no_ticket"}') == 5
        for one in (known, *crowd[5:]):
            assert not isinstance(one, int)
            await one.close()


async def test_the_11th_connection_of_one_user_is_refused_however_it_comes() -> None:
    """The documented number, over every dialect, with a header and with tickets."""
    async with secured() as world, AsyncExitStack() as stack:
        key, other = await issue(world, "viewer"), await issue(world, "viewer")
        http = await stack.enter_async_context(client(world, key))
        for path, options in (("/ws/events", {}), ("/ws", {}), ("/ws", NATIVE), ("/ws/orchestrator/s", {})) * 2:
            await stack.enter_async_context(world.ws(path, additional_headers=auth(key), **options))
        await stack.enter_async_context(http.stream("GET", "/sse/events"))
        tenth = world.ws("/ws/events", additional_headers=auth(key))
        await tenth.__aenter__()
        assert await opened(world, additional_headers=auth(key)) == 429
        assert (await http.get("/sse/studio")).status_code == 429
        late = await opened(world)
        assert not isinstance(late, int)
        ticket = (await http.post("/auth/tickets")).json()["ticket"]
        await late.send(orjson.dumps({"op": "auth", "ticket": ticket}).decode())
        assert await ends_with(late) == 1013
        assert await metric(world, 'aura_live_dropped_total{reason="too_many_of_user"}') == 3
        await stack.enter_async_context(world.ws("/ws/events", additional_headers=auth(other)))
        await tenth.__aexit__(None, None, None)
        async with asyncio.timeout(5):
            while world.hub.connections != 10:
                await asyncio.sleep(0.01)
        await stack.enter_async_context(world.ws("/ws/events", additional_headers=auth(key)))


# ---------------------------------------------------------------- clients that do not read, or slowly


async def _raw(world: World, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", world.service.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=4_096)
    writer.write(f"{head}\r\nHost: 127.0.0.1:{world.service.port}\r\n\r\n".encode())
    return reader, writer


async def test_an_event_stream_whose_client_reads_nothing_is_cut_and_forgotten_G12(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closing, "CLOSE_WAIT_S", 0.1)
    async with running(limits=replace(Limits(), outbound_bytes=64 * 1024)) as world:
        await world.http.get("/health")
        tasks = len(asyncio.all_tasks())
        _, writer = await _raw(world, "GET /sse/events HTTP/1.1")
        async with asyncio.timeout(20):
            while not world.hub.connections:
                await asyncio.sleep(0.01)
            while not await metric(world, 'aura_live_dropped_total{reason="too_slow"}'):
                await fill(world, 50, 16_000)
        await nobody_left(world, tasks)
        writer.transport.abort()


@pytest.mark.parametrize("says", [b"", b"\x81\x01x"], ids=["nothing", "what is no masked frame"])
async def test_a_websocket_that_is_given_up_with_unsent_bytes_is_cut_and_forgotten_G12(
    monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    """It answers no ping, or speaks nonsense, and takes nothing: what was written to it must not keep its connection for ever."""
    monkeypatch.setattr(closing, "CLOSE_WAIT_S", 0.1)
    async with running(limits=replace(Limits(), ping_s=0.5, outbound_bytes=64 * 1024 * 1024)) as world:
        await world.http.get("/health")
        tasks = len(asyncio.all_tasks())
        reader, writer = await _raw(world, UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        await fill(world, 500, 16_000)
        writer.write(says)
        await nobody_left(world, tasks)
        writer.transport.abort()


async def test_a_websocket_that_reads_slowly_is_not_given_up_for_a_ping_that_waits_its_turn_G12(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ping lies behind megabytes that were written before; who takes them is alive."""
    monkeypatch.setattr(closing, "CLOSE_WAIT_S", 0.1)
    async with running(limits=replace(Limits(), ping_s=0.3, outbound_bytes=64 * 1024 * 1024)) as world:
        reader, writer = await _raw(world, UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        await fill(world, 500, 16_000)
        started, size = asyncio.get_running_loop().time(), 0
        async with asyncio.timeout(20):
            while size < 500 * 16_000:
                size += len(await reader.read(65_536))
                assert not reader.at_eof(), size
                await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - started > 0.9, "longer than a ping waits"
        writer.transport.abort()


async def test_a_websocket_that_reads_slowly_gets_to_read_its_4408_G12(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before is still taken, for longer than one that reads nothing is given, and then where to resume."""
    monkeypatch.setattr(closing, "CLOSE_WAIT_S", 0.2)
    async with running(limits=replace(Limits(), outbound_bytes=64 * 1024)) as world:
        reader, writer = await _raw(world, UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(20):
            while not await metric(world, 'aura_live_dropped_total{reason="too_slow"}'):
                await fill(world, 50, 16_000)
        taken, started = b"", asyncio.get_running_loop().time()
        while len(taken) < 4 or taken[-2:] != b"":
            data = await reader.read(65_536)
            if not data:
                break
            taken = (taken + data)[-200_000:]
            if asyncio.get_running_loop().time() - started < 0.8:  # four times as long as without progress
                await asyncio.sleep(0.02)
        at = taken.rindex(b"since=")
        resume = int(taken[at + 6 :].split(b"\x88")[0])
        last = int(taken[: at - 2].rpartition(b'{"seq":')[2].partition(b",")[0])
        assert taken[at - 4 : at] == bytes([0x88, len(taken) - at + 2]) + (4408).to_bytes(2)
        assert resume == last, "everything up to there came"
        writer.transport.abort()
