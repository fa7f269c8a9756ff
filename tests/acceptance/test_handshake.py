"""The handshake and authorisation corpora of GUARANTEES.md, over real sockets (G13)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import orjson
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from aura.clock import rfc3339
from aura.errors import ConfigError
from aura.gateway.access.failures import BURST
from aura.gateway.limits import Limits
from tests.support.access import auth, client, issue, key_id, secured, submit
from tests.support.gateway import DIRECTOR_KEY, World, make_world, running

SOCKETS = ("/ws/events", "/ws", "/ws/orchestrator/s1")


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with secured(limits=Limits(auth_s=0.2)) as made:
        yield made


async def _refused(world: World, path: str, **headers: str) -> int:
    """The status with which a handshake is refused; 101 when it is not."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    origin = named.pop("origin", None)
    options: dict[str, Any] = {} if origin is None else {"origin": origin}
    try:
        async with world.ws(path, additional_headers=named, **options):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


async def _closed(socket: ClientConnection) -> tuple[int, str]:
    """How the server ends it."""
    async with asyncio.timeout(10):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed:
            return socket.close_code or 0, socket.close_reason or ""


async def _ticket(world: World, key: str) -> str:
    answer = await world.http.post("/auth/tickets", headers=auth(key))
    assert answer.status_code == 201, answer.text
    assert answer.json()["expires_in_s"] == 30
    ticket: str = answer.json()["ticket"]
    return ticket


def _first(ticket: object) -> str:
    return orjson.dumps({"op": "auth", "ticket": ticket}).decode()


# ---------------------------------------------------------------- origins, hosts, addresses


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://127.0.0.1.evil.example",
        "https://127.0.0.1",
        "file://",
        "",
    ],
)
async def test_a_foreign_or_look_alike_origin_is_refused_whatever_the_key(world: World, origin: str) -> None:
    key = await issue(world, "viewer")
    assert await _refused(world, "/ws/events", origin=origin, authorization=f"Bearer {key}") == 403


async def test_a_cookie_without_an_origin_is_refused(world: World) -> None:
    key = await issue(world, "viewer")
    assert await _refused(world, "/ws/events", cookie="a=b", authorization=f"Bearer {key}") == 403


async def test_a_poisoned_host_is_refused_before_anything_is_looked_at(world: World) -> None:
    key = await issue(world, "director")
    for host in ("evil.example", "127.0.0.1.evil.example", "[::1", "127.0.0.1:80:80", ""):
        refused = await world.http.get("/jobs", headers={**auth(key), "host": host})
        assert refused.status_code in (400, 421), host


async def test_a_forged_forwarded_address_changes_nothing(world: World) -> None:
    for n in range(BURST + 5):
        headers = {"authorization": "Bearer aura_x", "x-forwarded-for": f"10.0.0.{n}", "forwarded": f"for=10.0.1.{n}"}
        last = (await world.http.get("/jobs", headers=headers)).status_code
    assert last == 429, "the address of the connection counts"


# ---------------------------------------------------------------- tickets and keys


async def test_without_credentials_the_first_message_must_be_a_ticket(world: World) -> None:
    for path in SOCKETS:
        async with world.ws(path) as socket:
            assert (await _closed(socket))[0] == 4401, "nothing came"
        for said in ('{"op":"ping"}', "{", '{"op":"auth"}', _first(7), _first("x" * 43), _first("x" * 5_000), "[]"):
            async with world.ws(path) as socket:
                await socket.send(said)
                assert (await _closed(socket))[0] in (4401, 1013, 4408, 1008), (path, said)
        break


async def test_a_ticket_opens_one_socket_once(world: World) -> None:
    key = await issue(world, "viewer", [1])
    ticket = await _ticket(world, key)
    director = await issue(world, "director")
    async with client(world, director) as http, world.ws("/ws/events") as socket:
        await socket.send(_first(ticket))
        async with asyncio.timeout(10):
            await submit(http, 2)
            while True:
                made = (await submit(http, 1))["job_ids"][0]
                try:
                    async with asyncio.timeout(0.2):
                        event = orjson.loads(await socket.recv())
                        break
                except TimeoutError:
                    continue
        assert made
        assert event["project_id"] == 1, "it sees what its key sees"
    async with world.ws("/ws/events") as socket:
        await socket.send(_first(ticket))
        assert await _closed(socket) == (4401, "these credentials are not accepted")


async def test_a_ticket_is_the_principals_who_asked_for_it(world: World) -> None:
    """Another user's ticket gives that user's view, never more; and a worker's opens no feed."""
    ticket = await _ticket(world, await issue(world, "worker"))
    async with world.ws("/ws/events") as socket:
        await socket.send(_first(ticket))
        assert (await _closed(socket))[0] == 4403


async def test_a_ticket_of_a_key_that_was_revoked_meanwhile_opens_nothing(world: World) -> None:
    key = await issue(world, "viewer")
    ticket = await _ticket(world, key)
    await _revoke(world, key)
    async with world.ws("/ws/events") as socket:
        await socket.send(_first(ticket))
        assert (await _closed(socket))[0] == 4401


async def test_sse_takes_a_ticket_in_a_header_and_requests_do_not(world: World) -> None:
    key = await issue(world, "viewer")
    headers = {"x-aura-ticket": await _ticket(world, key)}
    assert (await world.http.get("/jobs", headers=headers)).status_code == 401
    async with asyncio.timeout(10), world.http.stream("GET", "/sse/events", headers=headers) as answer:
        assert answer.status_code == 200
    again = await world.http.get("/sse/events", headers=headers)
    assert again.status_code == 401


async def test_credentials_in_the_url_are_refused_and_in_no_log(
    world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    key = await issue(world, "director")
    ticket = await _ticket(world, key)
    for name in ("token", "access_token", "ticket", "api_key", "key", "authorization", "Token", "TICKET"):
        for secret in (key, ticket):
            assert (await world.http.get("/jobs", params={name: secret}, headers=auth(key))).status_code == 422, name
            assert await _refused(world, f"/ws/events?{name}={secret}", authorization=f"Bearer {key}") == 422, name
    ours = [
        record for record in caplog.records if not record.name.startswith(("httpx", "httpcore", "websockets.client"))
    ]
    said = "".join(record.getMessage() for record in ours) + "".join(capsys.readouterr())
    assert key not in said
    assert ticket not in said


async def _revoke(world: World, key: str) -> None:
    director = await issue(world, "director")
    answer = await world.http.post(f"/auth/keys/{key_id(key)}/revoke", json={"reason": "lost"}, headers=auth(director))
    assert (answer.status_code, answer.json()["status"]) == (200, "revoked")


async def test_a_revoked_key_opens_nothing_and_what_it_has_open_is_closed(world: World) -> None:
    key = await issue(world, "viewer")
    sse_ended = asyncio.Event()

    async def follow() -> None:
        async with client(world, key) as http, http.stream("GET", "/sse/events", timeout=30) as answer:
            assert answer.status_code == 200
            connected.set()
            async for _ in answer.aiter_bytes():
                pass
        sse_ended.set()

    connected = asyncio.Event()
    following = asyncio.create_task(follow())
    ticket = await _ticket(world, key)
    async with (
        world.ws("/ws/events", additional_headers=auth(key)) as socket,
        world.ws("/ws") as by_ticket,
        asyncio.timeout(10),
    ):
        await by_ticket.send(_first(ticket))
        await connected.wait()
        await _revoke(world, key)
        assert await _closed(socket) == (4401, "the key was revoked")
        assert (await _closed(by_ticket))[0] == 4401
        await sse_ended.wait()
        await following
    assert (await world.http.get("/jobs", headers=auth(key))).status_code == 401
    assert await _refused(world, "/ws/events", authorization=f"Bearer {key}") == 401


async def test_an_expired_key_opens_nothing_and_what_it_has_open_is_closed(world: World) -> None:
    soon = rfc3339(world.clock.now() + timedelta(seconds=1))
    key = await issue(world, "viewer", expires_at=soon)
    async with world.ws("/ws/events", additional_headers=auth(key)) as socket:
        assert await _closed(socket) == (4401, "the credentials have expired")
    assert (await world.http.get("/jobs", headers=auth(key))).status_code == 401


@pytest.mark.parametrize("wrong", ["Basic YTpi", "Bearer", "Bearer  ", "bearer x y", "Bearer aura_", "aura_"])
async def test_what_is_no_key_is_401(world: World, wrong: str) -> None:
    refused = await world.http.get("/jobs", headers={"authorization": wrong.strip()})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


async def test_a_key_with_one_letter_changed_is_401_and_two_headers_are_422(world: World) -> None:
    key = await issue(world, "director")
    other = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert (await world.http.get("/jobs", headers=auth(other))).status_code == 401
    twice = await world.http.get("/jobs", headers=[("authorization", f"Bearer {key}"), ("authorization", "Bearer x")])
    assert twice.status_code == 422


async def test_an_address_that_fails_too_often_waits_but_known_keys_go_on_opening(world: World) -> None:
    key = await issue(world, "viewer")
    statuses = [(await world.http.get("/jobs", headers=auth("aura_guess"))).status_code for _ in range(BURST + 3)]
    assert statuses[:BURST] == [401] * BURST
    assert statuses[-1] == 429
    assert (await world.http.get("/jobs", headers=auth(key))).status_code == 200, "nobody is locked out"


# ---------------------------------------------------------------- authorisation


async def test_a_lease_belongs_to_the_key_that_claimed(world: World) -> None:
    director, one, other = [await issue(world, role) for role in ("director", "worker", "worker")]
    async with client(world, director) as boss, client(world, one) as mine, client(world, other) as theirs:
        job = (await submit(boss, 1))["job_ids"][0]
        claimed = await mine.post(f"/jobs/{job}/claim", json={"worker_id": "w"})
        assert claimed.status_code == 200
        reports: dict[str, dict[str, Any]] = {
            "heartbeat": {}, "stream": {"chunk": "x"}, "log": {"line": "x"}, "progress": {"percent": 1},
            "complete": {"success": True}, "fail": {"reason": "x"}, "release": {},
        }  # fmt: skip
        for report, body in reports.items():
            for stranger in (theirs, boss):
                refused = await stranger.post(f"/jobs/{job}/{report}", json={**body, "attempt": 1})
                assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), report
        assert (await mine.post(f"/jobs/{job}/heartbeat", json={"attempt": 1})).status_code == 200
        assert (await mine.post(f"/jobs/{job}/complete", json={"success": True})).status_code == 200
        actors = {event["type"]: event["actor"] for event in (await boss.get(f"/jobs/{job}/events")).json()}
    assert actors["job.created"] == f"director:{key_id(director)}"
    assert actors["job.claimed"] == actors["job.completed"] == f"worker:{key_id(one)}"


async def test_an_operator_does_not_purge_and_the_directors_key_works_in_every_mode(world: World) -> None:
    operator, worker, director = [await issue(world, role) for role in ("operator", "worker", "director")]
    async with client(world, operator) as http, client(world, worker) as hands, client(world, director) as boss:
        job = (await submit(http, 1))["job_ids"][0]
        assert (await boss.post(f"/archives/{job}/purge", json={})).status_code == 404, "it is not archived"
        await hands.post(f"/jobs/{job}/claim", json={"worker_id": "w"})
        await hands.post(f"/jobs/{job}/complete", json={"success": True})
        assert (await http.post(f"/archives/{job}/purge", json={})).status_code == 403
        assert (await http.post(f"/archives/{job}/release", json={})).status_code == 403
        assert (await http.post(f"/archives/{job}/hold", json={})).status_code == 200
        with_key = {"x-director-key": DIRECTOR_KEY}
        assert (await world.http.post(f"/archives/{job}/release", json={}, headers=with_key)).status_code == 200
        assert (await boss.post(f"/archives/{job}/purge", json={})).status_code == 403, "retention"
        wrong = await boss.post(f"/archives/{job}/purge", json={}, headers={"x-director-key": "guess"})
        assert wrong.status_code == 403
        assert (await world.http.get("/jobs", headers=with_key)).status_code == 401, "it opens nothing else"


async def test_keys_are_issued_by_directors_and_only_for_their_own_projects(world: World) -> None:
    whole, limited = await issue(world, "director"), await issue(world, "director", [1, 2])
    async with client(world, whole) as boss, client(world, limited) as local:
        made = await local.post("/auth/keys", json={"role": "viewer", "projects": [2]})
        assert made.status_code == 201
        assert made.json()["issued_by"] == f"director:{key_id(limited)}"
        assert (await local.post("/auth/keys", json={"role": "viewer"})).status_code == 403
        assert (await local.post("/auth/keys", json={"role": "viewer", "projects": [3]})).status_code == 403
        assert (await local.post(f"/auth/keys/{key_id(whole)}/revoke", json={})).status_code == 404
        listed = (await local.get("/auth/keys")).json()
        assert {row["key_id"] for row in listed} == {key_id(limited), made.json()["key_id"]}
        everything = (await boss.get("/auth/keys")).text
        assert made.json()["key"] not in everything
        assert "digest" not in everything
        for body in ({}, {"role": "root"}, {"role": "viewer", "projects": []}, {"role": "viewer", "projects": [0]},
                     {"role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}, {"role": "viewer", "label": "a\nb"}):  # fmt: skip
            assert (await boss.post("/auth/keys", json=body)).status_code == 422, body
        keyed = {"idempotency-key": "k"}
        first = await boss.post("/auth/keys", json={"role": "viewer"}, headers=keyed)
        again = await boss.post("/auth/keys", json={"role": "viewer"}, headers=keyed)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json(), "one key, told again to who asked for it"
        other = await boss.post("/auth/keys", json={"role": "director"}, headers=keyed)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        stranger = await local.post("/auth/keys", json={"role": "viewer", "projects": [1]}, headers=keyed)
        assert stranger.json()["key_id"] != first.json()["key_id"], "another caller's key of that name is another"
        listed_ids = [row["key_id"] for row in (await boss.get("/auth/keys")).json()]
        assert listed_ids.count(first.json()["key_id"]) == 1


async def test_refusals_with_a_name_are_in_the_log_once_a_minute_and_others_are_not_G13(world: World) -> None:
    viewer = await issue(world, "viewer", [1])
    director = await issue(world, "director")
    async with client(world, viewer) as http, client(world, director) as boss:
        job = (await submit(boss, 2))["job_ids"][0]
        for _ in range(5):
            assert (await http.post(f"/jobs/{job}/cancel", json={})).status_code == 403
        assert (await http.get(f"/jobs/{job}")).status_code == 404
        assert (await world.http.get("/jobs")).status_code == 401
        assert (await world.http.get("/jobs", headers=auth("aura_x"))).status_code == 401
    assert world.ctx.access is not None
    await world.ctx.access.stop()
    found = [
        event.decode()
        async for batch in world.store.read(subject="aura.system.access_denied")
        for event in batch
    ]  # fmt: skip
    told = {(event["denied_actor"], event["action"], event["target"], event["count"]) for event in found}
    actor = f"user:{key_id(viewer)}"
    assert told == {(actor, "jobs.steer", f"/jobs/{job}/cancel", 5), (actor, "jobs.read", f"/jobs/{job}", 1)}
    metrics = (await world.http.get("/metrics", headers=auth(director))).text
    assert 'aura_access_refused_total{reason="missing"} 1.0' in metrics
    assert 'aura_access_refused_total{reason="unknown"} 1.0' in metrics


# ---------------------------------------------------------------- modes


async def test_open_asks_nobody_and_is_refused_beyond_this_machine() -> None:
    async with running() as world:
        me = (await world.http.get("/auth/me")).json()
        assert (me["actor"], me["modes"], me["projects"]) == ("anonymous", ["open"], None)
        assert (await world.http.post("/auth/tickets", json={})).status_code == 201
        assert (await world.http.post("/auth/keys", json={"role": "director"})).status_code == 403
        made = await world.http.post("/auth/keys", json={"role": "viewer"}, headers={"x-director-key": DIRECTOR_KEY})
        assert made.status_code == 201
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(ConfigError, match="AURA_AUTH=keys"):
            await make_world(host=host).service.start()
