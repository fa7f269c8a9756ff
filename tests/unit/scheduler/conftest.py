"""A scheduler service on an in-memory log, with a lease that the test hands out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from aura.clock import SystemClock
from aura.commands.handler import JobHandler
from aura.commands.models import ModelHandler
from aura.ids import SystemIds
from aura.log.memory import MemoryEventStore
from aura.log.store import Recorded
from aura.scheduler.service import SchedulerPorts, SchedulerService
from aura.scheduler.snapshot import FoldedSnapshot
from tests.support.scheduling import RETENTION_S, ROLES, Bench


class LeaseBoard:
    """Where leases of one role are handed out; a term only rises."""

    def __init__(self) -> None:
        self.term = 0
        self.holder: HandLease | None = None
        self.changed = asyncio.Event()

    def give(self, lease: HandLease | None) -> None:
        """Hand the lease over; ``None`` takes it away."""
        self.term += 1
        self.holder = lease
        self.changed.set()
        self.changed = asyncio.Event()


class HandLease:
    """A lease that is held when the test says so. ``frozen`` pretends that nobody told the process yet."""

    def __init__(self, board: LeaseBoard) -> None:
        self._board = board
        self.frozen: int | None = None
        self.started = False

    @property
    def leading(self) -> bool:
        return self.frozen is not None or self._board.holder is self

    @property
    def term(self) -> int:
        return self.frozen if self.frozen is not None else self._board.term

    async def start(self) -> None:
        self.started = True

    async def stop(self) -> None:
        if self._board.holder is self:
            self._board.give(None)

    async def wait_leading(self) -> int:
        while not self.leading:
            await self._board.changed.wait()
        return self.term

    async def wait_lost(self) -> None:
        while self.leading:
            await self._board.changed.wait()


class HandFeed:
    """A health feed and a renewals feed in one: the test calls."""

    def __init__(self) -> None:
        self.tell: Callable[..., None] | None = None
        self.stopped = 0

    async def start(self, tell: Callable[..., None]) -> None:
        self.tell = tell

    async def stop(self) -> None:
        self.stopped += 1


class Cluster:
    """Schedulers on one log. ``bench`` submits and acts; its planner is not used."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.store = MemoryEventStore(SystemClock(), switch=self._switch)
        self.bench.clock = SystemClock()  # type: ignore[assignment]  # real time here
        self.bench.store = self.store
        self.bench.jobs = JobHandler(self.store, SystemClock(), SystemIds())
        self.bench.models = ModelHandler(self.store, SystemClock(), SystemIds())
        self.board = LeaseBoard()
        self.services: list[SchedulerService] = []
        self.fault: Callable[[str], Awaitable[None]] | None = None
        self.pools: list[str] = []

    async def _switch(self, point: str) -> None:
        if self.fault is not None:
            await self.fault(point)

    def scheduler(self, **changes: Any) -> tuple[SchedulerService, HandLease]:
        """One more scheduler process, not started."""
        lease = HandLease(self.board)
        clock, ids = SystemClock(), SystemIds()
        ports: dict[str, Any] = {
            "store": self.store,
            "jobs": JobHandler(self.store, clock, ids),
            "models": ModelHandler(self.store, clock, ids),
            "lease": lease,
            "snapshot": FoldedSnapshot(self.store),
            "health": HandFeed(),
            "renewals": HandFeed(),
            "ensure_pool": self._ensure_pool,
            "clock": clock,
            "ids": ids,
        }
        service = SchedulerService(
            SchedulerPorts(**{**ports, **changes}),
            roles=ROLES,
            retention_s=RETENTION_S,
            holder=f"s{len(self.services)}",
        )
        self.services.append(service)
        return service, lease

    async def _ensure_pool(self, model: str) -> None:
        self.pools.append(model)

    async def until(
        self, wanted: Callable[[Recorded, Mapping[str, Any]], bool], count: int = 1
    ) -> list[dict[str, Any]]:
        """Wait until the log has ``count`` such events; they, in order."""
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(20):
            async for batch in self.store.follow(1):
                for recorded in batch:
                    event = recorded.decode()
                    if wanted(recorded, event):
                        found.append(event)
                if len(found) >= count:
                    return found
        raise AssertionError("the log ended")

    async def until_no_poison(self, number: int) -> None:
        """Wait until the job is assigned, passing over events that nobody can read."""
        async with asyncio.timeout(20):
            async for batch in self.store.follow(1):
                if any(recorded.subject.endswith(f"{self.bench.job_id(number)}.assigned.alpha") for recorded in batch):
                    return

    async def until_type(self, type_: str, count: int = 1) -> list[dict[str, Any]]:
        return await self.until(lambda _, event: event["type"] == type_, count)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    yield made
    for service in made.services:
        await service.stop()
