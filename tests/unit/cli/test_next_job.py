"""``next`` gives back what it claimed for whoever stopped waiting, at whatever moment that was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aura.cli.binding import next_job
from aura.cli.binding.next_job import PoolNext
from aura.clock import ManualClock
from aura.commands.handler import Caller
from aura.ids import SystemIds

JOB = "0199c0de-0000-7000-8000-000000000000"


class _Offer:
    subject, seq = f"aura.job.1.{JOB}.assigned.m", 7

    def __init__(self) -> None:
        self.said: list[str] = []

    def ack(self) -> None:
        self.said.append("ack")

    def nak(self, _delay_s: float = 0.0) -> None:
        self.said.append("nak")


class _Commands:
    """Claims whatever is offered, and tells of releases."""

    class health:
        @staticmethod
        def check() -> None:
            """Well."""

    def __init__(self) -> None:
        self.released: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def call(self, operation: str, params: dict[str, Any], _caller: Caller) -> dict[str, Any]:
        if operation == "release":
            self.released.set_result(params)
        return {"job_id": JOB, "attempt": 3, "payload": "secret"}


async def test_a_claim_is_given_back_when_the_wait_is_cancelled_while_the_pool_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer, stopping = _Offer(), asyncio.Event()

    class Puller:
        def __init__(self, *args: Any) -> None:
            self._on_offer = args[-1]

        async def start(self) -> None:
            """At once."""

        def want(self, _n: int) -> None:
            self._on_offer(offer)

        async def stop(self) -> None:
            stopping.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(next_job, "PoolPuller", Puller)
    commands: Any = _Commands()
    nothing: Any = None
    pool = PoolNext(nothing, ManualClock(), SystemIds(), commands, nothing)
    async with asyncio.timeout(10):
        asking = asyncio.ensure_future(pool("m", "w", 60, None, Caller("worker:w", "c", "c")))
        await stopping.wait()
        asking.cancel()
        assert await commands.released == {"job_id": JOB, "attempt": 3}
    assert offer.said == ["ack"]
    assert asking.cancelled()
