"""G13: the matrix file is what the gateway does. Every route × every role × own and foreign project, over real HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from aura.gateway.access.matrix import ALLOWED, PUBLIC
from aura.gateway.api.endpoint import Endpoint
from aura.gateway.api.openapi import STREAMS
from aura.gateway.api.routes import ENDPOINTS
from tests.support.access import ROLES, auth, issue, key_id, secured, submit
from tests.support.gateway import World

OWN, FOREIGN = 1, 2
#: Names in paths that say whose something is.
SCOPED = ("{job_id}", "{root_job_id}", "{project_id}", "{session_id}")


class Walk:
    """One gateway in mode ``keys``: a job in each project, and per role a key of all projects and one of project 1."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keys: dict[str, str] = {}
        self.limited: dict[str, str] = {}
        self.jobs: dict[int, str] = {}
        self.roots: dict[int, str] = {}

    async def prepare(self) -> None:
        for role in ROLES:
            self.keys[role] = await issue(self.world, role)
            self.limited[role] = await issue(self.world, role, [OWN])
        async with self.http(self.keys["director"]) as http:
            for project in (OWN, FOREIGN):
                made = await submit(http, project)
                self.jobs[project], self.roots[project] = made["job_ids"][0], made["root_job_id"]

    def http(self, key: str | None) -> httpx.AsyncClient:
        headers = {} if key is None else auth(key)
        return httpx.AsyncClient(base_url=self.world.url, headers=headers, trust_env=False, timeout=10, verify=False)

    def path(self, template: str, project: int) -> str:
        named = {
            "job_id": self.jobs[project],
            "root_job_id": self.roots[project],
            "project_id": str(project),
            "name": "employee_ollama",
            "session_id": f"s{project}",
            "key_id": key_id(self.keys["viewer"]),
        }
        return re.sub(r"\{(\w+)\}", lambda match: named[match.group(1)], template)

    async def ask(self, endpoint: Endpoint, key: str | None, project: int) -> httpx.Response:
        """A request that the door decides on; its body is refused as malformed behind it, so that nothing is changed."""
        async with self.http(key) as http:
            path = self.path(endpoint.path, project)
            if endpoint.method == "GET":
                return await http.get(path)
            return await http.post(path, content=b'{"no such field": 1}', headers={"content-type": "application/json"})


@pytest_asyncio.fixture
async def walk() -> AsyncIterator[Walk]:
    async with secured() as world:
        made = Walk(world)
        await made.prepare()
        yield made


def _may(action: str, role: str) -> bool:
    return action in PUBLIC or role in ALLOWED[action]


def _name(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


def test_every_action_of_the_matrix_is_some_route_and_every_route_has_one_G13() -> None:
    used = {endpoint.action for endpoint in ENDPOINTS} | {"log.follow", "log.system", "api.describe"}
    unused = {action for action in (*ALLOWED, *PUBLIC) if action not in used and not action.startswith("sessions.")}
    assert not unused, f"matrix.toml names what nothing asks for: {unused}"
    assert used <= {*ALLOWED, *PUBLIC}


async def test_every_route_lets_in_whom_the_matrix_names_and_nobody_else_G13(walk: Walk) -> None:
    wrong: list[str] = []
    for endpoint in ENDPOINTS:
        for role, key in walk.keys.items():
            status = (await walk.ask(endpoint, key, OWN)).status_code
            if (status not in (401, 403)) != _may(endpoint.action, role):
                wrong.append(f"{_name(endpoint)} as {role}: {status}")
        status = (await walk.ask(endpoint, None, OWN)).status_code
        if (status != 401) != (endpoint.action in PUBLIC):
            wrong.append(f"{_name(endpoint)} as nobody: {status}")
    assert not wrong, wrong


async def test_what_is_of_another_project_is_not_there_on_any_route_G13(walk: Walk) -> None:
    """404, and word for word the answer for something that does not exist."""
    wrong: list[str] = []
    for endpoint in ENDPOINTS:
        if not any(name in endpoint.path for name in SCOPED):
            continue
        for role, key in walk.limited.items():
            if not _may(endpoint.action, role):
                continue
            own = await walk.ask(endpoint, key, OWN)
            foreign = await walk.ask(endpoint, key, FOREIGN)
            if own.status_code in (401, 403):
                wrong.append(f"{_name(endpoint)} as {role} of its own project: {own.status_code}")
            if foreign.status_code != 404:
                wrong.append(f"{_name(endpoint)} as {role} of another: {foreign.status_code}")
            if "{job_id}" in endpoint.path or "{root_job_id}" in endpoint.path:
                async with walk.http(key) as http:
                    unknown = walk.path(endpoint.path, FOREIGN).replace(walk.jobs[FOREIGN], _NOWHERE)
                    unknown = unknown.replace(walk.roots[FOREIGN], _NOWHERE)
                    missing = await http.request(endpoint.method, unknown, content=b"{}" if endpoint.method == "POST" else None,
                                                 headers={"content-type": "application/json"})  # fmt: skip
                if _anonymous(foreign) != _anonymous(missing):
                    wrong.append(f"{_name(endpoint)} as {role} tells: {foreign.text} | {missing.text}")
    assert not wrong, wrong


_NOWHERE = "00000000-0000-4000-8000-000000000000"


def _anonymous(response: httpx.Response) -> tuple[int, Any]:
    problem = response.json()
    return response.status_code, {name: problem[name] for name in problem if name not in ("instance", "trace_id")}


async def test_a_root_job_of_another_project_is_not_there_G13(walk: Walk) -> None:
    async with walk.http(walk.limited["viewer"]) as http:
        assert (await http.get(f"/jobs/{walk.roots[OWN]}")).status_code == 200
        assert (await http.get(f"/jobs/{walk.roots[FOREIGN]}")).status_code == 404
        told = await http.get(f"/jobs/{walk.roots[FOREIGN]}/events")
        assert told.status_code == 404
        assert "PRD" not in told.text, "not even that it is a root job"


async def test_lists_hold_only_what_is_the_principals_G13(walk: Walk) -> None:
    async with walk.http(walk.limited["director"]) as http:
        for path in ("/jobs", "/prds"):
            assert {row["project_id"] for row in (await http.get(path)).json()} == {OWN}
            assert (await http.get(path, params={"project_id": FOREIGN})).json() == []
        assert (await http.get("/stats")).json()["counts"]["QUEUED"] == 1
        events = (await http.get("/events", params={"limit": 1000})).json()
        assert {event.get("project_id") for event in events} <= {OWN, None}
        assert not [event for event in events if event["type"].startswith("system.")]
        for subject in (f"aura.job.{FOREIGN}.>", "aura.system.>", "aura.job.*.*.created"):
            found = (await http.get("/events", params={"subject": subject, "limit": 1000})).json()
            assert {event.get("project_id") for event in found} <= {OWN}, subject
        selected = await http.post("/jobs/bulk", json={"action": "cancel", "filter": {}, "dry_run": True})
        assert selected.json()["ids"] == [walk.jobs[OWN]]
        lines = await http.post("/jobs/bulk", json={"action": "cancel", "ids": [walk.jobs[FOREIGN], walk.jobs[OWN]]})
        foreign, own = (orjson.loads(line) for line in lines.content.splitlines())
        assert (foreign["ok"], foreign["problem"]["status"]) == (False, 404)
        assert own["ok"] is True
    async with walk.http(walk.keys["director"]) as http:
        assert {row["project_id"] for row in (await http.get("/jobs")).json()} == {OWN, FOREIGN}
        assert (await http.get(f"/jobs/{walk.jobs[FOREIGN]}")).json()["status"] == "QUEUED"


async def test_events_of_a_limited_principal_go_on_where_they_stopped_G13(walk: Walk, monkeypatch: Any) -> None:
    monkeypatch.setattr("aura.gateway.api.history.MAX_LOOKED_AT", 3)
    found: list[int] = []
    async with walk.http(walk.limited["viewer"]) as http:
        url: str | None = "/events"
        while url is not None:
            answer = await http.get(url)
            found += [event["seq"] for event in answer.json()]
            url = answer.links.get("next", {}).get("url")
    async with walk.http(walk.keys["director"]) as http:
        everything = (await http.get("/events", params={"limit": 1000})).json()
    assert found == [event["seq"] for event in everything if event.get("project_id") == OWN]


async def test_a_command_into_another_project_is_forbidden_G13(walk: Walk) -> None:
    async with walk.http(walk.limited["operator"]) as http:
        refused = await http.post("/prds", json={"title": "T", "project_id": FOREIGN, "tasks": [{}]})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert (await submit(http, OWN))["seq"] > 0


async def _handshake(walk: Walk, path: str, key: str) -> int:
    """101, or the status of the refusal."""
    try:
        async with walk.world.ws(path, additional_headers=auth(key)):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


async def _stream(walk: Walk, path: str, key: str | None) -> int:
    async with walk.http(key) as http, asyncio.timeout(10), http.stream("GET", path) as answer:
        return answer.status_code


async def test_every_live_path_lets_in_whom_the_matrix_names_G13(walk: Walk) -> None:
    wrong: list[str] = []
    sockets = ("/ws/events", "/ws/job/{job_id}", "/ws/orchestrator/{session_id}", "/ws")
    for role in ROLES:
        expected = 101 if role in ALLOWED["log.follow"] else 403
        for path in sockets:
            status = await _handshake(walk, walk.path(path, OWN), walk.limited[role])
            if status != expected:
                wrong.append(f"{path} as {role}: {status}")
        for path in (stream[0] for stream in STREAMS):
            status = await _stream(walk, walk.path(path, OWN), walk.limited[role])
            if status != (200 if expected == 101 else 403):
                wrong.append(f"{path} as {role}: {status}")
        if expected == 101:
            for path, ask in (("/ws/job/{job_id}", _handshake), ("/sse/job/{job_id}", _stream)):
                status = await ask(walk, walk.path(path, FOREIGN), walk.limited[role])
                if status != 404:
                    wrong.append(f"{path} of another project as {role}: {status}")
    for path in (stream[0] for stream in STREAMS):
        if (status := await _stream(walk, walk.path(path, OWN), None)) != 401:
            wrong.append(f"{path} as nobody: {status}")
    assert not wrong, wrong


async def test_a_live_feed_carries_only_what_is_the_principals_G13(walk: Walk) -> None:
    async with (
        walk.http(walk.keys["director"]) as http,
        walk.world.ws("/ws/events?since=0", additional_headers=auth(walk.limited["viewer"])) as socket,
    ):
        await submit(http, FOREIGN)
        await issue(walk.world, "viewer")
        last = (await submit(http, OWN))["job_ids"][0]
        seen: list[dict[str, Any]] = []
        async with asyncio.timeout(10):
            while not seen or seen[-1].get("job_id") != last:
                seen.append(orjson.loads(await socket.recv()))
    assert {event["project_id"] for event in seen} == {OWN}
