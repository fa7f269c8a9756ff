"""A scheduler process for tests that stop, continue and kill one: ``python -m tests.support.scheduler_process URL CREDS HOLDER``."""

from __future__ import annotations

import asyncio
import signal
import sys

from aura.clock import SystemClock
from aura.commands.handler import JobHandler
from aura.commands.models import ModelHandler
from aura.ids import SystemIds
from aura.log.connection import Connection, connect
from aura.log.jetstream import JetStreamEventStore
from aura.log.lease import Lease
from aura.log.topology import Pools
from aura.scheduler.feeds import NatsHealthFeed, NatsRenewalsFeed
from aura.scheduler.service import SchedulerPorts, SchedulerService
from aura.scheduler.snapshot import FoldedSnapshot
from tests.support.scheduling import RETENTION_S, ROLES


def scheduler_on(connection: Connection, holder: str) -> SchedulerService:
    """The real service on a real server, started from the log itself."""
    clock, ids = SystemClock(), SystemIds()
    store = JetStreamEventStore(connection, clock, ids)
    ports = SchedulerPorts(
        store=store,
        jobs=JobHandler(store, clock, ids),
        models=ModelHandler(store, clock, ids),
        lease=Lease(connection, clock, ids, "scheduler", holder),
        snapshot=FoldedSnapshot(store),
        health=NatsHealthFeed(connection, clock, ids),
        renewals=NatsRenewalsFeed(connection),
        ensure_pool=Pools(connection, clock, ids).ensure,
        clock=clock,
        ids=ids,
    )
    return SchedulerService(ports, roles=ROLES, retention_s=RETENTION_S, holder=holder)


async def main(url: str, creds: str, holder: str) -> None:
    connection = await connect(url, creds, holder, connect_timeout_s=20)
    service = scheduler_on(connection, holder)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await service.start()
    print("following", flush=True)
    await stopping.wait()
    await service.stop()
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
