"""The gateway stands still for ten seconds, longer than anybody's patience but a client's, while the log goes on without it: every client
then sees every event once (G11), on the connection that it had."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from aura.clock import SystemClock, rfc3339
from aura.events import catalogue, envelope
from aura.ids import SystemIds
from aura.log.connection import connect
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append
from tests.support.live_clients import Client, JobClient, LogClient
from tests.support.live_history import read_log
from tests.support.system import System

pytestmark = pytest.mark.slow
PAUSE_S, EVENTS = 10.0, 2_000
#: Written all at once, so no more than an attempt lets collide.
RECORDS = 12
CLOCK, IDS = SystemClock(), SystemIds()


async def write(store: JetStreamEventStore, count: int) -> None:
    """Events straight into the log: the gateway takes no part."""
    for number in range(count):
        event_id = IDS.uuid7()
        stamp = envelope.Stamp(rfc3339(CLOCK.now()), "user:test", event_id, event_id)
        event = catalogue.SystemAccessDenied(denied_actor="test", action="test", target="x" * 1_000, count=number)
        body = envelope.seal(event, event_id=event_id, stamp=stamp, ids={})
        await store.append(Append("aura.system.access_denied", None, 0, event_id, body))


@pytest.mark.timeout(180)
async def test_a_gateway_that_was_stopped_for_ten_seconds_tells_everything_once_G11(tmp_path: Path) -> None:
    system = System(tmp_path / "data")
    await system.start()
    connection = await connect(
        system.runtime()["nats"]["url"], system.data / "credentials" / "gateway.creds", "test-writer"
    )
    store = JetStreamEventStore(connection, CLOCK, IDS)
    running: list[asyncio.Future[None]] = []
    try:
        async with httpx.AsyncClient(base_url=system.url, timeout=60, trust_env=False) as http:
            made = await http.post("/prds", json={"title": "T", "tasks": [{"payload": 1}]})
            job_id = made.json()["job_ids"][0]
            claimed = await http.post(f"/jobs/{job_id}/claim", json={"worker_id": "w", "lease_ttl_s": 3_600})
            assert claimed.status_code == 200, claimed.text
            until = [2**62]
            logs = [
                LogClient("ws", system.url, lambda last: last >= until[0], "ws"),
                LogClient("sse", system.url, lambda last: last >= until[0], "sse"),
                LogClient("native", system.url, lambda last: last >= until[0], "native"),
                LogClient("now", system.url, lambda last: last >= until[0], "ws", since=None),
            ]
            jobs = [
                JobClient(dialect, system.url, job_id, lambda one: one.count == RECORDS, dialect)
                for dialect in ("ws", "sse", "native")
            ]
            clients: list[Client] = [*logs, *jobs]
            running = [asyncio.ensure_future(client.run()) for client in clients]
            for client in clients:
                await client.connected.wait()
            await write(store, EVENTS // 4)
            gateway = system.pids()["gateway"]
            os.kill(gateway, signal.SIGSTOP)
            try:
                saying = [
                    asyncio.ensure_future(http.post(f"/jobs/{job_id}/stream", json={"chunk": f"{n}"}))
                    for n in range(RECORDS)
                ]
                await asyncio.gather(write(store, EVENTS // 2), asyncio.sleep(PAUSE_S))
            finally:
                os.kill(gateway, signal.SIGCONT)
            await write(store, EVENTS // 4)
            assert {answer.status_code for answer in await asyncio.gather(*saying)} == {200}
            until[0] = (await store.identity()).last_seq
            await write(store, 1)
            _, left = await asyncio.wait(running, timeout=60)
            assert not left, [(one.name, one.messages, one.connects, dict(one.closes)) for one in clients]
            await asyncio.gather(*running)
            stored = await read_log(store)
            assert [wrong for log in logs for wrong in log.wrongs + log.told.wrongs(stored, until[0])] == []
            for job in jobs:
                [records] = job.heard.records.values()
                assert [i for i, _ in records] == list(range(RECORDS))
                assert {text for _, text in records} == {hash(f"{n}") for n in range(RECORDS)}
            assert {one.connects for one in clients} == {1}
            assert system.pids()["gateway"] == gateway, "nobody took it for dead"
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await store.close()
        await connection.close()
        await system.stop()
