"""Live clients of every dialect while the log behind the gateway goes away and comes back, or says nothing of what it stored: what each
one is told stays the log, complete and in order (G11)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest_asyncio

from aura.clock import SystemClock, rfc3339
from aura.ids import SystemIds
from aura.log.connection import connect
from aura.log.jetstream import JetStreamEventStore
from aura.log.output import OutputWriter
from aura.log.output_jetstream import JetStreamOutputBackend
from aura.log.store import Append
from tests.support.live import Live, live
from tests.support.live_clients import Client, JobClient, LogClient
from tests.support.live_history import read_log
from tests.support.proxy import Proxy
from tests.support.servers import Database, NatsServer

SEED = 20_261_122


@pytest_asyncio.fixture
async def gateway(streams: NatsServer, read_models: Database, tmp_path: Path) -> AsyncIterator[Live]:
    async with live(streams, read_models, tmp_path / "data") as made:
        yield made


class Audience:
    """Clients of every dialect on one log and one job of it, which will say ``count`` records."""

    def __init__(self, gateway: Live, job_id: str, count: int) -> None:
        self._gateway, self._job_id = gateway, job_id
        self._until = 2**62
        self.records: list[str] = []
        url = gateway.service.url

        def told(last: int) -> bool:
            return last >= self._until

        def heard(client: JobClient) -> bool:
            return client.count >= count

        some = ("aura.job.>", "aura.system.>", "aura.job.1.>")
        self.logs = [
            LogClient("ws", url, told, "ws"),
            LogClient("sse", url, told, "sse"),
            LogClient("native", url, told, "native"),
            LogClient("native, overlapping", url, told, "native", patterns=some),
            LogClient("ws, filtered", url, told, "ws", patterns=["aura.job.>"]),
        ]
        self.jobs = [JobClient(f"job {dialect}", url, job_id, heard, dialect) for dialect in ("ws", "sse", "native")]
        self.clients: list[Client] = [*self.logs, *self.jobs]
        self._running: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        self._running = [asyncio.ensure_future(client.run()) for client in self.clients]
        async with asyncio.timeout(20):
            for client in self.clients:
                await client.connected.wait()

    async def say(self, chunk: str) -> None:
        """One record, over HTTP."""
        await self._gateway.say(self._job_id, chunk)
        self.records.append(chunk)

    async def finish(self) -> None:
        """Wait until everybody has everything, then check what they were told. The last event is one of a job."""
        self._until = (await self._gateway.ctx.store.identity()).last_seq
        await self._gateway.submit_surely(1, "the end")
        _, waiting = await asyncio.wait(self._running, timeout=40)
        assert not waiting, [(c.name, c.messages, c.connects, dict(c.closes)) for c in self.clients]
        await asyncio.gather(*self._running)
        stored = await read_log(self._gateway.ctx.store)
        for log in self.logs:
            assert log.wrongs + log.told.wrongs(stored, self._until) == []
        said = {(self._job_id, 1): self.records}
        for job in self.jobs:
            assert job.wrongs + job.heard.wrongs(said, said) == []

    async def stop(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


@asynccontextmanager
async def audience(gateway: Live, count: int) -> AsyncIterator[tuple[Audience, str]]:
    [job_id] = await gateway.submit(1)
    answer = await gateway.http.post(f"/jobs/{job_id}/claim", json={"worker_id": "w", "lease_ttl_s": 3_600})
    assert answer.status_code == 200, answer.text
    made = Audience(gateway, job_id, count)
    await made.start()
    try:
        yield made, job_id
        await made.finish()
    finally:
        await made.stop()


async def test_nats_killed_and_restarted_under_clients_of_every_dialect_G11(gateway: Live) -> None:
    rounds, each = 4, 10
    async with audience(gateway, rounds * each) as (clients, _):
        for round_ in range(rounds):
            await gateway.submit(20)
            for n in range(each // 2):
                await clients.say(f"{round_}:{n}")
            await gateway.server.kill()
            events = asyncio.ensure_future(gateway.submit_surely(20, f"round-{round_}"))
            for n in range(each // 2, each):
                saying = asyncio.ensure_future(clients.say(f"{round_}:{n}"))
                if n == each // 2:
                    await gateway.server.start()
                await saying
            await events


async def test_a_connection_to_the_log_that_drops_at_random_leaves_no_silent_hole_G11(
    streams: NatsServer, read_models: Database, tmp_path: Path
) -> None:
    """The writer has a connection of its own, so what it writes while the gateway has none is told to nobody: the gateway must look. The
    very last things are written while it is cut off, and nothing follows them."""
    luck, clock, ids = random.Random(SEED), SystemClock(), SystemIds()
    events, records = 600, 200
    async with (
        Proxy(streams.url) as proxy,
        live(streams, read_models, tmp_path / "data", proxy.url) as gateway,
        audience(gateway, records) as (clients, job_id),
    ):
        key = await gateway.ctx.content.data_key(1, job_id)
        assert key is not None
        connection = await connect(streams.url, streams.creds("gateway"), "test-writer")
        store = JetStreamEventStore(connection, clock, ids)
        writer = OutputWriter(JetStreamOutputBackend(connection, clock, ids), ids, 1, job_id, 1, key)

        async def write() -> None:
            said = 0
            for n in range(events):
                event_id = ids.uuid7()
                body = {
                    "id": event_id,
                    "type": "system.access_denied",
                    "v": 1,
                    "ts": rfc3339(clock.now()),
                    "count": n,
                }
                await store.append(Append("aura.system.access_denied", None, 0, event_id, orjson.dumps(body)))
                if n * records >= said * events:
                    text = f"{said} " + "x" * luck.randint(0, 2_000)
                    await writer.write("stream", [{"ts": rfc3339(clock.now()), "chunk": text, "final": False}])
                    clients.records.append(text)
                    said += 1
                if n == events - 5:
                    proxy.deaf = True

        async def cut() -> int:
            cuts = 0
            while not writing.done():
                proxy.deaf = proxy.deaf or luck.random() < 0.5
                await asyncio.sleep(luck.uniform(0.005, 0.15))
                proxy.cut()
                cuts += 1
                await asyncio.sleep(luck.uniform(0.05, 0.3))
            proxy.cut()
            return cuts

        writing = asyncio.ensure_future(write())
        cuts = await cut()
        await writing
        await store.close()
        await connection.close()
        assert cuts >= 3
        assert len(clients.records) == records


async def test_what_the_log_never_pushed_is_found_and_delivered_in_order_G11(gateway: Live) -> None:
    """First every third message is lost, then every one: of the last events nothing tells but the comparison each second."""
    luck = random.Random(SEED)
    async with audience(gateway, 10) as (clients, _):
        gateway.lose("tail", lambda: luck.random() > 0.3)
        for _ in range(10):
            await gateway.submit(20)
        gateway.lose("tail", lambda: False)
        await gateway.submit(20)
        for n in range(10):
            await clients.say(f"{n}")


async def test_the_last_output_of_a_quiet_job_is_found_when_its_push_was_lost_G11(gateway: Live) -> None:
    """Later output shows by its number that something is missing; of the last record nothing tells but the comparison."""
    luck = random.Random(SEED)
    async with audience(gateway, 30) as (clients, _):
        gateway.lose("output", lambda: luck.random() > 0.3)
        for n in range(20):
            await clients.say(f"{n}")
        gateway.lose("output", lambda: False)
        for n in range(20, 30):
            await clients.say(f"{n}")
