"""Tickets of live connections: the same for the bucket in JetStream, with the gateway's own permissions, and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from aura.clock import SystemClock
from aura.ids import SystemIds
from aura.log import topology
from aura.log.connection import connect
from aura.log.tickets import JetStreamTickets, MemoryTickets, TicketStore
from tests.support.servers import NatsServer


@pytest_asyncio.fixture(params=["memory", "jetstream"])
async def gateways(
    request: pytest.FixtureRequest, streams: NatsServer
) -> AsyncIterator[tuple[TicketStore, TicketStore]]:
    """Two that share what they know."""
    if request.param == "memory":
        one = MemoryTickets()
        yield one, one
        return
    clock, ids = SystemClock(), SystemIds()
    connections = [await connect(streams.url, streams.creds("gateway"), f"test-{n}", ids=ids) for n in range(2)]
    try:
        first, second = (JetStreamTickets(connection, clock, ids) for connection in connections)
        yield first, second
    finally:
        for connection in connections:
            await connection.close()


async def test_a_ticket_is_taken_once_by_whichever_gateway(gateways: tuple[TicketStore, TicketStore]) -> None:
    one, other = gateways
    await one.put("t1", b"value")
    await one.put("t2", b"another")
    assert await other.take("t1") == b"value"
    assert await other.take("t1") is None
    assert await one.take("t1") is None
    assert await one.take("t2") == b"another"
    assert await one.take("never made") is None


async def test_of_many_who_bring_the_same_ticket_at_once_one_gets_in(gateways: tuple[TicketStore, TicketStore]) -> None:
    await gateways[0].put("t", b"value")
    found = await asyncio.gather(*(gateways[n % 2].take("t") for n in range(20)))
    assert sorted(found, key=lambda value: value is None) == [b"value"] + [None] * 19


def test_the_bucket_forgets_by_itself_and_is_there_after_a_restart() -> None:
    bucket = next(one for one in topology.desired_streams() if one["name"] == "KV_AURA_TICKETS")
    assert bucket["storage"] == "file"
    assert topology.TICKET_S * 1_000_000_000 < bucket["max_age"] <= 2 * topology.TICKET_S * 1_000_000_000
