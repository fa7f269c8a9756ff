"""The gateway as ``aura gateway`` composes it, on real servers: ``next`` with keys, explain, as-of, and a log that is not ours (G2, G5)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import psycopg
import pytest

from aura.cli import compose, processes
from aura.clock import SystemClock
from aura.commands.handler import Caller, JobHandler
from aura.commands.sessions import SessionHandler
from aura.config import Settings
from aura.domain.job_commands import CancelJob
from aura.domain.session import StartSession
from aura.ids import SystemIds
from aura.log import topology
from aura.log.connection import connect
from aura.log.jetstream import JetStreamEventStore
from aura.log.rpc import RpcClient
from tests.support.servers import Database, NatsServer

DIRECTOR_KEY = "correct horse battery staple"
POOL = "m"


class System:
    """A projector and any number of gateways on one log and one database."""

    def __init__(self, server: NatsServer, database: Database, folder: Path) -> None:
        self.server = server
        self.database = database
        self._folder = folder

    def settings(self, component: str, url: str) -> Settings:
        return dataclasses.replace(
            Settings(),
            nats_url=self.server.url,
            nats_creds=self.server.creds(component),
            database_url=url,
            data_dir=self._folder,
            host="127.0.0.1",
            port=0,
            director_api_key=DIRECTOR_KEY,
        )

    @asynccontextmanager
    async def projector(self) -> AsyncIterator[processes.Projector]:
        made = processes.Projector(compose.world(self.settings("projector", self.database.owner_url)))
        await made.start()
        try:
            yield made
        finally:
            await made.stop()

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[httpx.AsyncClient]:
        made = processes.Gateway(compose.world(self.settings("gateway", self.database.reader_url)))
        await made.start()
        try:
            async with httpx.AsyncClient(base_url=made._main.url, trust_env=False, timeout=20) as http:  # type: ignore[union-attr]
                yield http
        finally:
            await made.stop()


@pytest.fixture
def system(streams: NatsServer, read_models: Database, tmp_path: Path) -> System:
    return System(streams, read_models, tmp_path / "data")


async def _submit(http: httpx.AsyncClient, count: int = 1, **task: Any) -> list[str]:
    answer = await http.post("/prds", json={"title": "T", "tasks": [{"payload": n, **task} for n in range(count)]})
    assert answer.status_code == 201, answer.text
    ids: list[str] = answer.json()["job_ids"]
    return ids


async def _assigned(http: httpx.AsyncClient, count: int) -> list[str]:
    ids = await _submit(http, count)
    for job_id in ids:
        answer = await http.post(f"/jobs/{job_id}/assign", json=POOL)
        assert answer.status_code == 200, answer.text
    return ids


async def _next(http: httpx.AsyncClient, key: str | None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return await http.post(f"/models/{POOL}/next", json={"worker_id": "w", "wait_s": 5, **body}, headers=headers)


async def test_next_with_a_key_is_answered_again_with_the_same_claim_G2(system: System) -> None:
    async with system.projector(), system.gateway() as http:
        ids = await _assigned(http, 3)
        first = (await _next(http, "k1")).json()
        assert first["job_id"] in ids
        together = await asyncio.gather(*(_next(http, "k1") for _ in range(3)))
        assert [answer.json() for answer in together] == [first] * 3
        other = await _next(http, "k1", worker_id="w2")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        second = (await _next(http, "k2")).json()
        assert second["job_id"] != first["job_id"]
        async with system.gateway() as elsewhere:
            assert (await _next(elsewhere, "k1")).json() == first, "another gateway, or this one after a restart"
            reused = await _next(elsewhere, "k1", lease_ttl_s=60)
            assert reused.status_code == 422
        await http.post(f"/jobs/{first['job_id']}/complete", json={"success": True, "attempt": 1})
        assert (await _next(http, "k1")).json() == first
        claimed = [event for event in (await http.get("/events?limit=1000")).json() if event["type"] == "job.claimed"]
        assert len(claimed) == 2
        third = (await _next(http, None)).json()
        empty = await _next(http, "k3", wait_s=0)
        assert empty.status_code == 204
        await http.post(f"/jobs/{third['job_id']}/release", json={"attempt": 1})
        await http.post(f"/jobs/{third['job_id']}/assign", json=POOL)
        assert (await _next(http, "k3")).json()["attempt"] == 2, "204 leaves nothing to repeat"


async def test_a_key_whose_claim_was_given_back_claims_anew(system: System) -> None:
    """The caller hung up, the gateway released, the caller repeats: not the answer of an attempt that is over."""
    async with system.projector(), system.gateway() as http:
        [job_id] = await _assigned(http, 1)
        first = (await _next(http, "k1")).json()
        await http.post(f"/jobs/{job_id}/release", json={"attempt": 1})
        await http.post(f"/jobs/{job_id}/assign", json=POOL)
        async with system.gateway() as elsewhere:  # one that remembers nothing
            again = (await _next(elsewhere, "k1")).json()
            assert (first["attempt"], again["attempt"], again["job_id"]) == (1, 2, job_id)
            assert (await _next(elsewhere, "k1")).json() == again


async def test_explain_names_the_holder_of_a_concurrency_key_and_why_a_job_ended(system: System) -> None:
    async with system.projector(), system.gateway() as http:
        first, second, free = await _submit(http, 3, max_attempts=1)
        keyed = await _submit(http, 2, concurrency_key="k")
        claimed = await http.post(f"/jobs/{keyed[0]}/claim", json="w")
        assert claimed.status_code == 200
        # The holder is another job: explaining this one does not wait for it.
        assert (await http.get(f"/jobs/{keyed[0]}?min_seq={claimed.json()['seq']}")).status_code == 200
        answer = (await http.get(f"/jobs/{keyed[1]}/explain")).json()
        busy = next(reason for reason in answer["reasons"] if reason["code"] == "concurrency_key_busy")
        assert busy["job_id"] == keyed[0]
        assert answer["as_of"] >= answer["seq"]
        await http.post(f"/jobs/{first}/claim", json="w")
        await http.post(f"/jobs/{first}/fail", json={"error_code": "exit_1", "reason": "secret", "retryable": False})
        failed = (await http.get(f"/jobs/{first}/explain")).json()["reasons"]
        assert [reason["code"] for reason in failed] == ["ended", "retained"]
        assert failed[0]["error_code"] == "exit_1"
        assert "secret" not in str(failed)
        await http.post(f"/jobs/{second}/cancel", json={"reason": "no need"})
        cancelled = (await http.get(f"/jobs/{second}/explain")).json()["reasons"]
        assert "no need" in cancelled[0]["text"]
        assert (await http.get(f"/jobs/{free}/explain")).json()["status"] == "QUEUED"


async def test_as_of_a_time_is_one_answer_for_api_and_read_models(system: System) -> None:
    async with system.projector(), system.gateway() as http:
        [job_id] = await _submit(http, 1)
        cancelled = (await http.post(f"/jobs/{job_id}/cancel")).json()["seq"]
        assert (await http.get(f"/jobs/{job_id}?min_seq={cancelled}")).json()["status"] == "CANCELLED"
        for time, status in (("2999-01-01T00:00:00Z", "CANCELLED"), ("2000-01-01T00:00:00Z", None)):
            found = await http.get(f"/jobs/{job_id}", params={"as_of": time})
            assert (found.json().get("status") if found.status_code == 200 else None) == status
        assert (await http.get("/stats", params={"as_of": "9999-12-31T23:59:59-23:59"})).status_code == 422


async def _refuses_everything(system: System, http: httpx.AsyncClient) -> None:
    answer = await http.post("/prds", json={"title": "T", "tasks": [{}]})
    assert (answer.status_code, answer.json()["code"]) == (503, "log_regression"), answer.text
    assert (await _next(http, None, wait_s=0)).json()["code"] == "log_regression"
    ready = await http.get("/ready")
    assert ready.status_code == 503
    assert {"log_identity", "hub"} <= set(ready.json()["checks"])
    worker = await connect(system.server.url, system.server.worker("w1", [POOL]), "worker")
    refused = await RpcClient(worker, SystemClock(), SystemIds()).call("cmd.aura.worker.w1.hello", b"{}")
    assert (refused.status, orjson.loads(refused.body)["code"]) == (503, "log_regression")
    await worker.close()


async def test_a_gateway_that_starts_on_another_log_than_the_read_models_refuses_G5(system: System) -> None:
    async with system.projector(), system.gateway() as http:
        [job_id] = await _submit(http)
        assert (await http.get(f"/jobs/{job_id}?min_seq=1")).status_code == 200
    async with await psycopg.AsyncConnection.connect(system.database.superuser_url, autocommit=True) as database:
        await database.execute(
            "UPDATE aura.projections SET sha256 = repeat('00', 32) WHERE name = 'jobs' AND status = 'live'"
        )
    async with system.gateway() as http:
        await _refuses_everything(system, http)
        assert (await http.get("/sse/events")).status_code == 503


async def test_a_gateway_whose_log_is_made_anew_refuses_from_then_on_G5(system: System) -> None:
    async with system.projector(), system.gateway() as http:
        await _submit(http, 3)
        root = await system.server.connect("root")
        await root.jetstream().delete_stream("AURA_LOG")
        admin = await connect(system.server.url, system.server.creds("admin"), "admin")
        await topology.ensure(admin, SystemClock(), SystemIds())
        await admin.close()
        async with asyncio.timeout(20):
            while (await http.get("/ready")).json().get("checks", {}).get("log_identity") is None:
                await asyncio.sleep(0.05)  # the tail looks once a second
        await _refuses_everything(system, http)


async def test_a_session_whose_job_ended_while_no_gateway_ran_is_ended_by_the_next_one(system: System) -> None:
    """The process that was to end it died between the job's last event and the session's: the read model still says RUNNING."""
    clock, ids = SystemClock(), SystemIds()
    async with system.projector():
        async with system.gateway() as http:
            (job_id,) = await _submit(http, session_id="s1")
            await http.post(f"/jobs/{job_id}/claim", json="w")
        connection = await connect(system.server.url, system.server.creds("gateway"), "test")
        store = JetStreamEventStore(connection, clock, ids)
        caller = Caller("scheduler:1", "c", "c")
        await SessionHandler(store, clock, ids).execute(1, "s1", StartSession(job_id, "w", 1), caller)
        await JobHandler(store, clock, ids).execute(job_id, CancelJob("user:ada", 0, "enough"), caller)
        seq = (await store.identity()).last_seq
        async with system.gateway() as http:
            async with asyncio.timeout(30):
                async for batch in store.follow(seq + 1):
                    ended = batch[-1]
                    break
            answer = await http.get("/sessions/s1", params={"min_seq": ended.seq})
            assert (answer.json()["status"], answer.json()["reason"]) == ("CANCELLED", "enough")
            assert [row["session_id"] for row in (await http.get("/sessions")).json()] == ["s1"]
        await store.close()
        await connection.close()
