"""What a guarded gateway does not do, over real sockets: answer whoever was revoked meanwhile, keep places for whoever says nothing,
carry out operations without limit, or tell figures of other projects (G12, G13)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from aura.commands.handler import Caller
from aura.gateway.access.failures import BURST
from aura.gateway.limits import Limits
from aura.gateway.ports import Row
from tests.support.access import BOOTSTRAP, auth, client, issue, key_id, secured, submit
from tests.support.gateway import World, make_world, receive, running

NATIVE: dict[str, Any] = {"subprotocols": [Subprotocol("aura.v1")]}


async def _closed(socket: ClientConnection) -> int:
    async with asyncio.timeout(10):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed:
            return socket.close_code or 0


async def _ticket(world: World, key: str) -> str:
    answer = await world.http.post("/auth/tickets", headers=auth(key))
    return orjson.dumps({"op": "auth", "ticket": answer.json()["ticket"]}).decode()


# ---------------------------------------------------------------- waiting requests


class _Waiting:
    """A ``next`` that waits until the test lets a job come."""

    def __init__(self) -> None:
        self.asked, self.cancelled, self.come = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.answer: Row | None = None

    async def __call__(
        self, model: str, worker_id: str, wait_s: float, lease_ttl_s: float | None, caller: Caller
    ) -> Row | None:
        self.asked.set()
        try:
            await self.come.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return self.answer


async def _serving(world: World, **changes: Any) -> None:
    world.ctx = world.service._ctx = replace(world.ctx, **changes)
    await world.service.start()
    world.http = httpx.AsyncClient(base_url=world.url, trust_env=False, timeout=10)


async def _revoke(world: World, key: str) -> None:
    made = await world.commands.call("revoke_key", {"key_id": key_id(key)}, BOOTSTRAP)
    assert world.ctx.access is not None
    await world.ctx.access.key_reached(made["key_id"], made["seq"])


async def test_a_worker_whose_key_is_revoked_while_it_waits_gets_no_job_G13() -> None:
    world, waiting = make_world(auth="keys"), _Waiting()
    await _serving(world, next_job=waiting)
    key = await issue(world, "worker")
    async with asyncio.timeout(10):
        asking = asyncio.ensure_future(world.http.post("/models/m/next", json={"worker_id": "w"}, headers=auth(key)))
        await waiting.asked.wait()
        await _revoke(world, key)
        answer = await asking
        await waiting.cancelled.wait()
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    await world.http.aclose()
    await world.service.stop()


async def test_a_job_that_was_claimed_in_the_moment_of_the_revocation_goes_back_G13() -> None:
    world, waiting = make_world(auth="keys"), _Waiting()
    await _serving(world, next_job=waiting)
    director, key = await issue(world, "director"), await issue(world, "worker")
    async with asyncio.timeout(10), client(world, director) as boss:
        job = (await submit(boss, 1, payload={"secret": "of 1"}))["job_ids"][0]
        actor = f"worker:{key_id(key)}"
        caller = Caller(actor, "c", "c", owner=actor)
        waiting.answer = await world.commands.call("claim", {"job_id": job, "worker_id": "w"}, caller)
        asking = asyncio.ensure_future(world.http.post("/models/m/next", json={"worker_id": "w"}, headers=auth(key)))
        await waiting.asked.wait()
        revoking = world.ctx.access._ring._on_revoked[key_id(key)]  # type: ignore[union-attr]
        revoking[object()] = waiting.come.set  # the answer is there in the same turn
        await _revoke(world, key)
        answer = await asking
        assert answer.status_code == 401
        assert "secret" not in answer.text
        assert (await world.commands.jobs.head(job, consistent=True)).state.status != "IN_PROGRESS"
    await world.http.aclose()
    await world.service.stop()


async def test_a_workflow_is_not_told_to_whoever_was_revoked_while_it_ran_G13() -> None:
    async with secured() as world:
        key = await issue(world, "operator")
        body = {"strategy_description": "x", "session_id": "s1", "wait_s": 60}
        known = await world.commands.call(
            "run_workflow",
            {"project_id": 1, "session_id": "s1", "workflow": "retail", "input": {"strategy_description": "x"}},
            BOOTSTRAP,
        )
        watched = asyncio.Event()
        watch = world.hub.watch

        def seen(*args: Any) -> Any:
            watched.set()
            return watch(*args)

        world.hub.watch = seen  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            asking = asyncio.ensure_future(world.http.post("/run-workflow", json=body, headers=auth(key)))
            await watched.wait()
            await _revoke(world, key)
            answer = await asking
        assert answer.status_code == 401, answer.text
        assert known["job_id"] not in answer.text


# ---------------------------------------------------------------- sockets without a ticket


async def test_who_owes_a_ticket_takes_no_place_and_makes_room_for_who_has_one() -> None:
    async with secured(limits=Limits(connections=1, pending_per_address=2)) as world:
        key = await issue(world, "viewer")
        async with world.ws("/ws") as oldest, world.ws("/ws") as other, world.ws("/ws") as good:
            assert await _closed(oldest) == 1013
            assert world.hub.connections == 0
            await good.send(await _ticket(world, key))
            async with asyncio.timeout(10):
                while world.hub.connections != 1:
                    await asyncio.sleep(0)
            await other.send(await _ticket(world, key))
            assert await _closed(other) == 1013, "the gateway is full: another time"


async def test_bad_tickets_lock_nobody_out_and_silence_is_a_failure() -> None:
    async with secured(limits=Limits(auth_s=0.05)) as world:
        key = await issue(world, "viewer")
        async with world.ws("/ws") as silent:
            assert await _closed(silent) == 4401
        codes = []
        for _ in range(BURST):
            async with world.ws("/ws") as bad:
                await bad.send(orjson.dumps({"op": "auth", "ticket": "x" * 43}).decode())
                codes.append(await _closed(bad))
        assert codes == [4401] * (BURST - 1) + [1013], "the silent one counted"
        async with world.ws("/ws", **NATIVE) as good:
            await good.send(await _ticket(world, key))
            assert (await receive(good))["op"] == "welcome"


async def test_too_many_connections_of_a_user_are_1013_after_the_upgrade() -> None:
    async with secured(limits=Limits(connections_per_user=1)) as world:
        key = await issue(world, "viewer")
        async with world.ws("/ws", additional_headers=auth(key)), world.ws("/ws") as second:
            await second.send(await _ticket(world, key))
            assert await _closed(second) == 1013


# ---------------------------------------------------------------- operations


async def test_operations_are_counted_not_messages() -> None:
    ping = b'{"op":"ping"}'
    async with (
        running(limits=Limits(operations_burst=300, operations_per_s=0.001)) as world,
        world.ws("/ws", **NATIVE) as socket,
    ):
        for _ in range(3):
            await socket.send((b"[" + b",".join([ping] * 100) + b"]").decode())
        async with asyncio.timeout(10):
            assert (await receive(socket))["op"] == "welcome"
            pongs = 0
            while pongs < 300:
                answer = orjson.loads(await socket.recv())
                pongs += len(answer) if isinstance(answer, list) else 1
        await socket.send(ping.decode())
        assert await _closed(socket) == 1008


# ---------------------------------------------------------------- what others may know


async def test_figures_of_all_projects_are_for_whoever_sees_all() -> None:
    async with secured() as world:
        whole, limited = await issue(world, "viewer"), await issue(world, "viewer", [1])
        told = (await world.http.get("/metrics", headers=auth(whole))).text
        assert "aura_read_models_up 1.0" in told
        assert "aura_jobs{" in told
        own = (await world.http.get("/metrics", headers=auth(limited))).text
        assert "aura_http_requests_total" in own
        assert "aura_jobs" not in own
        assert "aura_read_models_up" not in own


async def test_refused_subscriptions_are_in_the_log_G13() -> None:
    async with secured() as world:
        director, viewer = await issue(world, "director"), await issue(world, "viewer", [1])
        async with client(world, director) as boss:
            job = (await submit(boss, 2))["job_ids"][0]
        async with client(world, viewer) as http:
            assert (await http.get(f"/sse/job/{job}")).status_code == 404
            assert (await http.get("/sse/events", params={"subject": "aura.job.2.>"})).status_code == 403
        async with world.ws("/ws", additional_headers=auth(viewer), **NATIVE) as socket:
            await receive(socket)
            for n, subject in enumerate(("aura.job.2.>", "health.aura.>", f"aura.output.2.{job}.>")):
                await socket.send(orjson.dumps({"op": "subscribe", "id": str(n), "subject": subject}).decode())
                assert (await receive(socket))["op"] == "error"
        assert world.ctx.access is not None
        await world.ctx.access.stop()
        batches = [batch async for batch in world.store.read(subject="aura.system.access_denied")]
        found = [event.decode() for batch in batches for event in batch]
    told = [(one["denied_actor"], one["action"], one["target"], one["count"]) for one in found]
    assert told == [(f"user:{key_id(viewer)}", "log.follow", f"/ws/job/{job}", 5)]


async def test_visible_is_worked_out_once_per_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with secured() as world:
        viewer = await issue(world, "viewer", [1])
        access: Any = world.ctx.access
        asked, visible = [], access.visible
        monkeypatch.setattr(access, "visible", lambda principal: asked.append(1) or visible(principal))
        async with world.ws("/ws", additional_headers=auth(viewer), **NATIVE) as socket:
            await receive(socket)
            ops = [{"op": "subscribe", "id": str(n), "subject": "aura.job.2.>"} for n in range(50)]
            await socket.send(orjson.dumps(ops).decode())
            for _ in range(50):
                assert (await receive(socket))["code"] == "forbidden"
        assert asked == [1]
