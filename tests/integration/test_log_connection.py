"""The connection: clear refusals at the start, for ever afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aura.errors import ConfigError, Unavailable
from aura.log.connection import connect
from aura.log.inbox import inbox_of, request
from aura.log.jetstream import JetStreamEventStore
from tests.support.log_streams import CLOCK, IDS, empty_log, log_connection
from tests.support.proxy import Proxy
from tests.support.servers import NatsServer


async def test_no_server_is_unavailable_after_the_time_given() -> None:
    async with Proxy("nats://127.0.0.1:1") as nowhere:
        with pytest.raises(Unavailable, match="does not answer"):
            await connect(nowhere.url, connect_timeout_s=0.3)


async def test_wrong_credentials_say_so(fresh_nats: NatsServer, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"(?i)authorization"):
        await connect(fresh_nats.url, connect_timeout_s=0.5)
    with pytest.raises(ConfigError):
        await connect(fresh_nats.url, tmp_path / "missing.creds")


async def test_a_server_that_starts_later_is_waited_for(fresh_nats: NatsServer) -> None:
    await fresh_nats.stop()
    waiting = asyncio.create_task(connect(fresh_nats.url, fresh_nats.creds("root"), connect_timeout_s=30))
    await fresh_nats.start()
    connection = await waiting
    assert connection.is_connected
    await connection.close()


async def test_it_reconnects_after_every_cut_and_tells_its_listeners(fresh_nats: NatsServer) -> None:
    async with empty_log(fresh_nats), Proxy(fresh_nats.url) as proxy:
        connection = await connect(proxy.url, fresh_nats.creds("root"), connect_timeout_s=20)
        store = JetStreamEventStore(connection, CLOCK, IDS)
        back = asyncio.Event()
        lost: list[int] = []
        connection.on_disconnect(lambda: lost.append(1))
        connection.on_reconnect(back.set)
        for round_ in range(1, 6):
            back.clear()
            proxy.cut()
            async with asyncio.timeout(30):
                await back.wait()
                assert (await store.identity()).last_seq == 0
            assert len(lost) == round_
        await connection.close()


async def test_a_permission_violation_does_not_close_the_connection(fresh_nats: NatsServer) -> None:
    async with empty_log(fresh_nats):
        projector = await log_connection(fresh_nats, "projector")
        await projector.publish("append.aura.job.1.x.created", b"not mine")
        await projector.flush()
        assert (await JetStreamEventStore(projector, CLOCK, IDS).identity()).last_seq == 0
        await projector.close()


async def test_closing_ends_what_waits(fresh_nats: NatsServer) -> None:
    connection = await log_connection(fresh_nats)
    await connection.subscribe("silent")
    waiting = asyncio.create_task(request(inbox_of(connection, CLOCK, IDS), "silent", timeout_s=600))
    await connection.flush()
    await connection.close()
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable):
            await waiting


async def test_closing_while_the_server_is_away(fresh_nats: NatsServer) -> None:
    for _ in range(5):
        connection = await log_connection(fresh_nats)
        closed = asyncio.Event()
        lost = asyncio.Event()
        connection.on_close(closed.set)
        connection.on_disconnect(lost.set)
        await fresh_nats.kill()
        async with asyncio.timeout(20):
            await connection.publish("x", b"y" * 10_000)
            await lost.wait()
            await connection.publish("x", b"y" * 10_000)
            await connection.close()
            await connection.close()
        assert closed.is_set()
        await fresh_nats.start()
