"""The projector on a real nats-server: the log and the heartbeats, with nats killed in the middle (G3, G4)."""

from __future__ import annotations

import asyncio

from aura.clock import SystemClock
from aura.ids import SystemIds
from aura.log.health import HealthLog, HeartbeatPublisher
from aura.log.jetstream import JetStreamEventStore
from aura.projections.catalog import FROM_LOG
from aura.projections.decoding import decode
from aura.projections.service import ProjectorService
from aura.projections.verify import verify, verify_states
from tests.support.job_log import JobLog
from tests.support.log_streams import empty_log
from tests.support.read_models import owner, rows
from tests.support.servers import Database, NatsServer

GUARD_S = 60


async def test_g4_kill_9_of_nats_loses_and_doubles_nothing(fresh_nats: NatsServer, database: Database) -> None:
    async with empty_log(fresh_nats) as connection:
        store = JetStreamEventStore(connection, SystemClock(), SystemIds())
        beats = HealthLog(connection, SystemClock(), SystemIds())
        log = JobLog(store, seed=12)
        service = ProjectorService(store, database.owner_url, clock=SystemClock(), health=beats)
        async with asyncio.timeout(GUARD_S):
            await service.start()
            await log.wander(40)
            await service.log.reached(log.seq)
            await fresh_nats.kill()
            await fresh_nats.start()
            await log.wander(40)
            await service.log.reached(log.seq)
            report = {"ts": "2026-01-01T00:00:00.000000Z", "payload": {"status": "ok"}, "slots": 1, "interval_s": 5}
            await HeartbeatPublisher(connection).report("m1", "w1", report)
            assert service.health is not None
            await service.health.reached(1)
        for projection in FROM_LOG.projections:
            checked = await verify(projection, store, database.owner_url, decode=decode)
            assert (checked.differences, checked.seq) == (0, log.seq)
        assert (await verify_states(store)).mismatches == 0
        reader = await owner(database.owner_url)
        assert await rows(reader, "SELECT model, worker FROM read.workers") == [{"model": "m1", "worker": "w1"}]
        await reader.close()
        await service.stop()
        await store.close()
