"""Mode ``keys`` as ``aura gateway`` composes it, on real servers: two gateways, one log, no memory of their own (G13)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect as open_socket

from aura.cli import compose, processes
from aura.clock import SystemClock
from aura.config import Settings
from aura.events.subjects import admin_command
from aura.ids import SystemIds
from aura.log.connection import connect
from aura.log.rpc import RpcClient
from tests.support.access import auth, key_id, submit
from tests.support.servers import Database, NatsServer


class System:
    """Gateways and a projector on one log and one database."""

    def __init__(self, server: NatsServer, database: Database, folder: Path) -> None:
        self.server, self.database, self.folder = server, database, folder

    def settings(self, component: str, url: str) -> Settings:
        return dataclasses.replace(
            Settings(), nats_url=self.server.url, nats_creds=self.server.creds(component), database_url=url,
            data_dir=self.folder, host="127.0.0.1", port=0, auth="keys",
        )  # fmt: skip

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[httpx.AsyncClient]:
        made = processes.Gateway(compose.world(self.settings("gateway", self.database.reader_url)))
        await made.start()
        try:
            async with httpx.AsyncClient(base_url=made._main.url, trust_env=False, timeout=20) as http:  # type: ignore[union-attr]
                yield http
        finally:
            await made.stop()

    @asynccontextmanager
    async def projector(self) -> AsyncIterator[None]:
        made = processes.Projector(compose.world(self.settings("projector", self.database.owner_url)))
        await made.start()
        try:
            yield
        finally:
            await made.stop()

    async def admin(self, operation: str, **params: object) -> dict[str, object]:
        """As ``aura access`` does it without a key."""
        clock, ids = SystemClock(), SystemIds()
        connection = await connect(self.server.url, self.server.creds("admin"), "test", ids=ids)
        try:
            answer = await RpcClient(connection, clock, ids).call(admin_command(operation), orjson.dumps(params))
        finally:
            await connection.close()
        assert answer.status == 200, answer.body
        found: dict[str, object] = orjson.loads(answer.body)
        return found


@pytest.fixture
def system(streams: NatsServer, read_models: Database, tmp_path: Path) -> System:
    return System(streams, read_models, tmp_path / "data")


async def _until(http: httpx.AsyncClient, key: str, status: int) -> None:
    """Another gateway sees a key's event when its tail delivers it."""
    async with asyncio.timeout(10):
        while (await http.get("/auth/me", headers=auth(key))).status_code != status:
            await asyncio.sleep(0.01)


async def test_a_key_opens_every_gateway_also_after_a_restart_until_it_is_revoked(system: System) -> None:
    async with system.gateway() as one:
        director = str((await system.admin("issue_key", role="director"))["key"])
        await _until(one, director, 200)
        viewer = (await one.post("/auth/keys", json={"role": "viewer"}, headers=auth(director))).json()["key"]
        async with system.gateway() as other:
            assert (await other.get("/auth/me", headers=auth(viewer))).status_code == 200, "folded at the start"
            ticket = (await one.post("/auth/tickets", headers=auth(viewer))).json()["ticket"]
            socket_url = str(other.base_url).rstrip("/").replace("http", "ws") + "/ws/events"
            async with open_socket(socket_url, proxy=None) as socket:
                await socket.send(orjson.dumps({"op": "auth", "ticket": ticket}).decode())
                await submit_as(one, director, 1)
                async with asyncio.timeout(10):
                    assert orjson.loads(await socket.recv())["type"].startswith("job."), "redeemed by another gateway"
                    revoked = await one.post(f"/auth/keys/{key_id(viewer)}/revoke", json={}, headers=auth(director))
                    assert revoked.status_code == 200
                    assert (await one.get("/auth/me", headers=auth(viewer))).status_code == 401, "here at once"
                    await socket.wait_closed()
                    assert socket.close_code == 4401
            await _until(other, viewer, 401)
    async with system.gateway() as again:
        assert (await again.get("/auth/me", headers=auth(viewer))).status_code == 401
        assert (await again.get("/auth/me", headers=auth(director))).status_code == 200
        listed = {
            row["key_id"]: row["status"] for row in (await again.get("/auth/keys", headers=auth(director))).json()
        }
        assert listed == {key_id(director): "active", key_id(viewer): "revoked"}


async def submit_as(http: httpx.AsyncClient, key: str, project: int) -> str:
    """A job in the pool ``m``."""
    answer = await http.post(
        "/prds", json={"title": "T", "project_id": project, "tasks": [{"payload": 1}]}, headers=auth(key)
    )
    assert answer.status_code == 201, answer.text
    job: str = answer.json()["job_ids"][0]
    assigned = await http.post(f"/jobs/{job}/assign", json="m", headers=auth(key))
    assert assigned.status_code == 200, assigned.text
    return job


async def test_next_gives_a_limited_worker_only_jobs_of_its_projects_and_leaves_the_others(system: System) -> None:
    async with system.projector(), system.gateway() as http:
        director = str((await system.admin("issue_key", role="director"))["key"])
        limited = str((await system.admin("issue_key", role="worker", projects=[2]))["key"])
        whole = str((await system.admin("issue_key", role="worker"))["key"])
        for key in (director, limited, whole):
            await _until(http, key, 200)
        foreign = await submit_as(http, director, 1)
        own = await submit_as(http, director, 2)

        async def take(key: str, wait_s: float = 5) -> httpx.Response:
            return await http.post("/models/m/next", json={"worker_id": "w", "wait_s": wait_s}, headers=auth(key))

        assert (await take(limited)).json()["job_id"] == own
        assert (await take(limited, 0.5)).status_code == 204
        assert (await take(whole)).json()["job_id"] == foreign


async def test_lists_and_numbers_of_several_projects_on_real_read_models(system: System) -> None:
    async with system.projector(), system.gateway() as http:
        director = str((await system.admin("issue_key", role="director"))["key"])
        viewer = str((await system.admin("issue_key", role="viewer", projects=[1, 3]))["key"])
        for key in (director, viewer):
            await _until(http, key, 200)
        made = []
        http.headers.update(auth(director))
        for n in range(12):
            made.append(await submit(http, 1 + n % 4))
        http.headers.update(auth(viewer))
        mine = [one["job_ids"][0] for n, one in enumerate(made) if n % 4 in (0, 2)]
        seen: list[str] = []
        url: str | None = f"/jobs?limit=2&min_seq={made[-1]['seq']}"
        while url is not None:
            answer = await http.get(url)
            seen += [row["id"] for row in answer.json()]
            url = answer.links.get("next", {}).get("url")
        assert seen == mine[::-1]
        for query in ({"status": "QUEUED"}, {"q": "emplo"}, {"as_of": str(made[-1]["seq"])}, {"role": "Employee"}):
            answer = await http.get("/jobs", params=query)
            assert answer.status_code == 200, answer.text
            assert {row["project_id"] for row in answer.json()} <= {1, 3}, query
        prds: list[int] = []
        url = "/prds?limit=4"
        while url is not None:
            answer = await http.get(url)
            prds += [row["project_id"] for row in answer.json()]
            url = answer.links.get("next", {}).get("url")
        assert sorted(prds) == [1, 1, 1, 3, 3, 3]
        assert (await http.get("/archives")).json() == []
        stats = (await http.get("/stats")).json()
        assert stats["total"] == 6
        assert (await http.get("/stats", params={"as_of": str(made[-1]["seq"])})).json()["total"] == 6
        http.headers.update(auth(director))
        assert (await http.get("/stats")).json()["total"] == 12
