"""Fixtures for tests that need real servers; see ``tests/support/servers.py``.

==================  =========  ========================================================================================
``nats_server``     session    one nats-server with accounts, shared: for tests that do not care what is in it
``fresh_nats``      function   a nats-server of the test's own (60 ms); may be killed and started again
``streams``         function   that, with the streams made by ``admin`` and a pool ``m`` by ``scheduler``
``pg_server``       session    one Postgres
``database``        function   an empty database in it, dropped afterwards
``read_models``     function   the same with the projections' migrations applied
==================  =========  ========================================================================================

``--backend=containers`` takes both servers from images; those tests are skipped, with the reason, where no engine answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from aura.clock import SystemClock
from aura.ids import SystemIds
from aura.log import connection, topology
from aura.runtime import permissions
from aura.runtime.nats_accounts import NatsAccounts
from tests.support import servers
from tests.support.servers import Database, NatsServer, PostgresServer

# How long anything takes says nothing here: machines are shared, and the first text in a fresh clone makes Hypothesis' table of characters.
settings.register_profile("aura", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("aura")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=("embedded", "containers"),
        default="embedded",
        help="where nats-server and Postgres come from: our wheels, or container images",
    )


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """``embedded`` or ``containers``."""
    chosen = str(request.config.getoption("--backend"))
    if chosen == "containers":
        from tests.support.containers import missing

        if (reason := missing()) is not None:
            pytest.skip(reason)
    return chosen


@pytest.fixture(scope="session")
def nats_accounts(tmp_path_factory: pytest.TempPathFactory) -> NatsAccounts:
    """The keys of all servers of this run."""
    return NatsAccounts.open(tmp_path_factory.mktemp("nats-keys"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server(
    backend: str, nats_accounts: NatsAccounts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NatsServer]:
    server = servers.nats_server(backend, tmp_path_factory.mktemp("nats"), nats_accounts)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def fresh_nats(backend: str, nats_accounts: NatsAccounts, tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = servers.nats_server(backend, tmp_path / "nats", nats_accounts)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pg_server(backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    server = servers.postgres_server(backend, tmp_path_factory.mktemp("postgres"))
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def database(pg_server: PostgresServer) -> AsyncIterator[Database]:
    made = await pg_server.create_database()
    yield made
    await pg_server.drop_database(made.name)


@pytest_asyncio.fixture
async def read_models(pg_server: PostgresServer) -> AsyncIterator[Database]:
    made = await pg_server.create_database(await pg_server.template("migrated", servers.migrated))
    yield made
    await pg_server.drop_database(made.name)


@pytest_asyncio.fixture
async def streams(fresh_nats: NatsServer) -> AsyncIterator[NatsServer]:
    """A server whose streams the ``admin`` user made, and the pool ``m`` that the ``scheduler`` made."""
    clock, ids = SystemClock(), SystemIds()
    admin = await connection.connect(fresh_nats.url, fresh_nats.creds("admin"))
    report = await topology.ensure(admin, clock, ids)
    assert (report.created, report.drift) == (list(permissions.STREAMS), [])
    await admin.close()
    scheduler = await connection.connect(fresh_nats.url, fresh_nats.creds("scheduler"))
    await topology.Pools(scheduler, clock, ids).ensure("m")
    await scheduler.close()
    yield fresh_nats
