"""What one page of ``GET /events`` costs the log, for somebody who may not see all of it (G13)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from aura.log.store import Append, Recorded
from tests.support.access import auth, issue, secured


async def test_a_page_for_a_limited_key_is_few_requests_to_the_log_however_few_events_it_asks_for_G13() -> None:
    async with secured() as world:
        key = await issue(world, "viewer", [7])
        for _ in range(3_000):
            event_id = world.ctx.ids.uuid7()
            body = orjson.dumps({"id": event_id, "type": "system.alert_raised", "v": 1})
            await world.store.append(Append("aura.system.alert_raised", None, 0, event_id, body))
        read, batches = world.store.read, 0

        async def counted(*args: Any, **options: Any) -> AsyncIterator[list[Recorded]]:
            nonlocal batches
            async for batch in read(*args, **options):
                batches += 1
                yield batch

        world.store.read = counted  # type: ignore[method-assign]
        answer = await world.http.get("/events", params={"limit": 1}, headers=auth(key))
        assert (answer.status_code, answer.json()) == (200, [])
        assert batches <= 5
