"""What ``aura gateway``, ``aura scheduler`` and ``aura projector`` run: each a service made of parts that ``compose`` binds.

Imports are local: each process loads only what it needs.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from aura.cli.compose import (
    CommandSide,
    Service,
    World,
    command_server,
    command_side,
    connected,
    version,
)
from aura.errors import AuraError, Unavailable

if TYPE_CHECKING:
    from aura.log.connection import Connection
    from aura.log.jetstream import JetStreamEventStore
    from aura.log.store import Recorded
    from aura.log.tail import LogTail, OnBatch, OnEnd
    from aura.projections.queries import Queries

log = structlog.get_logger("aura.cli")

SWEEP_S = 600.0
PURGE_S = 180.0
#: How soon a chore that failed is tried again.
AGAIN_S = 5.0
#: How soon a gateway notices that another log was accepted.
EPOCH_S = 2.0


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

    async def _connection(self, component: str, *, gather_s: float = 0.0) -> Connection:
        connection = await connected(self._at, component, gather_s=gather_s)

        async def close() -> None:
            if connection.is_connected:
                await connection.flush()
            await connection.close()

        self._parts.push_async_callback(close)
        return connection

    def _chore(self, name: str, every_s: float | None, work: Callable[[], Awaitable[object]]) -> None:
        """Work beside the service: until it has succeeded once, or again and again; what failed is tried again soon."""

        async def run() -> None:
            while True:
                wait_s = AGAIN_S
                try:
                    await work()
                    if every_s is None:
                        return
                    wait_s = every_s
                except AuraError as error:
                    log.warning("chore.failed", chore=name, code=error.code, detail=error.detail)
                except Exception:  # a bug in a chore must neither end the service nor the chore
                    log.exception("chore.failed", chore=name)
                await asyncio.sleep(wait_s)

        self._chores.append(asyncio.create_task(run(), name=name))


class Gateway(_Composed):
    """``aura gateway``: HTTP, WebSocket, and the command service over NATS. Also finishes interrupted purges and sweeps orphaned
    inputs: it alone may erase. Ends when another log than it began with was accepted: its supervisor starts it on that one."""

    def __init__(self, at: World) -> None:
        super().__init__(at)
        self._superseded = asyncio.Event()

    async def wait(self) -> None:
        """Until it ends by itself, or has to start over."""
        ends = {asyncio.ensure_future(super().wait()), asyncio.ensure_future(self._superseded.wait())}
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in done:
                end.result()
        finally:
            for end in ends:
                end.cancel()

    def _watcher(self, store: JetStreamEventStore, epoch: str) -> Callable[[], Awaitable[object]]:
        async def look() -> None:
            if (await store.identity()).supersedes(epoch):
                log.warning("gateway.starts_over", epoch=epoch)
                self._superseded.set()

        return look

    async def _compose(self) -> Service:
        from aura.cli.binding.access import access_of
        from aura.cli.binding.explain import Explainer
        from aura.cli.binding.live import Heartbeats
        from aura.cli.binding.log_health import GuardedCommands
        from aura.cli.binding.next_job import PoolNext, claims_finder
        from aura.cli.binding.queries import ReadModels
        from aura.cli.binding.sessions import SWEEP_S as SESSIONS_S
        from aura.cli.binding.sessions import closer_of
        from aura.cli.keys import content_key
        from aura.domain.roles import RoleModels
        from aura.gateway.api.job_output import JobOutput
        from aura.gateway.context import GatewayContext
        from aura.gateway.limits import Limits
        from aura.gateway.live.fanout.fan import Fans
        from aura.gateway.live.fanout.hub import Hub
        from aura.gateway.metrics import Metrics
        from aura.gateway.server import GatewayService
        from aura.log.connection import RawSubscription
        from aura.log.output import OutputMessage
        from aura.log.output_jetstream import follow_output
        from aura.log.tickets import JetStreamTickets
        from aura.projections.queries import Queries

        at, clock, ids, settings = self._at, self._at.clock, self._at.ids, self._at.settings
        connection = await self._connection("gateway")
        side = command_side(at, connection, await content_key(settings, connection, clock, ids))
        self._parts.push_async_callback(side.store.close)
        queries = Queries(settings.require_database(), clock=clock)
        self._parts.push_async_callback(queries.stop)
        await queries.start()
        await self._compare_log(side, queries)
        commands = command_server(side, version())
        self._parts.push_async_callback(commands.stop)
        await commands.start()
        limits, metrics = Limits(), Metrics()
        fans = Fans(settings.io_uring)
        self._parts.callback(fans.close)
        hub = Hub(clock, limits, metrics, fans)
        side.health.on_lost(hub.lost)
        guarded_commands = GuardedCommands(side.service, side.health)
        tickets = JetStreamTickets(connection, clock, ids)
        access, observers = access_of(at, side.store, tickets, metrics, self._parts)

        async def follow(pattern: str, on_message: Callable[[OutputMessage], None]) -> RawSubscription:
            return await follow_output(connection, pattern, on_message)

        context = GatewayContext(
            settings=settings,
            clock=clock,
            ids=ids,
            commands=guarded_commands,
            store=side.store,
            content=side.content,
            output=JobOutput(side.output, side.content, side.service.jobs, follow),
            queries=ReadModels(queries, side.store),
            next_job=PoolNext(connection, clock, ids, guarded_commands, claims_finder(queries, lambda: hub.head)),
            explain=Explainer(queries, clock, RoleModels.configured(settings.role_models)),
            hub=hub,
            metrics=metrics,
            health=Heartbeats(connection),
            limits=limits,
            checks={"log_identity": side.health.ready, "commands": side.health.storing},
            version=version(),
            access=access,
        )
        await self._begin_chores(connection, side, queries)
        heads = side.service.jobs.heads

        def observe(batch: list[Recorded]) -> None:
            for recorded in batch:
                heads.observe(recorded)

        def tail(from_seq: int, on_batch: OnBatch, on_end: OnEnd) -> LogTail:
            def ended(error: AuraError) -> None:
                side.health.ended(error)
                on_end(error)

            return side.store.tail(from_seq, on_batch, ended)

        closer, sweep_sessions = closer_of(side, queries, ids)
        self._parts.push_async_callback(closer.stop)
        self._chore("end sessions", SESSIONS_S, sweep_sessions)
        return GatewayService(context, tail, observers=(observe, closer.observe, *observers))

    async def _begin_chores(self, connection: Connection, side: CommandSide, queries: Queries) -> None:
        """What a gateway does besides: finish purges, sweep content that no job has, look for a log that was accepted."""
        from aura.cli.binding.erasure import resumer, sweeper
        from aura.log.content_jetstream import JetStreamContentBackend
        from aura.log.content_sweep import Sweeper

        clock, ids, check = self._at.clock, self._at.ids, side.health.check
        self._chore("resume purges", PURGE_S, resumer(side.service.purger, side.store, queries, ids, check))
        backend = JetStreamContentBackend(connection, clock, ids)
        self._chore("sweep content", SWEEP_S, sweeper(Sweeper(side.content, backend, side.store, clock), check))
        epoch = (await side.store.identity()).epoch
        self._chore("watch for an accepted log", EPOCH_S, self._watcher(side.store, epoch))

    async def _compare_log(self, side: CommandSide, queries: Queries) -> None:
        """Before the first command where the read models answer, else as soon as they do."""
        from aura.cli.binding.log_health import compare

        try:
            await compare(side.store, queries, side.health)
        except Unavailable as error:
            log.warning("log.not_compared", detail=error.detail)
            self._chore("compare the log", None, lambda: compare(side.store, queries, side.health))


class Scheduler(_Composed):
    """``aura scheduler``."""

    async def _compose(self) -> Service:
        from aura.cli.binding.snapshot import ReadModelSnapshot
        from aura.commands.handler import JobHandler
        from aura.commands.models import ModelHandler
        from aura.domain.roles import RoleModels
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
        return SchedulerService(
            ports,
            roles=RoleModels.configured(settings.role_models),
            retention_s=retention_s,
            holder=holder,
        )


#: Less than the projector waits between two commits anyway.
GATHER_S = 0.002


class Projector(_Composed):
    """``aura projector``."""

    async def _compose(self) -> Service:
        from aura.cli.binding.announcements import Announcements
        from aura.log.health import HealthLog
        from aura.log.jetstream import JetStreamEventStore
        from aura.projections.service import ProjectorService

        clock, ids = self._at.clock, self._at.ids
        connection = await self._connection("projector", gather_s=GATHER_S)
        store = JetStreamEventStore(connection, clock, ids)
        self._parts.push_async_callback(store.close)
        return ProjectorService(
            store,
            self._at.settings.require_database(),
            clock=clock,
            health=HealthLog(connection, clock, ids),
            on_alert=Announcements(store, clock, ids).alert,
        )
