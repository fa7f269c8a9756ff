"""The orchestrator's and the studio's messages over real sockets and event streams: complete, in order, once, whenever one joins (G11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from aura.clock import rfc3339
from aura.gateway.limits import Limits
from aura.log.store import Append
from tests.support.gateway import World, receive, running

SESSION = "sess-1"


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


async def session_event(world: World, name: str, session_id: str = SESSION, project: int = 1, **fields: Any) -> None:
    """What the session's decider will append."""
    event_id = world.ctx.ids.uuid7()
    body = {
        "id": event_id, "type": f"session.{name}", "v": 1, "ts": rfc3339(world.clock.now()), "project_id": project,
        "session_id": session_id, **fields,
    }  # fmt: skip
    subject = f"aura.session.{project}.{session_id}.{name}"
    last = await world.store.last(f"aura.session.{project}.{session_id}.>")
    guard = f"aura.session.{project}.{session_id}.>"
    await world.store.append(Append(subject, guard, last.seq if last else 0, event_id, orjson.dumps(body)))


class Workflow:
    """A session whose steps a test takes one by one."""

    def __init__(self, world: World, job_id: str) -> None:
        self.world, self.job_id = world, job_id

    @classmethod
    async def start(cls, world: World, session_id: str = SESSION) -> Workflow:
        [job_id] = await world.submit()
        await session_event(world, "started", session_id, workflow="retail", job_id=job_id)
        await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w1"})
        return cls(world, job_id)

    async def agent(self, name: str, *percents: int) -> None:
        await session_event(self.world, "agent_started", agent=name)
        for percent in percents:
            await self.progress(percent)
        await session_event(self.world, "agent_completed", agent=name, duration_ms=5)

    async def progress(self, percent: int) -> None:
        await self.world.post(f"/jobs/{self.job_id}/progress", {"percent": percent, "step": f"at {percent}"})

    async def end(self, *, session_first: bool = False) -> None:
        if session_first:
            await session_event(self.world, "completed")
        await self.world.post(f"/jobs/{self.job_id}/complete", {"success": True, "details": {"answer": 42}})
        if not session_first:
            await session_event(self.world, "completed")


async def all_of(socket: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """Everything until the server closes, and its code."""
    found: list[dict[str, Any]] = []
    with suppress(ConnectionClosed):
        while True:
            found.append(await receive(socket))
    return found, socket.close_code or 0


def story(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(m["type"], m.get("agent"), m.get("status"), m.get("progress")) for m in messages]


STORY = [
    ("agent_status", "a", "Started", 0),
    ("progress", "a", "at 10", 10),
    ("progress", "a", "at 90", 90),
    ("agent_status", "a", "Completed", 100),
    ("agent_status", "b", "Started", 0),
    ("progress", "b", "at 50", 50),
    ("agent_status", "b", "Completed", 100),
    ("complete", "b", "Complete", 100),
]


@pytest.mark.parametrize("session_first", [False, True])
@pytest.mark.parametrize("joins", ["before", "middle", "after"])
async def test_a_workflow_is_told_alike_whenever_one_joins_G11(world: World, joins: str, session_first: bool) -> None:
    socket = world.ws(f"/ws/orchestrator/{SESSION}")
    if joins == "before":
        telling = asyncio.ensure_future(_listen(socket))
        async with asyncio.timeout(5):
            while not world.hub.connections:
                await asyncio.sleep(0)
    flow = await Workflow.start(world)
    await flow.agent("a", 10, 90)
    if joins == "middle":
        telling = asyncio.ensure_future(_listen(socket))
    await flow.agent("b", 50)
    await flow.end(session_first=session_first)
    if joins == "after":
        telling = asyncio.ensure_future(_listen(socket))
    messages, code = await telling
    assert code == 1000
    assert story(messages) == STORY
    assert messages[-1]["data"] == {"answer": 42}
    for message in messages:
        assert message["session_id"] == SESSION
        assert message["timestamp"].endswith("Z")


async def _listen(socket: Any) -> tuple[list[dict[str, Any]], int]:
    async with socket as opened:
        return await all_of(opened)


async def test_a_client_that_comes_again_gets_the_rest_over_sse(world: World) -> None:
    flow = await Workflow.start(world)
    await flow.agent("a", 10, 90)
    await flow.agent("b", 50)
    await flow.end()
    every = await _sse(world, f"/sse/orchestrator/{SESSION}")
    assert story([orjson.loads(data) for _, data in every]) == STORY
    for at, (event_id, _) in enumerate(every[:-1]):
        rest = await _sse(world, f"/sse/orchestrator/{SESSION}", **{"last-event-id": event_id})
        assert [data for _, data in rest] == [data for _, data in every[at + 1 :]]


async def _sse(world: World, path: str, **headers: str) -> list[tuple[str, bytes]]:
    """Until the server ends the stream."""
    async with asyncio.timeout(10):
        answer = await world.http.get(path, headers=headers)
    found = []
    for block in answer.content.split(b"\n\n"):
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if line and not line.startswith(b":"))
        if b"data" in fields:
            found.append((fields[b"id"].decode(), fields[b"data"]))
    return found


@pytest.mark.parametrize(
    ("event", "fields", "error", "details"),
    [
        (
            "failed",
            {"error_code": "agent_failed", "message": "The forecast failed."},
            "The forecast failed.",
            "agent_failed",
        ),
        ("cancelled", {"by": "user:x", "reason": "no need"}, "The workflow was cancelled.", "cancelled"),
    ],
)
async def test_a_workflow_that_ends_badly_is_an_error_and_1000(
    world: World, event: str, fields: dict[str, Any], error: str, details: str
) -> None:
    flow = await Workflow.start(world)
    await session_event(world, "agent_started", agent="a")
    await session_event(world, "agent_failed", agent="a", error_code="timeout", message="It took too long.")
    await world.post(f"/jobs/{flow.job_id}/cancel", {"reason": "x"})
    await session_event(world, event, **fields)
    messages, code = await _listen(world.ws(f"/ws/orchestrator/{SESSION}"))
    assert code == 1000
    assert [(m["type"], m.get("error"), m.get("details")) for m in messages[1:]] == [
        ("error", "It took too long.", "timeout"),
        ("error", error, details),
    ]


@pytest.mark.parametrize("joins", ["after the retry", "in the second run", "after the end"])
async def test_a_workflow_that_was_retried_is_told_to_the_end_of_its_newest_run_G11(world: World, joins: str) -> None:
    telling: asyncio.Future[tuple[list[dict[str, Any]], int]] | None = None

    async def join(when: str) -> None:
        nonlocal telling
        if joins == when:
            telling = asyncio.ensure_future(_listen(world.ws(f"/ws/orchestrator/{SESSION}")))
            async with asyncio.timeout(5):
                while not world.hub.connections and not telling.done():
                    await asyncio.sleep(0)

    flow = await Workflow.start(world)
    await flow.agent("a", 10)
    await world.post(f"/jobs/{flow.job_id}/fail", {"error_code": "boom", "retryable": False})
    await session_event(world, "failed", error_code="boom", message="It broke.")
    first, code = await _listen(world.ws(f"/ws/orchestrator/{SESSION}"))
    assert (first[-1]["type"], first[-1]["error"], code) == ("error", "It broke.", 1000)
    await world.post(f"/jobs/{flow.job_id}/retry")
    await join("after the retry")
    await world.post(f"/jobs/{flow.job_id}/claim", {"worker_id": "w1"})
    await session_event(world, "started", workflow="retail", job_id=flow.job_id, attempt=2)
    await join("in the second run")
    await flow.agent("b", 50)
    await flow.end()
    await join("after the end")
    assert telling is not None
    messages, code = await telling
    assert code == 1000
    assert story(messages)[-4:] == [
        ("agent_status", "b", "Started", 0),
        ("progress", "b", "at 50", 50),
        ("agent_status", "b", "Completed", 100),
        ("complete", "b", "Complete", 100),
    ]
    assert messages[-1]["data"] == {"answer": 42}


async def test_an_unknown_session_is_waited_for_with_heartbeats() -> None:
    limits = replace(Limits(), orchestrator_heartbeat_s=0.02)
    async with running(limits=limits) as world, world.ws("/ws/orchestrator/nobody-yet") as socket:
        beat = await receive(socket)
        assert (beat["type"], beat["message"], beat["session_id"]) == ("heartbeat", "ping", "nobody-yet")
        await session_event(world, "started", "somebody-else", workflow="x", job_id=(await world.submit())[0])
        await Workflow.start(world, "nobody-yet")
        await session_event(world, "agent_started", "nobody-yet", agent="a")
        while (message := await receive(socket))["type"] == "heartbeat":
            pass
        assert story([message]) == STORY[:1]


@pytest.mark.parametrize("name", ["*", ">", "a.b", "a%20b", "x" * 65, "$JS"])
async def test_a_name_that_is_none_is_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await world.ws(f"/ws/orchestrator/{name}").__aenter__()
    assert refused.value.response.status_code == 422


async def test_live_progress_that_was_lost_is_read_before_complete(world: World) -> None:
    telling = asyncio.ensure_future(_listen(world.ws(f"/ws/orchestrator/{SESSION}")))
    flow = await Workflow.start(world)
    world.live.drop = lambda message: message.first in (1, 2)
    await session_event(world, "agent_started", agent="a")
    for percent in (10, 20, 30):
        await flow.progress(percent)
    await flow.end(session_first=True)
    messages, _ = await telling
    assert [m["progress"] for m in messages if m["type"] == "progress"] == [10, 20, 30]
    assert messages[-1]["type"] == "complete"


# ---------------------------------------------------------------- studio


async def _studio_ready(world: World, clients: int = 1) -> None:
    async with asyncio.timeout(5):
        while sum(len(group.members) for group in world.hub._groups.values()) < clients:
            await asyncio.sleep(0)


async def test_the_studio_hears_status_stages_progress_and_logs(world: World) -> None:
    async with world.ws("/ws") as socket:
        assert socket.subprotocol is None
        await _studio_ready(world)
        [job_id] = await world.submit(subject="sub-01", stages=["recon"])
        await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w1"})
        await world.post(f"/jobs/{job_id}/stage", {"stage": "recon", "status": "running"})
        await world.post(f"/jobs/{job_id}/progress", {"percent": 40, "step": "half"})
        await world.post(f"/jobs/{job_id}/log", {"line": "hello"})
        got = [await receive(socket) for _ in range(6)]
    assert all(set(message) == {"type", "payload"} for message in got)
    events = [m for m in got if m["type"] in ("job_status", "subject_stage_status")]
    assert [(m["type"], m["payload"].get("status")) for m in events] == [
        ("job_status", "QUEUED"),
        ("subject_stage_status", "not_run"),
        ("job_status", "IN_PROGRESS"),
        ("subject_stage_status", "running"),
    ]
    assert {m["payload"]["subject"] for m in events if m["type"] == "subject_stage_status"} == {"sub-01"}
    progress = next(m["payload"] for m in got if m["type"] == "job_progress")
    assert (progress["job_id"], progress["percent"], progress["step"]) == (job_id, 40, "half")
    assert next(m["payload"]["line"] for m in got if m["type"] == "job_log") == "hello"


async def test_a_stage_of_a_job_from_before_finds_its_subject(world: World) -> None:
    [job_id] = await world.submit(subject="sub-02", stages=["recon"])
    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w1"})
    async with world.http.stream("GET", "/sse/studio") as answer:
        await _studio_ready(world)
        await world.post(f"/jobs/{job_id}/stage", {"stage": "recon", "status": "done"})
        async with asyncio.timeout(5):
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    payload = orjson.loads(line[6:])["payload"]
                    break
    assert (payload["subject"], payload["stage"], payload["status"]) == ("sub-02", "recon", "done")


async def test_nothing_is_translated_when_nobody_watches(world: World) -> None:
    async with world.ws("/ws"), world.ws("/ws"):
        await _studio_ready(world, 2)
        assert world.live.followers == 2, "one for logs and one for progress, however many watch"
    async with asyncio.timeout(5):
        while world.live.followers or not world.hub._trie._root.empty:
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------- cursors beyond the end


async def test_a_job_cursor_beyond_an_end_is_reset_and_everything_told_G11(world: World) -> None:
    [job_id] = await world.submit()
    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w1"})
    await world.post(f"/jobs/{job_id}/stream", {"chunk": "c0"})
    for query in ("since=999", "since=1&from=999", "since=1&epoch=another"):
        async with world.ws(f"/ws/job/{job_id}?{query}") as socket:
            got = [await receive(socket) for _ in range(4)]
        assert [message["type"] for message in got] == ["reset", "job.created", "job.claimed", "job.stream"]
        assert (got[0]["seq"], got[0]["from"], got[0]["after"], got[0]["epoch"]) == (0, 0, -1, "memory")
