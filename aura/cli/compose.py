"""The composition root: the only place that knows every package and binds their ports.

``gateway``, ``scheduler`` and ``projector`` are what ``aura gateway|scheduler|projector`` run; the tests and ``aura doctor`` use the
smaller pieces. Imports are local: each process loads only what it needs.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Protocol

import structlog

from aura.clock import Clock, SystemClock
from aura.config import Settings
from aura.errors import AuraError
from aura.ids import IdSource, SystemIds

if TYPE_CHECKING:
    from aura.commands.endpoints import CommandEndpoints
    from aura.commands.service import CommandService
    from aura.log.connection import Connection
    from aura.log.content import SealedContent
    from aura.log.jetstream import JetStreamEventStore
    from aura.log.output import SealedOutput
    from aura.log.rpc import RpcServer
    from aura.log.store import Recorded
    from aura.projections.queries import Queries

log = structlog.get_logger("aura.cli")

SERVICE_NAME = "aura-commands"
#: How long a process waits for NATS at its start before it gives up (its supervisor starts it again).
CONNECT_S = 30.0
SWEEP_S = 600.0


class Service(Protocol):
    """Something long-lived."""

    async def start(self) -> None:
        """Return when ready."""

    async def stop(self) -> None:
        """Drain. Safe twice."""

    async def wait(self) -> None:
        """Return, or raise, when it ended by itself."""


def version() -> str:
    """The installed distribution's version."""
    try:
        return installed_version("aura-orchestra")
    except PackageNotFoundError:
        return "0.1.0"


@dataclass(frozen=True, slots=True)
class World:
    """What every process has: settings, time, ids."""

    settings: Settings
    clock: Clock
    ids: IdSource


def world(settings: Settings) -> World:
    """The real one."""
    return World(settings, SystemClock(), SystemIds())


@dataclass(frozen=True, slots=True)
class CommandSide:
    """The command service and what it stands on, over one connection."""

    connection: Connection
    store: JetStreamEventStore
    content: SealedContent
    output: SealedOutput
    service: CommandService
    endpoints: CommandEndpoints


def command_side(at: World, connection: Connection) -> CommandSide:
    """Bind the command service to JetStream."""
    from aura.cli.keys import content_key
    from aura.commands.endpoints import CommandEndpoints
    from aura.commands.service import CommandService, Policy, Ports
    from aura.log.content_jetstream import jetstream_content
    from aura.log.health import CoreLeaseRenewals, HeartbeatPublisher
    from aura.log.jetstream import JetStreamEventStore
    from aura.log.output_jetstream import jetstream_output
    from aura.log.topology import Pools

    clock, ids, settings = at.clock, at.ids, at.settings
    store = JetStreamEventStore(connection, clock, ids)
    content = jetstream_content(connection, clock, ids, content_key(settings.data_dir, ids))
    output = jetstream_output(connection, clock, ids, content)
    ports = Ports(
        store=store,
        content=content,
        output=output,
        renewals=CoreLeaseRenewals(connection),
        health=HeartbeatPublisher(connection),
        ensure_pool=Pools(connection, clock, ids).ensure,
        clock=clock,
        ids=ids,
    )
    policy = Policy(
        role_models=settings.role_models,
        default_model=settings.model_for_role(""),
        lease_ttl_s=float(settings.lease_ttl),
        retention_s=settings.retention_days * 86_400.0,
    )
    service = CommandService(ports, policy)
    return CommandSide(connection, store, content, output, service, CommandEndpoints(service, ports.ensure_pool, ids))


def command_server(side: CommandSide, version: str) -> RpcServer:
    """The command service as a NATS micro service."""
    from aura.commands.endpoints import ADMIN_SUBJECT, WORKER_SUBJECT
    from aura.log.rpc import Endpoint, RpcServer

    endpoints = [
        Endpoint("worker", WORKER_SUBJECT, side.endpoints.handle),
        Endpoint("admin", ADMIN_SUBJECT, side.endpoints.handle),
    ]
    return RpcServer(side.connection, SERVICE_NAME, version, endpoints, description="Aura's command service")


async def connected(at: World, component: str) -> Connection:
    """A connection as ``component``. Raises ``Unavailable``, ``ConfigError``."""
    from aura.log.connection import connect

    settings = at.settings
    creds = settings.creds_of(component)
    url = settings.require_nats()
    return await connect(url, creds, f"aura-{component}", connect_timeout_s=CONNECT_S, ids=at.ids)


class _Composed:
    """A service made of parts: started in order, stopped in reverse, what failed half-way included."""

    def __init__(self, at: World) -> None:
        self._at = at
        self._parts = AsyncExitStack()
        self._main: Service | None = None
        self._chores: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return when ready. Raises ``Unavailable``, ``ConfigError``, ``LogRegression``."""
        try:
            self._main = await self._compose()
            self._parts.push_async_callback(self._main.stop)
            await self._main.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Everything in reverse. Safe twice."""
        chores, self._chores = self._chores, []
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        parts, self._parts = self._parts, AsyncExitStack()
        await parts.aclose()

    async def wait(self) -> None:
        """Until it ends by itself."""
        if self._main is not None:
            await self._main.wait()

    async def _compose(self) -> Service:
        raise NotImplementedError

    async def _connection(self, component: str) -> Connection:
        connection = await connected(self._at, component)

        async def close() -> None:
            if connection.is_connected:
                await connection.flush()
            await connection.close()

        self._parts.push_async_callback(close)
        return connection

    def _chore(self, name: str, every_s: float | None, work: Callable[[], Awaitable[object]]) -> None:
        """Work beside the service: until it has succeeded once, or again and again."""

        async def run() -> None:
            while True:
                try:
                    await work()
                    if every_s is None:
                        return
                except AuraError as error:
                    log.warning("chore.failed", chore=name, code=error.code, detail=error.detail)
                await asyncio.sleep(every_s if every_s is not None else 5.0)

        self._chores.append(asyncio.create_task(run(), name=name))


class Gateway(_Composed):
    """``aura gateway``: HTTP, WebSocket, and the command service over NATS. Also finishes interrupted purges and sweeps orphaned
    inputs: it alone may erase."""

    async def _compose(self) -> Service:
        from aura.cli.binding.explain import Explainer
        from aura.cli.binding.live import Heartbeats
        from aura.cli.binding.next_job import PoolNext
        from aura.cli.binding.queries import ReadModels
        from aura.gateway.context import GatewayContext
        from aura.gateway.hub import Hub
        from aura.gateway.job_output import JobOutput
        from aura.gateway.limits import Limits
        from aura.gateway.metrics import Metrics
        from aura.gateway.server import GatewayService
        from aura.log.connection import RawSubscription
        from aura.log.output import OutputMessage
        from aura.log.output_jetstream import follow_output
        from aura.projections.queries import Queries

        at, clock, ids, settings = self._at, self._at.clock, self._at.ids, self._at.settings
        connection = await self._connection("gateway")
        side = command_side(at, connection)
        self._parts.push_async_callback(side.store.close)
        queries = Queries(settings.require_database(), clock=clock)
        self._parts.push_async_callback(queries.stop)
        await queries.start()
        commands = command_server(side, version())
        self._parts.push_async_callback(commands.stop)
        await commands.start()
        limits, metrics = Limits(), Metrics()

        async def follow(pattern: str, on_message: Callable[[OutputMessage], None]) -> RawSubscription:
            return await follow_output(connection, pattern, on_message)

        context = GatewayContext(
            settings=settings,
            clock=clock,
            ids=ids,
            commands=side.service,
            store=side.store,
            content=side.content,
            output=JobOutput(side.output, side.content, side.service.jobs, follow),
            queries=ReadModels(queries, side.store),
            next_job=PoolNext(connection, clock, ids, side.service),
            explain=Explainer(queries, clock, settings.model_for_role),
            hub=Hub(clock, limits, metrics),
            metrics=metrics,
            health=Heartbeats(connection),
            limits=limits,
            version=version(),
        )
        self._chore("resume purges", None, lambda: _resume_purges(at, side, queries))
        self._chore("sweep content", SWEEP_S, _sweeper(at, side))
        heads = side.service.jobs.heads

        def observe(batch: list[Recorded]) -> None:
            for recorded in batch:
                heads.observe(recorded)

        return GatewayService(context, side.store.tail, observers=(observe,))


class Scheduler(_Composed):
    """``aura scheduler``."""

    async def _compose(self) -> Service:
        from aura.cli.binding.snapshot import ReadModelSnapshot
        from aura.commands.handler import JobHandler
        from aura.commands.models import ModelHandler
        from aura.log.jetstream import JetStreamEventStore
        from aura.log.lease import Lease
        from aura.log.topology import Pools
        from aura.projections.queries import Queries
        from aura.scheduler.feeds import NatsHealthFeed, NatsRenewalsFeed
        from aura.scheduler.service import SchedulerPorts, SchedulerService

        clock, ids, settings = self._at.clock, self._at.ids, self._at.settings
        connection = await self._connection("scheduler")
        store = JetStreamEventStore(connection, clock, ids)
        self._parts.push_async_callback(store.close)
        queries = Queries(settings.require_database(), clock=clock, max_connections=2, statement_timeout_s=60)
        self._parts.push_async_callback(queries.stop)
        await queries.start()
        holder = f"{socket.gethostname()}-{os.getpid()}-{ids.uuid7()[-4:]}"
        ports = SchedulerPorts(
            store=store,
            jobs=JobHandler(store, clock, ids),
            models=ModelHandler(store, clock, ids),
            lease=Lease(connection, clock, ids, "scheduler", holder),
            snapshot=ReadModelSnapshot(queries, store),
            health=NatsHealthFeed(connection, clock, ids),
            renewals=NatsRenewalsFeed(connection),
            ensure_pool=Pools(connection, clock, ids).ensure,
            clock=clock,
            ids=ids,
        )
        retention_s = settings.retention_days * 86_400.0
        return SchedulerService(ports, model_for=settings.model_for_role, retention_s=retention_s, holder=holder)


class Projector(_Composed):
    """``aura projector``."""

    async def _compose(self) -> Service:
        from aura.cli.binding.announcements import Announcements
        from aura.log.health import HealthLog
        from aura.log.jetstream import JetStreamEventStore
        from aura.projections.service import ProjectorService

        clock, ids = self._at.clock, self._at.ids
        connection = await self._connection("projector")
        store = JetStreamEventStore(connection, clock, ids)
        self._parts.push_async_callback(store.close)
        return ProjectorService(
            store,
            self._at.settings.require_database(),
            clock=clock,
            health=HealthLog(connection, clock, ids),
            on_alert=Announcements(store, clock, ids).alert,
        )


async def _resume_purges(at: World, side: CommandSide, queries: Queries) -> None:
    from aura.commands.handler import Caller

    async def requested() -> AsyncIterator[str]:
        for row in await queries.purging():
            yield row["id"]

    request_id = at.ids.uuid7()
    await side.service.purger.resume(requested(), Caller("system:purge", request_id, request_id))


def _sweeper(at: World, side: CommandSide) -> Callable[[], Awaitable[object]]:
    from aura.log.content import Sweeper
    from aura.log.content_jetstream import JetStreamContentBackend

    backend = JetStreamContentBackend(side.connection, at.clock, at.ids)
    return Sweeper(side.content, backend, side.store, at.clock).sweep
