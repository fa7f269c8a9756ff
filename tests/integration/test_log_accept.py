"""The way out of ``LogRegression``: a log that really was lost, ``aura log accept --new-epoch``, and everything goes on (G5)."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import uuid
from pathlib import Path

import orjson
import pytest

from aura.clock import SystemClock
from aura.errors import LogRegression
from aura.log import topology
from aura.log.connection import Connection
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append
from aura.projections.service import ProjectorService
from aura.runtime.embedded_nats import EmbeddedNats
from aura.runtime.nats_accounts import NatsAccounts
from tests.integration.test_log_tail import Follower
from tests.support.log_streams import CLOCK, IDS, log_connection
from tests.support.read_models import owner, rows
from tests.support.servers import Database, NatsServer

GUARD_S = 60


def alert() -> Append:
    event_id = str(uuid.uuid4())
    body = {
        "id": event_id,
        "type": "system.alert_raised",
        "ts": "2026-01-01T00:00:00.000000Z",
        "v": 1,
        "actor": "system:test",
    }
    return Append("aura.system.alert_raised", None, 0, event_id, orjson.dumps(body))


async def aura(data: Path, url: str, *args: str, typed: str = "") -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aura", *args, "--data", str(data),
        env=kept | {"AURA_NATS_URL": url},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(GUARD_S):
        out, _ = await process.communicate(typed.encode())
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.fixture
def data(tmp_path: Path, nats_accounts: NatsAccounts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the keys of this run's servers."""
    folder = tmp_path / "data"
    keys = next(tmp_path_factory.getbasetemp().glob("nats-keys*")) / "keys.json"
    (folder / "nats").mkdir(parents=True, mode=0o700)
    shutil.copy(keys, folder / "nats" / "keys.json")
    return folder


async def projector(connection: Connection, database: Database) -> ProjectorService:
    service = ProjectorService(JetStreamEventStore(connection, CLOCK, IDS), database.owner_url, clock=SystemClock())
    async with asyncio.timeout(GUARD_S):
        await service.start()
    return service


async def recreated(server: NatsServer, events: int) -> Connection:
    """The log deleted and made again, as after a loss, with so many events."""
    connection = await log_connection(server)
    await connection.request("$JS.API.STREAM.DELETE.AURA_LOG", b"", timeout=10)
    await topology.ensure(connection, CLOCK, IDS)
    store = JetStreamEventStore(connection, CLOCK, IDS)
    for _ in range(events):
        await store.append(alert())
    return connection


async def truncated(server: NatsServer, tmp_path: Path) -> Connection:
    """An older copy of the server's store put back: same epoch, fewer events."""
    folder = server.process._folder  # type: ignore[attr-defined]
    await server.kill()
    shutil.rmtree(folder / "store")
    shutil.copytree(tmp_path / "copy", folder / "store")
    await server.start()
    return await log_connection(server)


@pytest.mark.parametrize("loss", ["re-created", "older copy"])
async def test_g5_accepting_a_lost_log_lets_everything_go_on(
    streams: NatsServer, database: Database, data: Path, tmp_path: Path, loss: str
) -> None:
    if loss == "older copy" and not isinstance(streams.process, EmbeddedNats):
        pytest.skip("needs the server's store folder")
    connection = await log_connection(streams)
    store = JetStreamEventStore(connection, CLOCK, IDS)
    for _ in range(3):
        await store.append(alert())
    if loss == "older copy":
        await connection.close()
        await streams.kill()
        shutil.copytree(streams.process._folder / "store", tmp_path / "copy")  # type: ignore[attr-defined]
        await streams.start()
        connection = await log_connection(streams)
        store = JetStreamEventStore(connection, CLOCK, IDS)
    for _ in range(7):
        await store.append(alert())
    service = await projector(connection, database)
    async with asyncio.timeout(GUARD_S):
        await service.log.reached(10)
    await service.stop()
    await connection.close()
    connection = await (recreated(streams, 3) if loss == "re-created" else truncated(streams, tmp_path))

    service = await projector(connection, database)
    assert service.status["log"]["status"] == "regressed"
    await service.stop()
    code, said = await aura(data, streams.url, "log", "accept", "--new-epoch", typed="no\n")
    assert code == 130, said
    service = await projector(connection, database)
    assert service.status["log"]["status"] == "regressed"  # nothing was accepted
    await service.stop()
    store = JetStreamEventStore(connection, CLOCK, IDS)
    follower = Follower(store)
    await follower.tail.start()
    code, said = await aura(data, streams.url, "log", "accept", "--new-epoch", typed="accept\n")
    assert code == 0, said
    assert isinstance(await follower.until_ended(), LogRegression)  # noticed by its own check, without a reconnect
    identity = await store.identity()
    assert identity.accepted
    assert identity.epoch in said

    service = await projector(connection, database)
    await store.append(alert())
    async with asyncio.timeout(GUARD_S):
        await service.log.reached(4)
    assert service.status["log"]["status"] == "leading"
    direct = await owner(database.owner_url)
    found = await rows(direct, "SELECT DISTINCT epoch, seq FROM read.checkpoints WHERE name <> 'health'")
    assert found == [{"epoch": identity.epoch, "seq": 4}]
    assert await rows(direct, "SELECT count(*) AS n FROM read.timeline") == [{"n": 4}]
    await direct.close()

    code, said = await aura(data, streams.url, "log", "accept", "--new-epoch", "--yes")
    assert code == 0, said
    async with asyncio.timeout(GUARD_S):  # a leading projector starts over by itself
        while (await store.identity()).epoch != service.log._identity.epoch:  # type: ignore[union-attr]
            await service.log.wait_for("starting")
            await service.log.wait_for("leading")
    await service.stop()
    await follower.tail.stop()
    await connection.close()


async def test_no_component_may_accept(streams: NatsServer) -> None:
    for user in ("gateway", "scheduler", "projector", "admin"):
        connection = await log_connection(streams, user)
        refused = asyncio.Event()

        async def note(error: Exception, refused: asyncio.Event = refused) -> None:
            if "permissions violation" in str(error):
                refused.set()

        connection._error_cb = note
        await connection.publish("$JS.API.STREAM.UPDATE.AURA_LOG", b"{}")
        async with asyncio.timeout(GUARD_S):
            await refused.wait()
        await connection.close()
