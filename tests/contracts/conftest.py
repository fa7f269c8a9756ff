"""Both store adapters, each on an empty log. One nats-server for this folder, emptied before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from aura.clock import SystemClock
from aura.ids import SystemIds
from aura.log.jetstream import JetStreamEventStore
from aura.log.memory import MemoryEventStore
from aura.log.store import EventStore
from aura.runtime.nats_accounts import NatsAccounts
from tests.support import servers
from tests.support.content_stores import Stores, content_stores
from tests.support.log_streams import empty_log
from tests.support.servers import NatsServer


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def log_server(
    backend: str, nats_accounts: NatsAccounts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NatsServer]:
    server = servers.nats_server(backend, tmp_path_factory.mktemp("log-nats"), nats_accounts)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(params=["memory", "jetstream"])
async def store(request: pytest.FixtureRequest, log_server: NatsServer) -> AsyncIterator[EventStore]:
    made: EventStore
    if request.param == "memory":
        made = MemoryEventStore(SystemClock())
        yield made
        await made.close()
    else:
        async with empty_log(log_server) as connection:
            made = JetStreamEventStore(connection, SystemClock(), SystemIds())
            yield made
            await made.close()


@pytest.fixture(params=["memory", "jetstream"])
async def stores(request: pytest.FixtureRequest, log_server: NatsServer) -> AsyncIterator[Stores]:
    async with content_stores(request.param, log_server) as made:
        yield made
