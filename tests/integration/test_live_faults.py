"""The live feeds on real servers, interrupted (G11): clients that break off anywhere, subscribe anywhere around the splice, and a
nats-server that is killed under them. Each client's history must equal the log's, without a gap, a duplicate or another order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest_asyncio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from aura.clock import SystemClock, rfc3339
from aura.ids import SystemIds
from aura.log.connection import connect as nats_connect
from aura.log.output import OutputWriter
from aura.log.output_jetstream import JetStreamOutputBackend
from tests.support.live import Live, frames, live
from tests.support.servers import Database, NatsServer

STREAMS, RECORDS, DISCONNECTS = 100, 60, 1_000
#: What one viewer gets: created, claimed, the records, completed.
MESSAGES = RECORDS + 3
SEED = 20_261_122


@pytest_asyncio.fixture
async def gateway(streams: NatsServer, read_models: Database, tmp_path: Path) -> AsyncIterator[Live]:
    async with live(streams, read_models, tmp_path / "data") as made:
        yield made


# ---------------------------------------------------------------- 1,000 disconnects


class Viewer:
    """Watches one job with a cursor of its own and breaks off after so many messages as chance chose, ten times."""

    def __init__(self, gateway: Live, job_id: str, luck: random.Random) -> None:
        self._gateway, self._job_id = gateway, job_id
        self._cuts = set(luck.sample(range(1, MESSAGES), DISCONNECTS // STREAMS))
        self.events: list[str] = []
        self.records: list[tuple[int, str]] = []
        self.disconnects = 0
        self._position = (0, 0, -1)

    async def run(self) -> None:
        while not await self._once():
            self.disconnects += 1

    async def _once(self) -> bool:
        since, cursor, after = self._position
        async with self._gateway.ws(f"/ws/job/{self._job_id}?since={since}&from={cursor}&after={after}") as socket:
            async for message in socket:
                if self._take(orjson.loads(message)):
                    return True
                if len(self.events) + len(self.records) in self._cuts:
                    socket.transport.abort()
                    return False
        raise AssertionError("the gateway closed a job's feed")

    def _take(self, message: dict[str, Any]) -> bool:
        since, cursor, after = self._position
        if "i" in message:
            self.records.append((message["i"], message["chunk"]))
            self._position = (since, message["cursor"], message["i"])
        else:
            self.events.append(message["type"])
            self._position = (message["seq"], cursor, after)
        return message.get("type") == "job.completed"


async def test_a_thousand_random_disconnects_over_a_hundred_token_streams_G11(gateway: Live) -> None:
    luck = random.Random(SEED)
    ids, clock = SystemIds(), SystemClock()
    jobs = await gateway.submit(STREAMS)
    connection = await nats_connect(gateway.server.url, gateway.server.creds("gateway"), "test-writer")

    async def write(job_id: str) -> None:
        answer = await gateway.http.post(f"/jobs/{job_id}/claim", json={"worker_id": "w"})
        assert answer.status_code == 200, answer.text
        key = await gateway.ctx.content.data_key(1, job_id)
        assert key is not None
        writer = OutputWriter(JetStreamOutputBackend(connection, clock, ids), ids, 1, job_id, 1, key)
        written = 0
        while written < RECORDS:
            count = min(luck.randint(1, 4), RECORDS - written)
            chunks = [
                {"ts": rfc3339(clock.now()), "chunk": f"{job_id}:{written + n}", "final": False} for n in range(count)
            ]
            await writer.write("stream", chunks)
            written += count
        await gateway.http.post(f"/jobs/{job_id}/complete", json={"success": True})

    viewers = [Viewer(gateway, job_id, luck) for job_id in jobs]
    async with asyncio.timeout(100):
        await asyncio.gather(*(viewer.run() for viewer in viewers), *(write(job_id) for job_id in jobs))
    await connection.close()
    for viewer, job_id in zip(viewers, jobs, strict=True):
        assert viewer.records == [(i, f"{job_id}:{i}") for i in range(RECORDS)]
        assert viewer.events == ["job.created", "job.claimed", "job.completed"]
    assert sum(viewer.disconnects for viewer in viewers) == DISCONNECTS


# ---------------------------------------------------------------- the splice


async def test_subscribing_at_random_points_around_the_splice_G11(gateway: Live) -> None:
    luck = random.Random(SEED)
    await gateway.submit(500)
    last: list[int] = []

    async def append() -> None:
        for _ in range(40):
            await gateway.submit(luck.randint(1, 60))
        last.append((await gateway.ctx.store.identity()).last_seq + 1)
        await gateway.submit(1)

    async def follow(number: int) -> list[int]:
        await gateway.ctx.hub.caught_up(500 + number * 5)
        start = luck.randint(1, gateway.ctx.hub.head)
        got: list[int] = []
        async with gateway.native() as socket:
            ops = [
                {"op": "subscribe", "id": "a", "subject": "aura.job.>", "from": {"seq": start}},
                {"op": "subscribe", "id": "b", "subject": "aura.*.1.>", "from": {"seq": start}},
            ]
            await socket.send(orjson.dumps(ops).decode())
            async for frame in frames(socket):
                if "op" not in frame:
                    got.append(frame["seq"])
                    if last and frame["seq"] == last[0]:
                        break
        assert got[0] == start
        return got

    async with asyncio.timeout(60):
        _, *histories = await asyncio.gather(append(), *(follow(number) for number in range(60)))
    for got in histories:
        assert got is not None
        assert got == list(range(got[0], last[0] + 1))


# ---------------------------------------------------------------- nats-server killed


async def test_nats_killed_and_restarted_under_connected_clients_G11(gateway: Live) -> None:
    async def follow(path: str) -> list[int]:
        got: list[int] = []
        async with gateway.ws(path) as socket:
            joined.release()
            async for message in socket:
                seq = orjson.loads(message).get("seq")
                if seq is not None:
                    got.append(seq)
                if seq == 300:
                    return got
        raise AssertionError("the gateway closed a feed")

    joined = asyncio.Semaphore(0)
    following = [
        asyncio.ensure_future(follow(path)) for path in ["/ws/events"] * 5 + ["/ws/events?subject=aura.job.>"] * 5
    ]
    for _ in following:
        await joined.acquire()
    async with asyncio.timeout(60):
        while sum(len(group.members) for group in gateway.ctx.hub._groups.values()) < len(following):
            await asyncio.sleep(0.01)
        for round_ in range(3):
            await gateway.submit(80)
            await gateway.server.kill()
            pending = asyncio.ensure_future(gateway.submit_surely(20, f"round-{round_}"))
            await gateway.server.start()
            await pending
        for got in await asyncio.gather(*following):
            assert got == list(range(1, 301))
    assert len(await gateway.log()) == 300


async def test_a_log_made_anew_resets_everybody_explicitly_G5(gateway: Live) -> None:
    await gateway.submit(3)
    async with gateway.native() as native, gateway.ws("/ws/events") as plain:
        await native.send('{"op":"subscribe","id":"s","subject":"aura.>","from":{"seq":1}}')
        root = await gateway.server.connect("root")
        await root.jetstream().delete_stream("AURA_LOG")
        admin = await nats_connect(gateway.server.url, gateway.server.creds("admin"), "admin")
        from aura.log import topology

        await topology.ensure(admin, SystemClock(), SystemIds())
        await admin.close()
        async with asyncio.timeout(20):
            told = [frame async for frame in _until_closed(native)]
            assert told[-1]["op"] == "reset"
            assert [frame["type"] async for frame in _until_closed(plain)][-1] == "reset"
        assert native.close_code == plain.close_code == 1001


async def _until_closed(socket: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    try:
        async for frame in frames(socket):
            yield frame
    except ConnectionClosed:
        pass
