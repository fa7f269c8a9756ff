"""Commands that travel together: each has its own answer, its own key, and none hurts another."""

from typing import Any

import orjson
import pytest

from aura.commands import endpoints as module
from aura.commands.endpoints import MAX_CALLS, CommandEndpoints
from aura.ids import SystemIds
from tests.unit.commands.test_service import World


@pytest.fixture
def world() -> World:
    return World()


async def batch(world: World, *calls: Any) -> tuple[int, Any]:
    endpoints = CommandEndpoints(world.service, world._pool, SystemIds())
    status, answer = await endpoints.handle("cmd.aura.worker.w1.batch", {}, orjson.dumps({"calls": list(calls)}))
    return status, orjson.loads(answer)


def claim(job_id: str, key: str) -> dict[str, Any]:
    return {"name": "claim", "key": key, "body": {"job_id": job_id}}


async def test_answers_come_in_order_and_by_themselves(world: World) -> None:
    first, second = (await world.submit({"payload": 1}, {"payload": 2}))["job_ids"]
    status, answers = await batch(world, claim(first, "a"), claim(first, "b"), {"name": "?"}, 7, claim(second, "c"))
    assert status == 200
    assert [answer["status"] for answer in answers] == [200, 409, 422, 422, 200]
    assert answers[4]["body"]["payload"] == 2
    assert (await batch(world, claim(first, "a")))[1] == answers[:1], "a repeat under its key gets the same answer"


async def test_a_batch_in_a_batch_or_an_empty_or_endless_one_is_refused(world: World) -> None:
    assert (await batch(world))[0] == 422
    assert (await batch(world, *[{"name": "x", "body": {}}] * (MAX_CALLS + 1)))[0] == 422
    assert (await batch(world, {"name": "batch", "body": {"calls": []}}))[1][0]["status"] == 404


async def test_what_does_not_fit_is_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 1_500)
    job_ids = (await world.submit(*[{"payload": "x" * 1_000}] * 3))["job_ids"]
    wanted = {job_id: claim(job_id, job_id) for job_id in job_ids}
    for _ in job_ids:
        _, answers = await batch(world, *wanted.values())
        assert answers[0]["status"] == 200, "the first one always fits, so it ends"
        for job_id, answer in zip(list(wanted), answers, strict=True):
            assert answer["status"] in (200, 503)
            if answer["status"] == 200:
                del wanted[job_id]
        if not wanted:
            break
    assert not wanted
    assert (await world.types()).count("job.claimed") == 3
