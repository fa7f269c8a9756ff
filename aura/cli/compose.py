"""The composition root: the only place that knows every package and binds their ports.

The services made of these pieces are in ``processes.py``; the tests and ``aura doctor`` use the pieces. Imports are local: each
process loads only what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Protocol

import structlog

from aura.clock import Clock, SystemClock
from aura.config import Settings
from aura.ids import IdSource, SystemIds

if TYPE_CHECKING:
    from aura.cli.binding.log_health import LogHealth
    from aura.commands.endpoints import CommandEndpoints
    from aura.commands.service import CommandService
    from aura.log.connection import Connection
    from aura.log.content import SealedContent
    from aura.log.jetstream import JetStreamEventStore
    from aura.log.output import SealedOutput
    from aura.log.rpc import RpcServer

log = structlog.get_logger("aura.cli")

SERVICE_NAME = "aura-commands"
#: How long a process waits for NATS at its start before it gives up (its supervisor starts it again).
CONNECT_S = 30.0


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
    health: LogHealth
    """Whether the log is still ours; whatever writes asks it first."""


def command_side(at: World, connection: Connection, kek: bytes) -> CommandSide:
    """Bind the command service to JetStream. ``kek``: of ``keys.content_key``."""
    from aura.cli.binding.log_health import LogHealth
    from aura.commands.endpoints import CommandEndpoints
    from aura.commands.service import CommandService, Policy, Ports
    from aura.domain.roles import RoleModels
    from aura.log.content_jetstream import jetstream_content
    from aura.log.health import CoreLeaseRenewals, HeartbeatPublisher
    from aura.log.jetstream import JetStreamEventStore
    from aura.log.output_jetstream import jetstream_output
    from aura.log.topology import Pools

    clock, ids, settings = at.clock, at.ids, at.settings
    store = JetStreamEventStore(connection, clock, ids)
    content = jetstream_content(connection, clock, ids, kek)
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
        roles=RoleModels.configured(settings.role_models),
        lease_ttl_s=float(settings.lease_ttl),
        retention_s=settings.retention_days * 86_400.0,
    )
    service = CommandService(ports, policy)
    endpoints = CommandEndpoints(service, service.ensure_pool, ids)
    health = LogHealth(clock)
    health.on_lost(lambda _reason: service.jobs.heads.clear())
    return CommandSide(connection, store, content, output, service, endpoints, health)


def command_server(side: CommandSide, version: str) -> RpcServer:
    """The command service as a NATS micro service: refuses everything when the log is lost, and what is the director's."""
    from aura.cli.binding.log_health import guarded
    from aura.commands.endpoints import ADMIN_SUBJECT, WORKER_SUBJECT
    from aura.log.rpc import Endpoint, RpcServer

    handle = guarded(side.endpoints.handle, side.health)
    endpoints = [Endpoint("worker", WORKER_SUBJECT, handle), Endpoint("admin", ADMIN_SUBJECT, handle)]
    return RpcServer(side.connection, SERVICE_NAME, version, endpoints, description="Aura's command service")


async def connected(at: World, component: str, *, gather_s: float = 0.0) -> Connection:
    """A connection as ``component``; ``gather_s`` as in :func:`aura.log.connection.connect`. Raises ``Unavailable``, ``ConfigError``."""
    from aura.log.connection import connect

    settings = at.settings
    creds = settings.creds_of(component)
    url = settings.require_nats()
    return await connect(url, creds, f"aura-{component}", connect_timeout_s=CONNECT_S, ids=at.ids, gather_s=gather_s)
