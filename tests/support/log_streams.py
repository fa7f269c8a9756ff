"""The log's connection and empty streams on a test's nats-server (``tests/support/servers.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from aura.clock import SystemClock
from aura.errors import Unavailable
from aura.ids import SystemIds
from aura.log import topology
from aura.log.connection import Connection, connect
from tests.support.servers import NatsServer

CLOCK = SystemClock()
IDS = SystemIds()


async def log_connection(server: NatsServer, user: str | Path = "root") -> Connection:
    """A connection of that user; the caller closes it."""
    creds = user if isinstance(user, Path) else server.creds(user)
    return await connect(
        server.url, creds, f"test-{user if isinstance(user, str) else user.stem}", connect_timeout_s=20
    )


async def delete_streams(connection: Connection) -> None:
    """Leave an empty JetStream to the next test."""
    names = orjson.loads((await connection.request("$JS.API.STREAM.NAMES", b"", timeout=10)).data)
    for name in names.get("streams") or []:
        await connection.request(f"$JS.API.STREAM.DELETE.{name}", b"", timeout=10)


async def _ensured(connection: Connection) -> None:
    """Right after streams were deleted a busy server may still be at their files, and say that it cannot make new ones."""
    async with asyncio.timeout(20):
        while True:
            try:
                await topology.ensure(connection, CLOCK, IDS)
            except Unavailable:
                continue
            return


@asynccontextmanager
async def empty_log(server: NatsServer) -> AsyncIterator[Connection]:
    """A connection that may do anything, and fresh, empty streams."""
    connection = await log_connection(server)
    try:
        await delete_streams(connection)
        await _ensured(connection)
        yield connection
    finally:
        await connection.close()
