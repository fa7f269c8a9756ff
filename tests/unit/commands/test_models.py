"""Models as their workers declare them: registrations converge, and are bounded (G12)."""

from typing import Any

import orjson
import pytest

from aura.commands import models
from aura.commands.endpoints import CommandEndpoints
from aura.commands.models import MAX_ROLES
from aura.errors import InvalidRequest
from aura.ids import SystemIds
from tests.unit.commands.test_service import CALLER, World


@pytest.fixture
def world() -> World:
    return World()


async def beat(world: World, model: str = "m", **fields: Any) -> dict[str, Any]:
    return await world.service.call("model_heartbeat", {"model": model, "status": "ok", **fields}, CALLER)


async def hello(world: World, model: str, **fields: Any) -> int:
    endpoints = CommandEndpoints(world.service, world.service.ensure_pool, SystemIds())
    status, _ = await endpoints.handle("cmd.aura.worker.w1.hello", {}, orjson.dumps({"model": model, **fields}))
    return status


async def test_workers_with_different_roles_do_not_take_turns(world: World) -> None:
    for _ in range(5):
        await beat(world, worker_id="w1", roles=["a", "b"])
        await beat(world, worker_id="w2", roles=["c", "b"])
        await beat(world, worker_id="w3", roles=["b", "a"])
        await hello(world, "m", roles=["c"])
    registered = [event["roles"] for event in await world.events()]
    assert registered == [["a", "b"], ["a", "b", "c"]]


async def test_g12_the_roles_of_a_model_are_bounded(world: World) -> None:
    for n in range(40):
        await beat(world, roles=[f"r{n}"])
    before = await world.types()
    assert len(before) == MAX_ROLES
    await beat(world, roles=["r39"])
    assert await world.types() == before


async def test_g12_the_number_of_models_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MAX_MODELS", 3)
    job_id = (await world.submit())["job_ids"][0]
    await beat(world, "m1")
    assert await hello(world, "m2") == 200
    await world.call("assign", job_id, assigned_model="m3")
    pools = list(world.pools)
    assert sorted(pools) == ["m1", "m2", "m3"]
    with pytest.raises(InvalidRequest):
        await beat(world, "m4")
    assert await hello(world, "m4") == 422
    with pytest.raises(InvalidRequest):
        await world.call("assign", job_id, assigned_model="m4")
    assert world.pools == pools, "no pool is made before it is counted"
    await beat(world, "m1", roles=["r"])
    assert await hello(world, "m2") == 200
    world.service = world.fresh()
    await beat(world, "m3")
    with pytest.raises(InvalidRequest):
        await beat(world, "m4")
