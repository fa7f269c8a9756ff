"""Sessions as their workers, people and the gateway's tail see them, on the in-memory log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from aura.commands.handler import Caller
from aura.commands.heads import JobHead
from aura.commands.session_closer import MAX_UNANSWERED, RunningSession
from aura.errors import (
    Conflict,
    Fenced,
    Forbidden,
    InvalidRequest,
    KeyReused,
    LogRegression,
    NotFound,
    PoisonEvent,
    TooLarge,
    Unavailable,
)
from aura.ids import SystemIds
from tests.support.session_world import CALLER, SESSION, WORKER, SessionWorld


@pytest.fixture
def world() -> SessionWorld:
    return SessionWorld()


# ---------------------------------------------------------------- the start


async def test_a_workflow_is_one_job_and_its_session_stored_together_or_not_at_all(world: SessionWorld) -> None:
    answer = await world.run()
    (created,) = await world.events("job")
    (started,) = await world.events()
    assert (created["role"], created["task_type"], created["session_id"]) == ("Agent", "workflow", SESSION)
    assert (started["job_id"], started["workflow"]) == (answer["job_id"], "retail")
    assert started["input"]["digest"] == created["input"]["digest"]
    claim = await world.service.call("claim", {"job_id": answer["job_id"], "worker_id": "w"}, CALLER)
    assert claim["payload"] == {"workflow": "retail", "input": {"q": 1}}
    assert b'"q"' not in b"".join([one.body async for batch in world.store.read() for one in batch]), (
        "content is not in the log"
    )


async def test_the_same_request_is_one_workflow_for_ever_whoever_repeats_it_G2(world: SessionWorld) -> None:
    first = await world.run()
    assert await world.run() == first
    assert await world.run(caller=Caller("user:eve", "c", "c")) == first
    await world.call("cancel", first["job_id"])
    assert await world.run() == first
    with pytest.raises(Conflict):
        await world.run(input={"q": 2})
    with pytest.raises(Conflict):
        await world.run(workflow="other")
    assert (await world.run(project_id=2))["job_id"] != first["job_id"], "a session's name is its project's"
    assert len(await world.events()) == 2


async def test_concurrent_repeats_of_a_start_agree_G2(world: SessionWorld) -> None:
    answers = await asyncio.gather(*(world.run() for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert len(await world.events()) == 1


async def test_a_key_and_a_session_id_each_stand_for_one_request_G2(world: SessionWorld) -> None:
    keyed, other_key = replace(CALLER, idempotency_key="k1"), replace(CALLER, idempotency_key="k2")

    async def run(caller: Caller, session_id: str = SESSION, q: int = 1) -> dict[str, Any]:
        return await world.service.call(
            "run_workflow", {"session_id": session_id, "workflow": "w", "input": {"q": q}}, caller
        )

    first = await run(keyed)
    assert await run(keyed) == first
    assert await run(other_key) == first == await run(CALLER), "the same request about the same session, by whomever"
    for session_id, q in (("another", 1), (SESSION, 2)):
        with pytest.raises(KeyReused):
            await run(keyed, session_id, q)
    with pytest.raises(Conflict):
        await run(other_key, q=2)
    assert len(await world.events()) == 1


async def test_two_keys_for_one_session_at_once_agree_G2(world: SessionWorld) -> None:
    callers = [replace(CALLER, idempotency_key=f"k{number}") for number in range(4)]
    asked = {"session_id": SESSION, "workflow": "w", "input": {"q": 1}}
    answers = await asyncio.gather(*(world.service.call("run_workflow", dict(asked), caller) for caller in callers))
    assert all(answer == answers[0] for answer in answers)
    assert len(await world.events()) == 1


async def test_a_session_id_of_another_job_is_taken(world: SessionWorld) -> None:
    task = {"payload": 1, "session_id": SESSION}
    answer = await world.service.call("submit", {"title": "t", "tasks": [task]}, CALLER)
    await world.claim(answer["job_ids"][0])
    assert (await world.say(answer["job_ids"][0], "started", workflow="own"))["session_id"] == SESSION
    with pytest.raises(Conflict, match="another request"):
        await world.run()


@pytest.mark.parametrize("bad", ["", "*", ">", "a.b", "$JS.API", "a b", "x" * 65, "\u202e", 7, None])
async def test_bad_session_ids_bounce_and_leave_no_trace(world: SessionWorld, bad: Any) -> None:
    for operation in ("run_workflow", "cancel_session"):
        with pytest.raises((InvalidRequest, NotFound)):
            await world.service.call(operation, {"session_id": bad, "workflow": "w"}, CALLER)
    assert await world.events("job") == []


async def test_a_crash_before_the_log_leaves_neither_and_the_repeat_works(world: SessionWorld) -> None:
    healthy = world.store._switch

    async def crash(point: str) -> None:
        if point == "append.before":
            raise Unavailable("the process died")

    world.store._switch = crash
    with pytest.raises(Unavailable):
        await world.run()
    world.store._switch = healthy
    assert (await world.events("job"), await world.events()) == ([], [])
    await world.run()
    assert await world.types() == ["started"]


# ---------------------------------------------------------------- workers


async def test_a_worker_tells_the_steps_of_its_agents(world: SessionWorld) -> None:
    job_id = await world.running()
    assert (await world.say(job_id, "started", workflow="retail"))["session_id"] == SESSION
    await world.say(job_id, "agent_started")
    await world.say(job_id, "agent_completed", duration_ms=12, output={"canary": "canary nine"})
    await world.say(job_id, "agent_started", agent="b")
    told = await world.say(job_id, "agent_failed", agent="b", error_code="timeout", message="It took too long.")
    assert told["status"] == "RUNNING"
    assert await world.types() == ["started", "agent_started", "agent_completed", "agent_started", "agent_failed"]
    completed, failed = (await world.events())[2], (await world.events())[4]
    assert (completed["duration_ms"], completed["attempt"]) == (12, 1)
    assert (failed["error_code"], failed["message"]) == ("timeout", "It took too long.")
    assert all("canary nine" not in orjson.dumps(event).decode() for event in await world.events()), (
        "content stays content"
    )
    ref = completed["output"]
    assert ref["part"].startswith("result.1.")
    assert completed["state"] == {
        "v": 1, "status": "RUNNING", "job_id": job_id, "workflow": "retail", "attempt": 1, "agents": {"a": "C"}, "n": 3,
    }  # fmt: skip


async def test_saying_it_again_changes_nothing_G2(world: SessionWorld) -> None:
    job_id = await world.running()
    for _ in range(2):
        await world.say(job_id, "started")
        await world.say(job_id, "agent_started")
    for _ in range(2):
        await world.say(job_id, "agent_completed", duration_ms=1)
    assert await world.types() == ["started", "agent_started", "agent_completed"]


async def test_only_the_holder_of_the_lease_is_believed_G6(world: SessionWorld) -> None:
    job_id = await world.running()
    with pytest.raises(Forbidden):
        await world.say(job_id, "agent_started", caller=replace(WORKER, actor="worker:other"))
    with pytest.raises(Fenced):
        await world.say(job_id, "agent_started", attempt=2)
    await world.expire(job_id, 1)
    with pytest.raises(Fenced):
        await world.say(job_id, "agent_started")
    assert await world.types() == ["started"]


async def test_an_attempt_that_ends_between_the_check_and_the_append_is_fenced_G6(world: SessionWorld) -> None:
    """The lease is checked on the job; the session's own attempt refuses what slips through."""
    job_id = await world.running()
    head = await world.service.jobs.head(job_id)
    await world.expire(job_id, 1)
    world.clock.advance(3600)
    assert await world.claim(job_id) == 2
    await world.say(job_id, "agent_started", attempt=2, agent="b")

    async def checked_a_moment_ago(*_: Any) -> JobHead:
        return head

    world.service.attempts.leased = checked_a_moment_ago  # type: ignore[method-assign]
    with pytest.raises(Fenced):
        await world.say(job_id, "agent_started", attempt=1)


async def test_a_worker_speaks_only_of_its_own_jobs_session(world: SessionWorld) -> None:
    mine = await world.running()
    await world.running("s2")
    with pytest.raises(Conflict, match="another job"):
        await world.say(mine, "agent_started", session_id="s2")
    with pytest.raises(Conflict):
        await world.say(mine, "started", session_id="s2")
    with pytest.raises(Conflict, match="not started"):
        await world.say(mine, "agent_started", session_id="nobodys")


async def test_a_job_without_a_session_is_told_so(world: SessionWorld) -> None:
    job_id = (await world.service.call("submit", {"title": "t", "tasks": [{}]}, CALLER))["job_ids"][0]
    await world.claim(job_id)
    assert (await world.say(job_id, "started", workflow="w"))["session_id"] is None
    assert await world.events() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"event": "exploded"},
        {"event": "agent_started", "agent": "a.b"},
        {"event": "agent_started", "session_id": None},
        {"event": "agent_failed", "message": "x" * 201},
        {"event": "agent_failed", "message": "two\nlines"},
        {"event": "agent_completed", "duration_ms": -1},
        {"event": "agent_started", "attempt": 0},
        {"event": "agent_started", "unknown": 1},
    ],
)
async def test_malformed_reports_bounce(world: SessionWorld, fields: dict[str, Any]) -> None:
    job_id = await world.running()
    body = {"job_id": job_id, "attempt": 1, "session_id": SESSION, "agent": "a", **fields}
    with pytest.raises(InvalidRequest):
        await world.service.sessions.report(body, WORKER)
    with pytest.raises(TooLarge):
        await world.say(job_id, "agent_completed", output="x" * (1024 * 1024))


async def test_over_nats_the_subject_says_who_speaks(world: SessionWorld) -> None:
    job_id = await world.running()
    body = orjson.dumps({"job_id": job_id, "attempt": 1, "event": "started"})
    assert (await world.endpoints.handle("cmd.aura.worker.w1.session", {}, body))[0] == 200
    assert (await world.endpoints.handle("cmd.aura.worker.w2.session", {}, body))[0] == 403


# ---------------------------------------------------------------- the end


async def test_a_session_completes_with_its_jobs_result(world: SessionWorld) -> None:
    async with world.tail():
        job_id = await world.running()
        await world.call("complete", job_id, success=True, details={"answer": 1}, attempt=1)
        ended = await world.until("session.completed")
    done = (await world.events("job"))[-1]
    assert ended["output"] == done["result"]
    assert ended["correlation_id"] == (await world.events())[0]["correlation_id"]
    assert ended["actor"] == "system:sessions"


async def test_a_failure_is_told_in_the_agents_words_or_in_ours(world: SessionWorld) -> None:
    """G13: error texts of user code, which may hold internals, are never in the log."""
    async with world.tail():
        for session, agents_code, jobs_code, words in (
            ("s1", "no_product", "no_product", "We do not sell that."),
            ("s2", "no_product", "ValueError", "The workflow could not be finished."),
        ):
            job_id = await world.running(session)
            await world.say(job_id, "agent_started", session_id=session)
            await world.say(
                job_id, "agent_failed", session_id=session, error_code=agents_code, message="We do not sell that."
            )
            await world.call("fail", job_id, error_code=jobs_code, retryable=False, reason="Traceback … secret")
            async with asyncio.timeout(10):
                while await world.status(session) == "RUNNING":
                    await asyncio.sleep(0)
            ended = (await world.events())[-1]
            assert (ended["type"], ended["error_code"], ended["message"]) == ("session.failed", jobs_code, words)
    assert "secret" not in orjson.dumps(await world.events()).decode()


async def test_a_lost_worker_is_retried_and_without_attempts_left_the_session_fails(world: SessionWorld) -> None:
    async with world.tail():
        job_id = await world.running()
        await world.say(job_id, "agent_started")
        for attempt in (1, 2, 3):
            if attempt > 1:
                world.clock.advance(3600)
                assert await world.claim(job_id) == attempt
                await world.say(job_id, "started", attempt=attempt)
                await world.say(job_id, "agent_started", attempt=attempt)
            assert await world.status() == "RUNNING"
            await world.expire(job_id, attempt)
        ended = await world.until("session.failed")
    assert ended["error_code"] == "lease_expired"
    assert await world.types() == ["started", *["agent_started"] * 3, "failed"]


@pytest.mark.parametrize("when", ["queued", "running"])
async def test_cancelling_a_session_cancels_its_job(world: SessionWorld, when: str) -> None:
    job_id = await world.running() if when == "running" else (await world.run())["job_id"]
    answer = await world.service.call("cancel_session", {"session_id": SESSION, "reason": "enough"}, CALLER)
    assert (answer["status"], answer["job_id"], answer["project_id"]) == ("CANCELLED", job_id, 1)
    ended = (await world.events())[-1]
    assert (ended["type"], ended["by"], ended["reason"]) == ("session.cancelled", "user:ada", "enough")
    assert (await world.events("job"))[-1]["type"] == "job.cancelled"
    assert (await world.service.call("cancel_session", {"session_id": SESSION}, CALLER))["seq"] == answer["seq"]


async def test_a_keyed_cancel_of_a_session_is_repeated_and_not_reused(world: SessionWorld) -> None:
    await world.run()
    keyed = replace(CALLER, idempotency_key="k")
    asked = {"session_id": SESSION, "reason": "enough"}
    first = await world.service.call("cancel_session", asked, keyed)
    assert await world.service.call("cancel_session", asked, keyed) == first
    with pytest.raises(KeyReused):
        await world.service.call("cancel_session", {"session_id": SESSION, "reason": "another"}, keyed)


async def test_cancelling_what_is_over_tells_how_it_ended(world: SessionWorld) -> None:
    job_id = await world.running()
    await world.call("complete", job_id, success=True, attempt=1)
    with pytest.raises(Conflict):
        await world.service.call("cancel_session", {"session_id": SESSION}, CALLER)
    assert await world.status() == "COMPLETED", "nobody had ended it yet"
    with pytest.raises(Conflict) as refusal:
        await world.service.call("cancel_session", {"session_id": SESSION}, CALLER)
    assert refusal.value.status == "COMPLETED"
    with pytest.raises(NotFound):
        await world.service.call("cancel_session", {"session_id": "nobodys"}, CALLER)


async def test_sessions_of_other_projects_are_not_there_G13(world: SessionWorld) -> None:
    await world.run(project_id=2)
    for params in ({}, {"project_id": 2}):
        with pytest.raises(NotFound):
            await world.service.call(
                "cancel_session", {"session_id": SESSION, **params}, replace(CALLER, projects=frozenset({1}))
            )
    assert (await world.service.call("cancel_session", {"session_id": SESSION}, CALLER))["project_id"] == 2


async def test_a_job_cancelled_behind_the_sessions_back_ends_it(world: SessionWorld) -> None:
    async with world.tail():
        job_id = await world.running()
        await world.call("cancel", job_id, reason="no more")
        ended = await world.until("session.cancelled")
    assert (ended["by"], ended["reason"]) == ("user:ada", "no more")


async def test_a_retried_job_starts_its_session_again_and_it_ends_again(world: SessionWorld) -> None:
    async with world.tail():
        job_id = await world.running()
        await world.call("fail", job_id, retryable=False)
        await world.until("session.failed")
        await world.call("retry", job_id)
        assert await world.claim(job_id) == 2
        await world.say(job_id, "started", attempt=2)
        assert await world.status() == "RUNNING"
        await world.call("complete", job_id, success=True, attempt=2)
        await world.until("session.completed")
    assert await world.types() == ["started", "failed", "started", "completed"]


async def test_a_job_that_waits_for_a_verdict_keeps_its_session_running(world: SessionWorld) -> None:
    async with world.tail():
        job_id = await world.running()
        await world.call("complete", job_id, success=False, details={"draft": 1}, attempt=1)
        assert (await world.service.sessions.settle(1, SESSION, CALLER)) is not None
        assert await world.status() == "RUNNING"
        await world.call("accept", job_id)
        ended = await world.until("session.completed")
    assert ended["output"]["bytes"] > 0


async def test_a_closer_that_died_is_replaced_by_the_next_sweep(world: SessionWorld) -> None:
    """The job ended while nobody was looking, or who looked died before it wrote: the read model still calls it RUNNING."""
    ended, still_open = await world.running("s1"), await world.running("s2")
    await world.call("complete", ended, success=True, attempt=1)
    last = (await world.store.identity()).last_seq

    async def running() -> AsyncIterator[list[RunningSession]]:
        yield [
            RunningSession(1, "s1", ended),
            RunningSession(1, "s2", still_open),
            RunningSession(1, "gone", str(SystemIds().uuid7())),
        ]

    async with world.tail(last + 1) as closer:
        assert await closer.sweep(running()) == 2
        assert (await world.status("s1"), await world.status("s2")) == ("COMPLETED", "RUNNING")
        await world.call("cancel", still_open)  # known from the sweep
        await world.until("session.cancelled")


async def _pages(*pages: list[RunningSession]) -> AsyncIterator[list[RunningSession]]:
    for page in pages:
        yield page


@pytest.mark.parametrize("wrong", [PoisonEvent("no readable state"), KeyError("status"), Unavailable("no answer")])
async def test_a_session_that_cannot_be_settled_stops_no_other(world: SessionWorld, wrong: Exception) -> None:
    """Neither those beside it nor those on the pages behind it."""
    jobs = {name: await world.running(name) for name in ("bad", "beside", "behind")}
    for job_id in jobs.values():
        await world.call("complete", job_id, success=True, attempt=1)
    settle = world.service.sessions.settle

    async def settled(project: int, session_id: str, caller: Caller) -> Any:
        if session_id == "bad":
            raise wrong
        return await settle(project, session_id, caller)

    world.service.sessions.settle = settled  # type: ignore[method-assign]
    bad, beside, behind = (RunningSession(1, name, job_id) for name, job_id in jobs.items())
    async with world.tail(10_000) as closer:
        assert await closer.sweep(_pages([bad, beside], [bad], [behind])) == 2
    assert [await world.status(name) for name in jobs] == ["RUNNING", "COMPLETED", "COMPLETED"]


async def test_a_sweep_ends_when_nothing_answers_or_the_log_is_not_ours(world: SessionWorld) -> None:
    asked = 0

    async def no_answer(*_: Any) -> Any:
        nonlocal asked
        asked += 1
        raise Unavailable("no answer")

    world.service.sessions.settle = no_answer  # type: ignore[method-assign]
    many = [RunningSession(1, f"s{n}", f"j{n}") for n in range(MAX_UNANSWERED * 4)]

    def foreign() -> None:
        raise LogRegression("another log")

    async with world.tail(10_000) as closer:
        with pytest.raises(Unavailable):
            await closer.sweep(_pages(many))
        assert asked == MAX_UNANSWERED
        closer._check = foreign
        with pytest.raises(LogRegression):
            await closer.sweep(_pages(many))
        assert asked == MAX_UNANSWERED


async def test_any_number_of_closers_end_a_session_once_G2(world: SessionWorld) -> None:
    async with world.tail(), world.tail(), world.tail():
        job_id = await world.running()
        await world.call("complete", job_id, success=True, attempt=1)
        await world.until("session.completed")
        await asyncio.gather(*(world.service.sessions.settle(1, SESSION, CALLER) for _ in range(4)))
    assert await world.types() == ["started", "completed"]


async def test_a_session_started_just_after_its_job_ended_is_ended_too(world: SessionWorld) -> None:
    """The worker's lease was checked, then the job was cancelled, then the session's event was stored."""
    task = {"payload": 1, "session_id": SESSION}
    job_id = (await world.service.call("submit", {"title": "t", "tasks": [task]}, CALLER))["job_ids"][0]
    await world.claim(job_id)
    head = await world.service.jobs.head(job_id)

    async def checked_a_moment_ago(*_: Any) -> JobHead:
        return head

    async with world.tail():
        await world.call("cancel", job_id)
        world.service.attempts.leased = checked_a_moment_ago  # type: ignore[method-assign]
        await world.say(job_id, "started", workflow="w")
        await world.until("session.cancelled")


async def test_what_agents_handed_in_is_erased_with_the_job_G15(world: SessionWorld) -> None:
    job_id = await world.running()
    await world.say(job_id, "agent_started")
    await world.say(job_id, "agent_completed", duration_ms=1, output={"canary": 1})
    await world.call("complete", job_id, success=True, attempt=1)
    await world.service.call("purge", {"job_id": job_id}, Caller("director:k", "c", "c"))
    assert await world.content.data_key(1, job_id) is None
    assert await world.run() == await world.run(), "a repeat still meets the first one"
