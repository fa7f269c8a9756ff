"""What is sent without a connection is not delivered later (29), and a replica that lags is no proof of absence (18)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import orjson
import pytest

from aura.errors import Unavailable
from aura.log import wire
from aura.log.connection import PENDING_BYTES, Connection
from aura.log.inbox import inbox_of, request
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append
from tests.support.log_streams import CLOCK, IDS, empty_log, log_connection
from tests.support.servers import NatsServer


def event() -> Append:
    job, event_id = str(uuid.uuid4()), str(uuid.uuid4())
    return Append(f"aura.job.1.{job}.created", f"aura.job.1.{job}.>", 0, event_id, orjson.dumps({"id": event_id}))


class Service:
    """Answers ``svc`` and remembers what it was asked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.asked: list[bytes] = []

    async def start(self) -> None:
        await self._connection.subscribe_raw("svc", self._answer)
        await self._connection.flush()

    def _answer(self, _subject: bytes, reply: bytes, body: bytes, _headers: bytes | None) -> None:
        self.asked.append(body)
        if reply:
            self._connection.send(wire.command(reply.decode(), "", b"", b"ok"))


async def until_back(connection: Connection) -> None:
    back = asyncio.Event()
    connection.on_reconnect(back.set)
    async with asyncio.timeout(30):
        if not connection.is_connected:
            await back.wait()
        await connection.flush()


async def test_a_request_without_a_connection_fails_at_once_and_is_never_delivered(fresh_nats: NatsServer) -> None:
    client, server_side = await log_connection(fresh_nats), await log_connection(fresh_nats)
    service = Service(server_side)
    await service.start()
    inbox = inbox_of(client, CLOCK, IDS)
    await request(inbox, "svc", b"before")
    lost = asyncio.Event()
    client.on_disconnect(lost.set)
    await fresh_nats.kill()
    async with asyncio.timeout(30):
        await lost.wait()
        with pytest.raises(Unavailable, match="not delivered"):
            await request(inbox, "svc", b"too late", timeout_s=600)
    waiting = asyncio.create_task(request(inbox, "svc", b"may be repeated", timeout_s=30, resend_s=0.2))
    await fresh_nats.start()
    await until_back(client)
    await until_back(server_side)
    assert (await waiting).body == b"ok"
    assert (await request(inbox, "svc", b"after")).body == b"ok"
    assert b"too late" not in service.asked
    assert service.asked[0] == b"before"
    assert service.asked[-1] == b"after"
    await client.close()
    await server_side.close()


async def test_what_had_not_left_when_the_connection_broke_is_dropped(fresh_nats: NatsServer) -> None:
    client, server_side = await log_connection(fresh_nats), await log_connection(fresh_nats)
    service = Service(server_side)
    await service.start()
    inbox = inbox_of(client, CLOCK, IDS)
    await inbox.start()
    await client.flush()
    assert client._flusher_task is not None
    client._flusher_task.cancel()  # a socket that takes nothing
    assert client.send(wire.command("svc", "", b"", b"stuck"))
    await client._process_op_err(OSError("cut"))
    await until_back(client)
    assert (await request(inbox, "svc", b"after")).body == b"ok"
    assert service.asked == [b"after"]
    await client.close()
    await server_side.close()


async def test_g12_what_waits_to_be_sent_is_bounded(fresh_nats: NatsServer) -> None:
    client = await log_connection(fresh_nats)
    chunk = wire.command("nobody", "", b"", bytes(7 * 1024 * 1024))
    assert [client.send(chunk) for _ in range(5)] == [True, True, True, True, False]
    assert client._pending_data_size <= PENDING_BYTES
    async with asyncio.timeout(30):
        await client.flush()
    assert client.send(chunk)
    await client.close()


@pytest.fixture
async def lagging(fresh_nats: NatsServer) -> AsyncIterator[tuple[JetStreamEventStore, list[int], list[bytes]]]:
    """A log of 40 events, read through a stand-in that answers every other direct get like a replica that has none of them yet
    (the servers' queue group is closed to clients) and passes the rest on. Also what it was asked."""
    async with empty_log(fresh_nats) as connection:
        store = JetStreamEventStore(connection, CLOCK, IDS)
        seqs = [await store.append(event()) for _ in range(40)]
        replica = await log_connection(fresh_nats)
        asked: list[bytes] = []

        def answer(_subject: bytes, reply: bytes, body: bytes, _headers: bytes | None) -> None:
            asked.append(body)
            if len(asked) % 2:
                replica.send(wire.command(reply.decode(), "", b"NATS/1.0 404 Message Not Found\r\n\r\n", b""))
            else:
                replica.send(wire.command("$JS.API.DIRECT.GET.AURA_LOG", reply.decode(), b"", body))

        await replica.subscribe_raw("direct.get", answer)
        await replica.flush()
        store._reader._direct = "direct.get"
        yield store, seqs, asked
        await replica.close()


async def test_g3_a_lagging_replica_hides_nothing(lagging: tuple[JetStreamEventStore, list[int], list[bytes]]) -> None:
    store, seqs, asked = lagging
    for seq in seqs:
        found = await store.get(seq)
        assert found is not None
        assert found.seq == seq
    for _ in range(10):
        assert [one.seq async for batch in store.read(batch=7) for one in batch] == seqs
        jobs = [one.seq async for batch in store.read(subject="aura.job.>", batch=7) for one in batch]
        assert jobs == seqs
    assert await store.get(seqs[-1] + 1) is None
    assert len(asked) > len(seqs)
