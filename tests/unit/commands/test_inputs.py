"""Inputs: which payload a job runs, who may claim it, and what happens when it cannot be read (G2, G6, G8)."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from aura.commands.endpoints import KEY_HEADER, CommandEndpoints
from aura.commands.service import CommandService
from aura.errors import Conflict, InvalidRequest, KeyReused, Unavailable
from aura.ids import SystemIds
from aura.log.content import SealedContent, SealedMessage
from aura.log.content_sweep import IN_FLIGHT_S, Sweeper
from tests.unit.commands.test_service import CALLER, World


@pytest.fixture
def world() -> World:
    return World()


def crash_at_append(world: World) -> None:
    """The next append dies before it is stored; the one after works."""
    healthy = world.store._switch

    async def crash(point: str) -> None:
        if point == "append.before":
            world.store._switch = healthy
            raise Unavailable("the process died")

    world.store._switch = crash


async def claim(world: World, job_id: str, **params: Any) -> dict[str, Any]:
    return await world.call("claim", job_id, worker_id="w", **params)


# ---------------------------------------------------------------- the payload is the one that was asked for


@pytest.mark.parametrize("count", [1, 3])
async def test_g2_another_body_after_a_crash_never_runs_the_first_payload(world: World, count: int) -> None:
    """Inputs were stored, the log was not: the key belongs to the first body all the same."""
    crash_at_append(world)
    with pytest.raises(Unavailable):
        await world.submit(*[{"payload": "OLD"}] * count, key="k")
    world.service = world.fresh()
    for other in ("NEW", {"cmd": "NEW"}):
        with pytest.raises(KeyReused):
            await world.submit(*[{"payload": other}] * count, key="k")
    with pytest.raises(KeyReused):
        await world.submit(*[{"payload": "OLD"}] * count, key="k", title="another title")
    job_id = (await world.submit(*[{"payload": "OLD"}] * count, key="k"))["job_ids"][-1]
    assert (await claim(world, job_id))["payload"] == "OLD"


async def test_g2_of_two_concurrent_bodies_under_one_key_one_is_stored(world: World) -> None:
    bodies = [[{"payload": [n, place]} for place in range(3)] for n in range(6)]
    outcomes = await asyncio.gather(*(world.submit(*body, key="k") for body in bodies), return_exceptions=True)
    (winner,) = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, dict)]
    assert sum(isinstance(outcome, KeyReused) for outcome in outcomes) == 5
    answer = outcomes[winner]
    assert isinstance(answer, dict)
    world.service = world.fresh()
    for place, job_id in enumerate(answer["job_ids"]):
        assert (await claim(world, job_id))["payload"] == [winner, place]
    assert len(answer["job_ids"]) == (await world.types()).count("job.created")


async def test_a_submission_that_hangs_between_its_writes_gives_up(world: World) -> None:
    """Else the sweep might erase the input of a job that is created after all."""
    put = world.content.put_inputs

    async def slow(*args: Any, **options: Any) -> Any:
        refs = await put(*args, **options)
        world.clock.advance(IN_FLIGHT_S + 1)
        return refs

    world.content.put_inputs = slow  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await world.submit({"payload": 1})
    assert await world.types() == []


async def test_what_was_not_created_is_not_remembered(world: World) -> None:
    """The key is free again once the first input is swept; this process must then not hand out the first payload."""
    crash_at_append(world)
    with pytest.raises(Unavailable):
        await world.submit({"payload": "OLD"}, key="k")
    elsewhere = SealedContent(world.content._backend, b"k" * 32, SystemIds())
    sweeper = Sweeper(elsewhere, world.content._backend, world.store, world.clock)
    await sweeper.sweep()
    world.clock.advance(601)
    assert await sweeper.sweep() == 1
    other = CommandService(replace(world.ports, content=elsewhere), world.policy)
    body = {"title": "PRD", "tasks": [{"payload": "NEW"}]}
    answer = await other.call("submit", body, replace(CALLER, idempotency_key="k"))
    assert (await claim(world, answer["job_ids"][0]))["payload"] == "NEW"


# ---------------------------------------------------------------- who may claim


async def test_g6_a_stale_offer_does_not_claim_what_was_given_to_another_pool(world: World) -> None:
    job_id = (await world.submit())["job_ids"][0]
    await world.call("assign", job_id, assigned_model="cheap")
    await world.call("assign", job_id, assigned_model="gpt")
    with pytest.raises(Conflict, match="another pool"):
        await claim(world, job_id, model="cheap", offered=True)
    with pytest.raises(InvalidRequest):
        await claim(world, job_id, offered=True)
    assert (await claim(world, job_id, model="gpt", offered=True))["assigned_model"] == "gpt"


async def test_who_knows_the_id_may_claim_without_an_offer(world: World) -> None:
    job_id = (await world.submit())["job_ids"][0]
    await world.call("assign", job_id, assigned_model="gpt")
    assert (await claim(world, job_id, model="cheap"))["assigned_model"] == "gpt"


# ---------------------------------------------------------------- inputs that cannot be read


async def damage(world: World, job_id: str, how: str) -> None:
    backend = world.content._backend
    subject = f"content.aura.1.{job_id}.input"
    stored = await backend.last(subject)
    assert stored is not None
    world.content.forget_inputs([job_id])
    if how == "missing":
        await backend.drop(subject, stored.seq)
    elif how == "damaged":
        await backend.put(replace(stored, body=stored.body[:-1] + bytes([stored.body[-1] ^ 1])))
    else:
        wrapped = stored.wrapped_key if how == "no key" else "AAAA"
        await backend.put(SealedMessage(subject, stored.body, None if how == "no key" else wrapped))


@pytest.mark.parametrize("how", ["missing", "damaged", "no key", "another installation's key"])
@pytest.mark.parametrize("assigned", [False, True])
async def test_an_unreadable_input_fails_the_job_and_starts_nothing(world: World, how: str, assigned: bool) -> None:
    """No attempt, no lease, no 500: the worker is refused for good, and an operator sees why."""
    job_id = (await world.submit())["job_ids"][0]
    if assigned:
        await world.call("assign", job_id, assigned_model="m")
    await damage(world, job_id, how)
    endpoints = CommandEndpoints(world.service, world._pool, SystemIds())
    body = orjson.dumps({"job_id": job_id, "model": "m", "offered": assigned})
    for key in ("5-p", "5-p", "6-p"):
        status, answer = await endpoints.handle("cmd.aura.worker.w1.claim", {KEY_HEADER: key}, body)
        assert (status, orjson.loads(answer)["status_of_job"]) == (409, "FAILED")
    events = await world.events()
    assert [event["type"] for event in events].count("job.claimed") == 0
    assert events[-1]["type"] == "job.failed"
    assert (events[-1]["error_code"], events[-1]["retryable"]) == ("content_unreadable", False)


async def test_an_input_lost_after_its_claim_is_refused_and_not_an_error(world: World) -> None:
    job_id = (await world.submit())["job_ids"][0]
    first = await claim(world, job_id, key="k")
    await damage(world, job_id, "damaged")
    with pytest.raises(Conflict):
        await claim(world, job_id, key="k")
    assert first["attempt"] == 1
    assert (await world.types())[-1] == "job.claimed"


async def test_a_store_that_does_not_answer_fails_no_job(world: World) -> None:
    job_id = (await world.submit())["job_ids"][0]
    world.content.forget_inputs([job_id])
    healthy = world.content._backend.last

    async def silent(subject: str, *, consistent: bool = False) -> Any:
        raise Unavailable("no answer")

    world.content._backend.last = silent  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await claim(world, job_id)
    world.content._backend.last = healthy  # type: ignore[method-assign]
    assert (await world.types()) == ["job.created"]
    assert (await claim(world, job_id))["attempt"] == 1


async def test_a_claim_that_would_be_refused_opens_nothing(world: World) -> None:
    later = (await world.submit({"run_at": "2026-01-01T01:00:00Z"}))["job_ids"][0]
    await damage(world, later, "missing")
    with pytest.raises(Conflict, match="not due"):
        await claim(world, later)
    assert await world.types() == ["job.created"]
