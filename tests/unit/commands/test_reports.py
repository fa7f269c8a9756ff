"""Results, failures and output, as straggling gateways, impatient clients and repeated requests hand them in (G2, G6, G8)."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest

from aura.commands.handler import Caller
from aura.commands.results import reported
from aura.commands.service import CommandService
from aura.domain import job_commands as c
from aura.domain.job_state import JobStatus
from aura.errors import Conflict, Fenced, Forbidden, InvalidRequest, KeyReused
from tests.unit.commands.test_service import CALLER, World


@pytest.fixture
def world() -> World:
    return World()


async def details(world: World, job_id: str) -> Any:
    head = await world.service.jobs.head(job_id, consistent=True)
    found = (await reported(world.store, world.content, head)).details
    return orjson.loads(found) if found is not None else None


async def expire(world: World, job_id: str, attempt: int) -> None:
    command = c.ExpireLease(attempt, 60, 0)
    await world.fresh().jobs.execute(job_id, command, Caller("scheduler:1", "c", "c"))


async def ask(service: CommandService, operation: str, job_id: str, **params: Any) -> dict[str, Any]:
    return await service.call(operation, {"job_id": job_id, **params}, CALLER)


# ---------------------------------------------------------------- results


async def test_g6_a_straggler_never_overwrites_the_accepted_result(world: World) -> None:
    """A gateway whose cached head still says "attempt 1" writes its result; the accepted one is attempt 2's."""
    stale = world.fresh()
    job_id = (await world.submit())["job_ids"][0]
    await ask(stale, "claim", job_id, worker_id="w1")
    await expire(world, job_id, 1)
    await world.call("claim", job_id, worker_id="w2")
    await world.call("complete", job_id, attempt=2, success=True, details={"who": 2})
    with pytest.raises(Fenced):
        await ask(stale, "complete", job_id, attempt=1, success=True, details={"who": 1})
    assert await details(world, job_id) == {"who": 2}
    completed = next(event for event in await world.events() if event["type"] == "job.completed")
    assert completed["result"]["part"].startswith("result.2.")
    world.clock.advance(61)
    await world.call("purge", job_id)
    assert world.content._backend.subjects(f"content.aura.1.{job_id}.") == []  # type: ignore[attr-defined]


async def test_a_holder_of_any_length_speaks_for_its_lease_and_nobody_else_does_G6(world: World) -> None:
    """The state keeps a hash of a long one; who asks is held against it in the same form, also by who reads the log anew."""
    owner = f"user:{'a' * 60}"
    job_id = (await world.submit())["job_ids"][0]
    mine = replace(CALLER, actor=owner, owner=owner)
    await world.service.call("claim", {"job_id": job_id, "worker_id": "w1"}, mine)
    for service in (world.service, world.fresh()):
        await service.call("heartbeat", {"job_id": job_id, "attempt": 1}, mine)
        for other in (f"{owner}b", owner[:-1], None):
            with pytest.raises(Forbidden):
                await service.call("heartbeat", {"job_id": job_id, "attempt": 1}, replace(mine, owner=other))
    await world.fresh().call("complete", {"job_id": job_id, "attempt": 1, "success": True}, mine)
    claimed = next(event for event in await world.events() if event["type"] == "job.claimed")
    assert claimed["holder"] == owner, "the event itself names it"


async def test_g8_of_two_results_of_one_attempt_the_committed_one_is_read(world: World) -> None:
    job_id = await world.claimed()
    reports = [ask(world.fresh(), "complete", job_id, attempt=1, success=True, details={"n": n}) for n in range(8)]
    outcomes = await asyncio.gather(*reports, return_exceptions=True)
    (winner,) = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, dict)]
    assert await details(world, job_id) == {"n": winner}
    assert (await world.types()).count("job.late_result_rejected") == 1


async def test_a_later_result_replaces_an_earlier_one_and_errors_are_read_by_their_event(world: World) -> None:
    job_id = await world.claimed()
    await world.call("fail", job_id, reason="boom", retryable=True)
    world.clock.advance(60)
    await world.call("claim", job_id, worker_id="w1")
    await world.call("complete", job_id, success=False, details={"draft": 1})
    assert await details(world, job_id) == {"draft": 1}
    await world.call("retry", job_id)
    await world.call("claim", job_id, worker_id="w1")
    await world.call("complete", job_id, success=True, details={"draft": 2})
    head = await world.service.jobs.head(job_id)
    found = await reported(world.store, world.content, head)
    assert (found.details, found.error) == (b'{"draft":2}', b'"boom"')


@pytest.mark.parametrize(
    ("operation", "params", "status"),
    [
        ("complete", {"success": True, "details": {"a": 1}}, "COMPLETED"),
        ("complete", {"success": True}, "COMPLETED"),
        ("complete", {"success": False, "details": {"a": 1}}, "SUBMITTED"),
        ("fail", {"reason": "boom", "retryable": False}, "FAILED"),
        ("fail", {"reason": "boom"}, "QUEUED"),
    ],
)
@pytest.mark.parametrize("attempt", [None, 1])
async def test_g2_an_unkeyed_report_repeated_gets_the_first_answer(
    world: World, operation: str, params: dict[str, Any], status: str, attempt: int | None
) -> None:
    """The client lost the answer; it is told that it is already so, from any process, whatever else happened to the archive."""
    job_id = await world.claimed()
    named = params if attempt is None else {**params, "attempt": attempt}
    first = await world.call(operation, job_id, **named)
    assert first["status"] == status
    if JobStatus(status).closed:
        await world.call("hold", job_id)
    before = await world.types()
    for service in (world.service, world.fresh()):
        assert await ask(service, operation, job_id, **named) == first
    assert await world.types() == before


@pytest.mark.parametrize(
    ("operation", "params", "actor"),
    [
        ("complete", {"success": True, "details": {"a": 2}}, "anonymous"),
        ("complete", {"success": False, "details": {"a": 1}}, "anonymous"),
        ("complete", {"success": True, "details": {"a": 1}, "output_count": 7}, "anonymous"),
        ("complete", {"success": True, "details": {"a": 1}}, "user:somebody_else"),
        ("fail", {"reason": "boom"}, "anonymous"),
    ],
)
async def test_another_report_after_the_first_is_late(
    world: World, operation: str, params: dict[str, Any], actor: str
) -> None:
    job_id = await world.claimed()
    await world.call("complete", job_id, attempt=1, success=True, details={"a": 1})
    with pytest.raises(Fenced):
        await world.service.call(operation, {"job_id": job_id, "attempt": 1, **params}, replace(CALLER, actor=actor))
    assert (await world.types())[-1] == "job.late_result_rejected"


async def test_a_report_repeated_after_the_job_went_on_is_late(world: World) -> None:
    job_id = await world.claimed()
    await world.call("fail", job_id, attempt=1, reason="boom")
    await world.call("assign", job_id, assigned_model="m")
    with pytest.raises(Fenced):
        await world.call("fail", job_id, attempt=1, reason="boom")


async def test_g12_late_results_are_recorded_at_most_once_per_attempt(world: World) -> None:
    """Ten attempts, nine of them lost; whoever reports them again and again fills no log."""
    job_id = (await world.submit({"max_attempts": 100}))["job_ids"][0]
    for attempt in range(1, 11):
        await world.call("claim", job_id, worker_id="w")
        if attempt < 10:
            await expire(world, job_id, attempt)
            world.clock.advance(400)
    await world.call("complete", job_id, attempt=10, success=True)
    for _ in range(3):
        for attempt in range(1, 10):
            with pytest.raises(Fenced):
                await world.call("complete", job_id, attempt=attempt, success=True)
    late = [event["attempt"] for event in await world.events() if event["type"] == "job.late_result_rejected"]
    assert late == list(range(1, 10))


# ---------------------------------------------------------------- what cannot be stored


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize("bad", [nested(65), nested(300), [[[nested(65)]]], 2**70, {"a": {1, 2}}, {1: 2}])
@pytest.mark.parametrize("key", [None, "k"])
async def test_details_and_payloads_that_cannot_be_stored_bounce(world: World, bad: Any, key: str | None) -> None:
    job_id = await world.claimed()
    before = await world.types()
    with pytest.raises(InvalidRequest):
        await world.call("complete", job_id, key=key, success=True, details=bad)
    with pytest.raises(InvalidRequest):
        await world.submit({"payload": bad}, key=key)
    with pytest.raises(InvalidRequest):
        await world.service.call("model_heartbeat", {"model": "m", "status": "ok", "x": {"y": {1, 2}}}, CALLER)
    assert await world.types() == before
    await world.call("complete", job_id, success=True, details=nested(64))
    assert await details(world, job_id) == nested(64)


# ---------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("operation", "params", "other"),
    [
        ("stream", {"chunk": "hello"}, {"chunk": "hello", "final": True}),
        ("log", {"line": "hello"}, {"line": "good-bye"}),
        ("progress", {"percent": 5}, {"percent": 6}),
    ],
)
async def test_g2_keyed_output_is_stored_once(
    world: World, operation: str, params: dict[str, Any], other: dict[str, Any]
) -> None:
    job_id = await world.claimed()
    await world.call("log", job_id, line="first")
    first = await world.call(operation, job_id, key="same", **params)
    assert first["i"] == 1
    for service in (world.service, world.fresh()):
        world.service = service
        assert await world.call(operation, job_id, key="same", **params) == first
        with pytest.raises(KeyReused):
            await world.call(operation, job_id, key="same", **other)
    with pytest.raises(KeyReused):
        await world.call("log", job_id, key="same", line="another operation")
    assert await world.output.count(1, job_id, 1) == 2
    assert (await world.call(operation, job_id, key="next", **params))["i"] == 2
    await world.call("complete", job_id, success=True)
    again = await world.call(operation, job_id, key="same", **params)
    assert (again["i"], again["attempt"]) == (1, 1), "also when the attempt is over"
    with pytest.raises(Conflict):
        await world.call(operation, job_id, key="unknown", **params)
    assert await world.output.count(1, job_id, 1) == 3


# ---------------------------------------------------------------- the archive


async def test_a_job_that_waits_for_a_verdict_is_not_purged(world: World) -> None:
    """Purging it would strand what depends on it: there is no verdict on a purged job."""
    first, second = (await world.submit({"name": "a"}, {"depends_on": ["a"]}))["job_ids"]
    await world.call("claim", first, worker_id="w")
    await world.call("complete", first, success=False, details={"x": 1})
    world.clock.advance(3_600)
    with pytest.raises(Conflict) as refusal:
        await world.call("purge", first)
    assert refusal.value.status == "SUBMITTED"
    await world.call("accept", first)
    assert (await world.call("purge", first))["ok"] is True
    await world.call("claim", second, worker_id="w")


async def test_reports_in_any_order_are_taken_or_refused(world: World) -> None:
    """Whatever is reported in whatever state: an answer or a conflict, never a crash."""
    job_id = await world.claimed()
    for operation, params in [("complete", {"success": True, "details": {"a": 1}}), ("fail", {"reason": "x"})] * 2:
        for attempt in (None, 1, 2):
            with suppress(Conflict):
                await world.call(operation, job_id, **params, **({"attempt": attempt} if attempt else {}))
