"""The Python client against a real gateway, through cut connections and restarts: nothing missing, nothing twice (G11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import orjson
import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Response
from websockets.typing import Subprotocol

from aura.client import Aura, Chunk, Event, LogLine, Note, Progress, Reset
from aura.errors import AuraError, Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated, Unavailable
from aura.gateway.limits import Limits
from aura.ids import SystemIds
from aura.log.store import Append
from tests.support.access import BOOTSTRAP, issue, key_id, secured
from tests.support.gateway import World, running
from tests.support.proxy import Proxy

SMALL = replace(Limits(), ring_frames=64, page_events=50, page_bytes=2_000)
PRD = {"title": "Hello", "tasks": [{"type": "greet", "role": "Employee", "payload": {"to": "you"}}]}


class Client(Aura):
    """Waits a moment between tries, and counts them."""

    def __init__(self, url: str, **options: Any) -> None:
        self.broke: list[AuraError] = []
        super().__init__(url, on_retry=self.broke.append, sleep=lambda pause_s: asyncio.sleep(0), **options)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with running(limits=SMALL) as made:
        yield made


@pytest_asyncio.fixture
async def aura(world: World) -> AsyncIterator[Client]:
    async with Client(world.url) as made:
        yield made


def through(proxy: Proxy) -> Client:
    return Client(proxy.url.replace("nats://", "http://"))


async def submitted(aura: Aura) -> str:
    return (await aura.submit(PRD)).job_ids[0]


async def say(world: World, job_id: str, *texts: str) -> None:
    for text in texts:
        await world.post(f"/jobs/{job_id}/stream", {"chunk": text})


async def fill(world: World, count: int, size: int = 1) -> None:
    """System events straight into the log."""
    for _ in range(count):
        event_id = world.ctx.ids.uuid7()
        body = orjson.dumps({"id": event_id, "type": "system.alert_raised", "v": 1, "code": "x" * size})
        await world.store.append(Append("aura.system.alert_raised", None, 0, event_id, body))


# ---------------------------------------------------------------- requests


async def test_a_job_from_submission_to_retry(world: World, aura: Client) -> None:
    stored = await aura.submit(PRD)
    [job_id] = stored.job_ids
    job = await aura.job(job_id, min_seq=stored.seq)
    assert (job.id, job.project_id, job.status, job.closed) == (job_id, 1, "QUEUED", False)
    assert await aura.assign(job_id, "m") == stored.seq + 1
    assert await aura.cancel(job_id, "enough") == stored.seq + 2
    assert (await aura.job(job_id)).closed
    assert await aura.retry(job_id) == stored.seq + 3
    assert [event.type for event in await aura.events(job_id)] == [
        "job.created", "job.assigned", "job.cancelled", "job.retried",
    ]  # fmt: skip
    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w"})
    await say(world, job_id, "hello ", "there")
    assert await aura.output(job_id) == "hello there"


async def test_a_key_makes_a_submission_repeatable(aura: Client) -> None:
    first = await aura.submit(PRD, key="once")
    assert (await aura.submit(PRD, key="once")).job_ids == first.job_ids


async def test_pages_of_jobs_are_fetched_as_they_are_read(aura: Client) -> None:
    await aura.submit({"title": "Many", "tasks": [{"type": "t", "role": "Employee", "payload": {}}] * 230})
    async with aclosing(aura.jobs(status="QUEUED,ASSIGNED")) as jobs:
        assert len({job.id async for job in jobs}) == 230


async def test_refusals_are_typed(aura: Client) -> None:
    with pytest.raises(NotFound):
        await aura.job(SystemIds().uuid7())
    with pytest.raises(InvalidRequest):
        await aura.submit({"title": "", "tasks": []})
    job_id = await submitted(aura)
    with pytest.raises(Conflict) as refused:
        await aura.retry(job_id)
    assert refused.value.status == "QUEUED"


# ---------------------------------------------------------------- watch


async def test_watch_ends_when_the_job_is_closed(world: World, aura: Client) -> None:
    job_id = await submitted(aura)
    seen: list[str] = []
    async with aclosing(aura.watch(job_id)) as items:
        async for item in items:
            match item:
                case Event(type="job.created"):
                    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w"})
                    await say(world, job_id, "one ")
                case Chunk(text="one "):
                    seen.append(item.text)
                    await world.post(f"/jobs/{job_id}/log", {"level": "INFO", "line": "a line"})
                    await world.post(f"/jobs/{job_id}/progress", {"percent": 40, "step": "half"})
                case LogLine() | Progress():
                    seen.append(type(item).__name__)
                    if isinstance(item, Progress):
                        await world.post(f"/jobs/{job_id}/complete", {"success": True, "attempt": 1})
                case Event():
                    seen.append(item.closes or item.type)
    assert seen == ["job.claimed", "one ", "LogLine", "Progress", "COMPLETED"]


async def test_watch_of_an_unknown_job_is_not_found(aura: Client) -> None:
    with pytest.raises(NotFound):
        async with asyncio.timeout(5):
            await anext(aura.watch(SystemIds().uuid7()))


async def test_watch_goes_on_after_every_cut_without_gap_or_duplicate_G11(world: World, aura: Client) -> None:
    job_id = await submitted(aura)
    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w"})
    chunks = [f"c{number} " for number in range(120)]

    async def write() -> None:
        await say(world, job_id, *chunks)
        await world.post(f"/jobs/{job_id}/complete", {"success": True, "attempt": 1})

    async with Proxy(world.url) as proxy, through(proxy) as cut:
        writing = asyncio.create_task(write())
        got: list[Any] = []
        async with aclosing(cut.watch(job_id)) as items:
            async for item in items:
                got.append(item)
                if len(got) % 10 == 0:
                    proxy.cut()
        await writing
    assert [item.text for item in got if isinstance(item, Chunk)] == chunks
    assert [item.type for item in got if isinstance(item, Event)] == ["job.created", "job.claimed", "job.completed"]
    assert got[-1].closes == "COMPLETED"
    assert len(cut.broke) >= 5


async def test_watch_of_a_job_that_was_retried_goes_past_its_first_end(world: World, aura: Client) -> None:
    job_id = await submitted(aura)
    await aura.cancel(job_id)
    await aura.retry(job_id)
    await aura.cancel(job_id)
    async with asyncio.timeout(10), aclosing(aura.watch(job_id)) as items:
        assert [item.type async for item in items if isinstance(item, Event)] == [
            "job.created", "job.cancelled", "job.retried", "job.cancelled",
        ]  # fmt: skip


async def test_watch_of_a_job_whose_log_became_an_older_backup_is_a_reset_and_its_story_anew_G11(world: World) -> None:
    """Its numbers are lower than those that were seen: nothing may be taken for a repeat, and the watch ends where the job ends."""
    async with running(limits=SMALL) as restored, Proxy(world.url) as proxy, through(proxy) as cut:
        await fill(world, 50)
        for one in (world, restored):
            async with Client(one.url) as there:
                [job_id] = (await there.submit(PRD, key="once")).job_ids
        for one, text in ((world, "lost"), (restored, "kept")):
            await one.post(f"/jobs/{job_id}/claim", {"worker_id": "w"})
            await say(one, job_id, *([text] * 3))
        restored.hub.epoch = "restored"
        got: list[Any] = []
        async with asyncio.timeout(20), aclosing(cut.watch(job_id)) as items:
            async for item in items:
                got.append(item)
                if len(got) == 5:
                    proxy._target = ("127.0.0.1", restored.service.port)
                    proxy.cut()
                elif len(got) == 10:
                    await restored.post(f"/jobs/{job_id}/complete", {"success": True, "attempt": 1})
        before, after = got[:5], got[6:]
        assert got[5] == Reset("restored", got[5].reason, 0)
        for part, text in ((before, "lost"), (after, "kept")):
            assert [item.type for item in part if isinstance(item, Event)][:2] == ["job.created", "job.claimed"]
            assert [item.text for item in part if isinstance(item, Chunk)] == [text] * 3
        assert got[-1].closes == "COMPLETED"
        assert got[-1].seq < before[0].seq


async def test_a_watch_after_a_reset_goes_past_the_ends_that_the_new_log_took_back(world: World) -> None:
    async with running(limits=SMALL) as restored, Proxy(world.url) as proxy, through(proxy) as cut:
        for one in (world, restored):
            async with Client(one.url) as there:
                [job_id] = (await there.submit(PRD, key="once")).job_ids
        async with Client(restored.url) as there:
            await there.cancel(job_id)
            await there.retry(job_id)
            await there.cancel(job_id)
        restored.hub.epoch = "restored"
        types: list[str] = []
        async with asyncio.timeout(20), aclosing(cut.watch(job_id)) as items:
            async for item in items:
                types.append(item.type if isinstance(item, Event) else type(item).__name__)
                if len(types) == 1:
                    proxy._target = ("127.0.0.1", restored.service.port)
                    proxy.cut()
        assert types == ["job.created", "Reset", "job.created", "job.cancelled", "job.retried", "job.cancelled"]


def _as_asked(_connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return offered[0] if offered else None


async def _busy(socket: ServerConnection) -> None:
    await socket.close(1013, "full")


@pytest.mark.parametrize("status", [None, 429, 503])
async def test_a_gateway_that_is_full_for_the_moment_is_come_back_to_also_at_first(status: int | None) -> None:
    """1013 after the upgrade, 429 and 503 before it, with a problem or (from what stands before a gateway) without."""
    tries = 0

    def refuse(connection: ServerConnection, _request: object) -> Response | None:
        nonlocal tries
        tries += 1
        return None if status is None else connection.respond(HTTPStatus(status), "full")

    async with (
        serve(_busy, "127.0.0.1", 0, process_request=refuse, select_subprotocol=_as_asked) as server,
        Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as aura,
    ):
        for feed in (aura.follow(), aura.watch("x")):
            tries = 0
            waiting = asyncio.ensure_future(anext(feed))
            async with asyncio.timeout(10):
                while tries < 4 and not waiting.done():
                    await asyncio.sleep(0)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert all(isinstance(error, Unavailable) for error in aura.broke)


async def test_1008_is_final() -> None:
    async def policy(socket: ServerConnection) -> None:
        await socket.close(1008, "abuse")

    async with (
        serve(policy, "127.0.0.1", 0, select_subprotocol=_as_asked) as server,
        Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as aura,
    ):
        for feed in (aura.follow(), aura.watch("x")):
            with pytest.raises(InvalidRequest, match="abuse"):
                await anext(feed)
        assert aura.broke == []


async def test_the_first_connection_is_not_tried_for_ever() -> None:
    async with Client("http://127.0.0.1:9", tries=2) as nobody:
        with pytest.raises(Unavailable):
            await anext(nobody.follow())
        assert nobody.broke == []
        with pytest.raises(Unavailable):
            await anext(nobody.watch("x"))


# ---------------------------------------------------------------- follow


async def collect(aura: Aura, until: int, **options: Any) -> list[int]:
    """Sequences up to ``until``."""
    found: list[int] = []
    async with asyncio.timeout(20), aclosing(aura.follow(**options)) as items:
        async for item in items:
            assert isinstance(item, Event), item
            found.append(item.seq)
            if item.seq >= until:
                break
    return found


@pytest.mark.parametrize("since", [0, 1, 120, 199])
async def test_follow_replays_and_goes_live_without_gap_or_duplicate_G11(
    world: World, aura: Client, since: int
) -> None:
    await fill(world, 200)
    following = asyncio.create_task(collect(aura, 230, since=since))
    await fill(world, 30)
    assert await following == list(range(since + 1, 231))


async def test_follow_selects_by_subject_and_says_it(world: World, aura: Client) -> None:
    await fill(world, 5)
    job_id = await submitted(aura)
    await fill(world, 5)
    async with asyncio.timeout(10), aclosing(aura.follow("aura.job.1.>", since=0)) as items:
        first = await anext(items)
        assert isinstance(first, Event)
        assert (first.seq, first.type, first.subject) == (6, "job.created", f"aura.job.1.{job_id}.created")
        assert first.flat["job_id"] == job_id
        assert first.flat["seq"] == 6
        other = await submitted(aura)
        second = await anext(items)
        assert isinstance(second, Event)
        assert second.flat["job_id"] == other


async def test_follow_the_last_n(world: World, aura: Client) -> None:
    await fill(world, 100)
    await world.hub.caught_up(100)
    assert await collect(aura, 100, last=3) == [98, 99, 100]


async def test_follow_goes_on_after_every_cut_without_gap_or_duplicate_G11(world: World) -> None:
    async with Proxy(world.url) as proxy, through(proxy) as cut:

        async def write() -> None:
            for _ in range(60):
                await fill(world, 10)
                await asyncio.sleep(0)

        writing = asyncio.create_task(write())
        found: list[int] = []
        async with asyncio.timeout(60), aclosing(cut.follow(since=0)) as items:
            async for item in items:
                assert isinstance(item, Event), item
                found.append(item.seq)
                if len(found) % 37 == 0:
                    proxy.cut()
                if item.seq == 600:
                    break
        await writing
    assert found == list(range(1, 601))
    assert len(cut.broke) >= 5


async def test_a_cursor_that_cannot_be_honoured_is_a_reset_never_a_hole_G11(world: World, aura: Client) -> None:
    await fill(world, 5)
    await world.hub.caught_up(5)
    for options in ({"since": 1_000}, {"since": 2, "epoch": "another"}):
        head = await world.last_seq()
        async with asyncio.timeout(10), aclosing(aura.follow(**options)) as items:  # type: ignore[arg-type]
            reset = await anext(items)
            assert isinstance(reset, Reset)
            assert (reset.epoch, reset.seq) == ("memory", head)
            await fill(world, 1)
            event = await anext(items)
            assert isinstance(event, Event)
            assert event.seq == head + 1


async def test_a_subject_that_is_none_is_refused(aura: Client) -> None:
    for subject in ("$JS.>", "aura.>.x", "secret.>"):
        with pytest.raises(InvalidRequest):
            async with asyncio.timeout(5):
                await anext(aura.follow(subject))


async def test_a_slow_consumer_is_closed_with_4408_and_loses_nothing_G12(world: World, aura: Client) -> None:
    """When every buffer between is full the gateway lets it go; it resumes from what it has handed out."""
    found: list[int] = []
    async with asyncio.timeout(60), aclosing(aura.follow(since=0)) as items:
        await fill(world, 1)
        async for item in items:
            assert isinstance(item, Event), item
            found.append(item.seq)
            if item.seq == 1:
                for _ in range(80):  # and read nothing meanwhile
                    await fill(world, 10, size=30_000)
                    await world.hub.caught_up(await world.last_seq())
            if item.seq == 801:
                break
    assert found == list(range(1, 802))
    assert any("4408" in error.detail for error in aura.broke), aura.broke


async def test_heartbeats_are_notes_without_a_past(world: World, aura: Client) -> None:
    async with asyncio.timeout(10), aclosing(aura.follow("health.aura.m.>")) as items:
        first = asyncio.ensure_future(anext(items))
        while not first.done():
            world.health.push("m", "w", {"payload": {"status": "ok"}})
            await asyncio.sleep(0)
        note = await first
    assert isinstance(note, Note)
    assert (note.type, note.subject, note.flat["worker_id"]) == ("model.heartbeat", "health.aura.m.w", "w")


async def test_output_is_not_followed_but_watched(aura: Client) -> None:
    with pytest.raises(InvalidRequest, match="watch"):
        await anext(aura.follow("aura.output.1.x.>"))


# ---------------------------------------------------------------- who are you


async def test_a_key_submits_and_follows_what_it_may_G13() -> None:
    async with secured() as world:
        operator = await issue(world, "operator", [1])
        async with Client(world.url, api_key=operator) as aura, aclosing(aura.follow("aura.job.1.>")) as items:
            following = asyncio.ensure_future(anext(items))
            job_id = await submitted(aura)
            async with asyncio.timeout(10):
                event = await following
            assert isinstance(event, Event)
            assert event.flat["job_id"] == job_id
            await aura.cancel(job_id)
            async with asyncio.timeout(10), aclosing(aura.watch(job_id)) as watched:
                assert [item.type async for item in watched if isinstance(item, Event)][-1] == "job.cancelled"
            with pytest.raises(Forbidden):
                await anext(aura.follow("aura.job.2.>"))


async def test_a_stranger_is_told_so_at_once_G13() -> None:
    async with secured() as world:
        async with Client(world.url) as nobody:
            with pytest.raises(Unauthenticated):
                await submitted(nobody)
        async with Client(world.url, api_key="aura_0123456789ab_wrong") as stranger:
            with pytest.raises(Unauthenticated):
                await submitted(stranger)
            with pytest.raises(Unauthenticated):
                await anext(stranger.follow())
            assert stranger.broke == []


async def test_a_revoked_key_ends_the_feed_for_good_G13() -> None:
    async with secured() as world:
        key = await issue(world, "operator")
        async with Client(world.url, api_key=key) as aura, aclosing(aura.follow("aura.job.>", since=0)) as items:
            await submitted(aura)
            async with asyncio.timeout(30):
                assert isinstance(await anext(items), Event)
                await world.commands.call("revoke_key", {"key_id": key_id(key), "reason": "lost"}, BOOTSTRAP)
                with pytest.raises(Unauthenticated):
                    await anext(items)
            assert aura.broke == []
