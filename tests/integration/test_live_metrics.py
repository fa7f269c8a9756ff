"""What ``/metrics`` says of live clients moves with what they do: every series that the reference lists, by every label value it names."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from aura.gateway.limits import Limits
from aura.log.store import Append
from tests.support.access import auth, issue, secured
from tests.support.gateway import World, receive, receive_until, running

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
NATIVE: dict[str, Any] = {"subprotocols": [Subprotocol("aura.v1")]}
SMALL = replace(
    Limits(), ring_frames=50, page_events=100, pages=2, accept_burst=11, accept_per_s=0.001, inbound_burst=5
)


def scrape(world: World) -> dict[str, float]:
    """Every sample of the live series, as ``name`` or ``name{value of its label}``."""
    found = {}
    for family in text_string_to_metric_families(world.ctx.metrics.exposition().decode()):
        if family.name.startswith(("aura_live_", "aura_hub_")):
            for sample in family.samples:
                if not sample.name.endswith(("_created", "_bucket")):
                    found["".join([sample.name, *(f"{{{value}}}" for value in sample.labels.values())])] = sample.value
    return found


async def fill(world: World, count: int) -> None:
    for _ in range(count):
        event_id = world.ctx.ids.uuid7()
        body = orjson.dumps({"id": event_id, "type": "system.alert_raised", "v": 1, "code": "x"})
        await world.store.append(Append("aura.system.alert_raised", None, 0, event_id, body))


async def test_every_live_series_of_the_reference_moves_and_says_what_happened() -> None:
    async with running(limits=SMALL) as world:
        before = scrape(world)
        [job_id] = await world.submit()
        await fill(world, 499)
        await world.hub.caught_up(500)
        async with (
            world.ws("/ws/events?since=480") as ring,
            world.ws("/ws/events?since=100", max_queue=None) as log,
            world.ws(f"/ws/events?since=0&subject=aura.job.1.{job_id}.>"),
            world.ws("/ws/events?since=501") as ahead,
            world.ws(f"/ws/job/{job_id}"),
            world.ws("/ws"),
            world.ws("/ws", **NATIVE) as native,
            world.ws("/ws/orchestrator/s"),
            world.http.stream("GET", "/sse/events"),
            world.http.stream("GET", f"/sse/job/{job_id}"),
            world.http.stream("GET", "/sse/studio"),
        ):
            assert (await receive(ahead))["type"] == "reset"
            await receive_until(ring, lambda one: one["seq"] == 500)
            await receive_until(log, lambda one: one["seq"] == 500)
            with pytest.raises(InvalidStatus):
                await world.ws("/ws").__aenter__()
            inside = scrape(world)
            for _ in range(6):
                await native.send('{"op":"ping"}')
            with pytest.raises(ConnectionClosed):
                await receive_until(native, lambda _: False)
            await fill(world, 3)
            await receive_until(ring, lambda one: one["seq"] == 503)
        async with asyncio.timeout(10):
            while world.hub.connections:
                await asyncio.sleep(0.01)
        after = scrape(world)

    for dialect in ("job", "studio", "native", "orchestrator", "sse_events", "sse_job", "sse_studio"):
        assert inside[f"aura_live_connections{{{dialect}}}"] == 1
        assert after[f"aura_live_connections{{{dialect}}}"] == 0
    assert inside["aura_live_connections{events}"] == 4
    expected = {
        "aura_live_resumes_total{ring}": 1,
        "aura_live_resumes_total{log}": 1,
        "aura_live_resumes_total{filtered}": 1,
        "aura_live_dropped_total{accept_rate}": 1,
        "aura_live_dropped_total{too_many_messages}": 1,
        "aura_hub_resets_total": 1,
        "aura_hub_events_total": 503,
    }
    assert {name: after[name] for name in expected} == expected
    assert inside["aura_hub_deliveries_total"] >= 20 + 400
    assert inside["aura_live_bytes_total"] > 420 * 100
    moved = {
        name.partition("{")[0].removesuffix("_count").removesuffix("_sum")
        for name in after
        if after[name] != before.get(name, 0)
    }
    named = set(re.findall(r"^\| `(aura_(?:live|hub)_\w+)`", REFERENCE.read_text(), re.MULTILINE))
    assert named - moved == {"aura_live_connections"}, "which is back at zero"
    for name in ("aura_live_publish_seconds", "aura_hub_lag_seconds"):
        assert 0 <= after[f"{name}_sum"] < 60 * after[f"{name}_count"], "seconds, not milliseconds"


async def test_one_user_with_too_many_connections_is_counted() -> None:
    async with secured(limits=replace(Limits(), connections_per_user=1)) as world:
        key = await issue(world, "viewer")
        async with world.ws("/ws/events", additional_headers=auth(key)):
            with pytest.raises(InvalidStatus):
                await world.ws("/ws", additional_headers=auth(key)).__aenter__()
        assert scrape(world)["aura_live_dropped_total{too_many_of_user}"] == 1
