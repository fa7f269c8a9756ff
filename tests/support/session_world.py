"""A command service on the in-memory log, seen through workflows: start one, claim it, say what its agents do, end it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from aura.clock import ManualClock
from aura.commands.endpoints import CommandEndpoints
from aura.commands.handler import Caller
from aura.commands.heads import JobHead
from aura.commands.service import CommandService, Policy, Ports
from aura.commands.session_closer import SessionCloser
from aura.domain import job_commands as c
from aura.domain.roles import RoleModels
from aura.ids import SystemIds
from aura.log.memory import MemoryEventStore
from aura.log.output_memory import memory_content_and_output

CALLER = Caller("user:ada", "ab" * 16, "cause")
WORKER = Caller("worker:w1", "corr", "cause")
SESSION = "s1"


class Silent:
    async def renewed(self, job_id: str, attempt: int, worker_id: str) -> None: ...
    async def report(self, model: str, worker_id: str, report: dict[str, Any]) -> None: ...


class SessionWorld:
    """One installation; :meth:`tail` runs what ends sessions."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryEventStore(self.clock)
        self.ids = SystemIds()
        self.content, self.output = memory_content_and_output(self.clock, self.ids, b"k" * 32)

        async def ensure_pool(_model: str) -> None: ...

        ports = Ports(
            self.store, self.content, self.output, Silent(), Silent(), ensure_pool, self.clock, self.ids
        )  # fmt: skip
        self.service = CommandService(
            ports, Policy(roles=RoleModels("employee_ollama", {"Agent": "agents"}), retention_s=0.0)
        )
        self.endpoints = CommandEndpoints(self.service, ensure_pool, self.ids)

    async def run(self, session_id: str = SESSION, *, caller: Caller = CALLER, **more: Any) -> dict[str, Any]:
        body = {"session_id": session_id, "workflow": "retail", "input": {"q": 1}, **more}
        return await self.service.call("run_workflow", body, caller)

    async def claim(self, job_id: str, worker: str = "w1") -> int:
        answer = await self.service.call(
            "claim", {"job_id": job_id, "worker_id": worker}, replace(WORKER, actor=f"worker:{worker}")
        )
        attempt: int = answer["attempt"]
        return attempt

    async def running(self, session_id: str = SESSION) -> str:
        """A session whose job is claimed."""
        job_id: str = (await self.run(session_id))["job_id"]
        await self.claim(job_id)
        return job_id

    async def say(self, job_id: str, event: str, *, attempt: int = 1, caller: Caller = WORKER, **f: Any) -> Any:
        body = {"job_id": job_id, "attempt": attempt, "event": event, **f}
        if event != "started":
            body = {"session_id": SESSION, "agent": "a", **body}
        return await self.service.sessions.report(body, caller)

    async def call(self, operation: str, job_id: str, **params: Any) -> dict[str, Any]:
        return await self.service.call(operation, {"job_id": job_id, **params}, CALLER)

    async def events(self, kind: str = "session") -> list[dict[str, Any]]:
        return [one.decode() async for batch in self.store.read(subject=f"aura.{kind}.>") for one in batch]

    async def types(self) -> list[str]:
        return [event["type"].removeprefix("session.") for event in await self.events()]

    async def status(self, session_id: str = SESSION) -> str:
        head = await self.service.sessions.sessions.load(1, session_id, consistent=True)
        assert head is not None
        return head.state.status.value

    async def expire(self, job_id: str, attempt: int) -> None:
        """As the scheduler does."""

        async def intent(_head: JobHead) -> c.JobCommand:
            return c.ExpireLease(attempt, 0, 0)

        await self.service.jobs.execute(job_id, intent, Caller("scheduler:1", "x", "x"))

    @asynccontextmanager
    async def tail(self, from_seq: int = 1) -> AsyncIterator[SessionCloser]:
        """A closer that sees everything from a sequence on."""
        closer = SessionCloser(self.service.sessions, self.ids, lambda: None)

        async def follow() -> None:
            async for batch in self.store.follow(from_seq):
                closer.observe(batch)

        task = asyncio.create_task(follow())
        try:
            yield closer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await closer.stop()

    async def until(self, *types: str) -> dict[str, Any]:
        """The first session event of one of these types."""
        async with asyncio.timeout(10):
            async for batch in self.store.follow(1):
                for one in batch:
                    event = one.decode()
                    if event["type"] in types:
                        return {**event, "seq": one.seq}
        raise AssertionError("the log never ends")
