"""Leadership on a real server: one leader, a rising term, takeover after release and after death (G9, G10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aura.clock import SystemClock
from aura.log.connection import Connection, connect
from aura.log.lease import Lease
from tests.support.log_streams import CLOCK, IDS, empty_log, log_connection
from tests.support.proxy import Proxy
from tests.support.servers import NatsServer

TTL_S = 1.0


@pytest.fixture
async def connection(fresh_nats: NatsServer) -> AsyncIterator[Connection]:
    async with empty_log(fresh_nats) as made:
        yield made


@pytest.fixture
async def scheduler(connection: Connection, fresh_nats: NatsServer) -> AsyncIterator[Connection]:
    """With the scheduler's own permissions."""
    made = await log_connection(fresh_nats, "scheduler")
    yield made
    await made.close()


async def test_one_of_many_candidates_leads(scheduler: Connection) -> None:
    leases = [Lease(scheduler, CLOCK, IDS, "scheduler", f"s{n}", ttl_s=TTL_S) for n in range(5)]
    await asyncio.gather(*(lease.start() for lease in leases))
    assert [lease.leading for lease in leases].count(True) == 1
    leader = next(lease for lease in leases if lease.leading)
    assert leader.term == 1
    for lease in leases:
        await lease.stop()


async def test_release_hands_over_at_once_and_the_term_rises(scheduler: Connection) -> None:
    first = Lease(scheduler, CLOCK, IDS, "scheduler", "first", ttl_s=60)
    second = Lease(scheduler, CLOCK, IDS, "scheduler", "second", ttl_s=60)
    await first.start()
    await second.start()
    assert first.leading
    assert not second.leading
    assert second.holder == "first"
    await first.stop()
    async with asyncio.timeout(10):  # far less than the lease's minute
        assert await second.wait_leading() == 2
    assert not first.leading
    await first.stop()
    await second.stop()


async def test_roles_do_not_disturb_each_other(scheduler: Connection) -> None:
    one = Lease(scheduler, CLOCK, IDS, "scheduler.a", "x", ttl_s=TTL_S)
    two = Lease(scheduler, CLOCK, IDS, "scheduler.b", "y", ttl_s=TTL_S)
    await one.start()
    await two.start()
    assert one.leading
    assert two.leading
    await one.stop()
    await two.stop()


async def test_g9_a_leader_cut_off_stops_believing_before_the_standby_starts(
    fresh_nats: NatsServer, scheduler: Connection
) -> None:
    """The old leader hears nothing any more (partition); it must not think that it leads when the standby takes over."""
    async with Proxy(fresh_nats.url) as proxy:
        isolated = await connect(proxy.url, fresh_nats.creds("scheduler"), "isolated", connect_timeout_s=20)
        leader = Lease(isolated, CLOCK, IDS, "scheduler", "leader", ttl_s=TTL_S)
        standby = Lease(scheduler, CLOCK, IDS, "scheduler", "standby", ttl_s=TTL_S)
        await leader.start()
        await standby.start()
        assert leader.leading
        proxy.deaf = True
        async with asyncio.timeout(30):
            await leader.wait_lost()
            await standby.wait_leading()
        assert not leader.leading
        assert standby.term == 2
        proxy.cut()
        async with asyncio.timeout(30):
            while leader.holder != "standby":
                await leader.wait_change()
        assert not leader.leading
        await leader.stop()
        await standby.stop()
        await isolated.close()


async def test_g10_a_leader_whose_process_was_paused_finds_out_by_the_clock(scheduler: Connection) -> None:
    class PausableClock(SystemClock):
        ahead_s = 0.0

        def monotonic_s(self) -> float:
            return super().monotonic_s() + self.ahead_s

    clock = PausableClock()
    lease = Lease(scheduler, clock, IDS, "scheduler", "paused", ttl_s=TTL_S)
    await lease.start()
    assert lease.leading
    clock.ahead_s = 10.0
    assert not lease.leading, "no await since: the flag alone would still say yes"
    async with asyncio.timeout(20):
        assert await lease.wait_leading() == 2, "regained only with a new term"
    await lease.stop()


async def test_the_lease_survives_a_restart_of_the_server(fresh_nats: NatsServer, scheduler: Connection) -> None:
    lease = Lease(scheduler, CLOCK, IDS, "scheduler", "s", ttl_s=TTL_S)
    await lease.start()
    await fresh_nats.kill()
    await fresh_nats.start()
    async with asyncio.timeout(30):
        await lease.wait_leading()
    await lease.stop()
