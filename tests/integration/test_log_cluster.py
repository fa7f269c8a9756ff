"""Three copies of each stream on a cluster, one on a server alone, whatever was asked for when something was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from aura.config import load
from aura.errors import ConfigError
from aura.log import topology
from aura.log.connection import connect
from aura.runtime.embedded_nats import EmbeddedNats
from aura.runtime.nats_accounts import NatsAccounts
from aura.runtime.ports import choose
from tests.support import servers
from tests.support.log_streams import CLOCK, IDS, log_connection
from tests.support.servers import NatsServer

SIZE = 3


class Member(EmbeddedNats):
    """One server of a cluster of ``SIZE``."""

    def __init__(self, folder: Path, auth: str, number: int, routes: list[int]) -> None:
        super().__init__(folder, auth, folder / "nats.log")
        self._number = number
        self._routes = routes

    def _config(self) -> str:
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes)
        own = f'cluster {{ name: trio, listen: "127.0.0.1:{self._routes[self._number]}", routes: [{routes}] }}\n'
        return super()._config().replace("server_name: aura\n", f"server_name: n{self._number}\n{own}")

    async def kill(self) -> None:
        await self.stop()


@pytest.fixture
async def cluster(backend: str, nats_accounts: NatsAccounts, tmp_path: Path) -> AsyncIterator[NatsServer]:
    if backend != "embedded":
        pytest.skip("a cluster of our own servers")
    routes = choose(SIZE, [None] * SIZE)
    members = [Member(tmp_path / f"n{n}", nats_accounts.server_config(), n, routes) for n in range(SIZE)]
    await asyncio.gather(*(member.start() for member in members))
    yield servers.NatsServer(members[0], nats_accounts, tmp_path / "creds")
    await asyncio.gather(*(member.stop() for member in members))


async def test_a_cluster_gets_three_copies(cluster: NatsServer) -> None:
    admin = await connect(cluster.url, cluster.creds("admin"), "test", connect_timeout_s=30)
    assert admin.clustered
    copies = topology.replicas(admin, None)
    assert copies == 3
    report = await topology.ensure(admin, CLOCK, IDS, replicas=copies)
    assert (len(report.created), report.drift) == (6, [])
    reply = await admin.request("$JS.API.STREAM.INFO.AURA_LOG", b"", timeout=10)
    assert orjson.loads(reply.data)["config"]["num_replicas"] == 3
    assert (await topology.inspect(admin, CLOCK, IDS, replicas=topology.replicas(admin, None))).drift == []
    found = await topology.inspect(admin, CLOCK, IDS, replicas=topology.replicas(admin, 1))
    assert {drift.setting for drift in found.drift} >= {"num_replicas"}
    await admin.close()


async def test_a_server_alone_gets_one(fresh_nats: NatsServer) -> None:
    admin = await log_connection(fresh_nats, "admin")
    assert not admin.clustered
    assert (topology.replicas(admin, None), topology.replicas(admin, 5)) == (1, 5)
    await admin.close()


def test_the_setting() -> None:
    assert load(env={}).replicas is None
    assert load(env={"AURA_REPLICAS": "3"}).replicas == 3
    with pytest.raises(ConfigError, match="AURA_REPLICAS"):
        load(env={"AURA_REPLICAS": "6"})
