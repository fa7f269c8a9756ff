"""The part of the system that a worker talks to, for real: nats-server with its accounts, streams, and the command service in this
process. Each side has its own credential, so the permissions are tested with every job."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aura.cli import compose, keys
from aura.commands.handler import Caller
from aura.commands.results import reported
from aura.config import Settings
from aura.log import topology
from aura.log.connection import Connection, connect
from aura.log.rpc import RpcServer
from aura.worker import Worker
from aura.worker.attempt import Handler
from tests.support.servers import NatsServer

MODEL = "employee_ollama"
ME = Caller("user:test", "test", "test")


class WorkerStack:
    """One nats-server and one command service. There is no scheduler: :meth:`assign` gives jobs to the pool by hand."""

    def __init__(self, server: NatsServer, folder: Path) -> None:
        self.server = server
        self.at = compose.world(dataclasses.replace(Settings(), data_dir=folder / "data"))
        self.connection: Connection
        self.side: compose.CommandSide
        self.rpc: RpcServer
        self._workers = 0

    async def start(self) -> None:
        admin = await connect(self.server.url, self.server.creds("admin"), "admin", connect_timeout_s=20)
        await topology.ensure(admin, self.at.clock, self.at.ids)
        await admin.close()
        self.connection = await connect(self.server.url, self.server.creds("gateway"), "gateway")
        kek = await keys.content_key(self.at.settings, self.connection, self.at.clock, self.at.ids)
        self.side = compose.command_side(self.at, self.connection, kek)
        await self.start_commands()

    async def start_commands(self) -> None:
        self.rpc = compose.command_server(self.side, "0.0.1")
        await self.rpc.start()

    async def stop(self) -> None:
        await self.rpc.stop()
        await self.connection.flush()  # the last answers
        await self.side.store.close()
        await self.connection.close()

    async def call(self, operation: str, **params: Any) -> dict[str, Any]:
        return await self.side.service.call(operation, params, ME)

    async def submit(self, *payloads: Any, **task: Any) -> list[str]:
        """One job per payload; their ids."""
        tasks = [{"payload": payload, **task} for payload in payloads]
        answer = await self.call("submit", title="test", tasks=tasks)
        ids: list[str] = answer["job_ids"]
        return ids

    async def assign(self, *job_ids: str) -> None:
        await asyncio.gather(*(self.call("assign", job_id=job_id, assigned_model=MODEL) for job_id in job_ids))

    async def run(self, *payloads: Any, **task: Any) -> list[str]:
        """Submit and assign."""
        ids = await self.submit(*payloads, **task)
        await self.assign(*ids)
        return ids

    async def status(self, job_id: str) -> str:
        head = await self.side.service.jobs.head(job_id, consistent=True)
        return head.state.status.value

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        """The job's history."""
        return [
            recorded.decode()
            async for batch in self.side.store.read(subject=f"aura.job.1.{job_id}.>")
            for recorded in batch
        ]

    async def until(self, job_id: str, *types: str) -> dict[str, Any]:
        """The first event of one of these types, now or when it comes."""
        async with asyncio.timeout(30):
            async for batch in self.side.store.follow(1):
                for recorded in batch:
                    if f".{job_id}." in recorded.subject:
                        event = recorded.decode()
                        if event["type"] in types:
                            return {**event, "seq": recorded.seq}
        raise AssertionError("the log never ends")

    async def output(self, job_id: str, attempt: int = 1) -> list[dict[str, Any]]:
        """The attempt's records, decrypted."""
        key = await self.side.content.data_key(1, job_id)
        assert key is not None
        found: list[dict[str, Any]] = []
        page = await self.side.output.read(1, job_id, [attempt], limit=10_000)
        for message in getattr(page, "messages", page):
            found += message.records(key)
        return found

    async def text(self, job_id: str, attempt: int = 1) -> str:
        return "".join(record.get("chunk", "") for record in await self.output(job_id, attempt))

    async def part(self, job_id: str, part: Any) -> bytes:
        head = await self.side.service.jobs.head(job_id, consistent=True)
        found = await reported(self.side.store, self.side.content, head)
        text = found.error if part == "error" else found.details
        assert text is not None
        return text

    @asynccontextmanager
    async def working(self, handler: Handler, **options: Any) -> AsyncIterator[Worker]:
        self._workers += 1
        creds = self.server.worker(f"w{self._workers}", [MODEL])
        options = {"grace_s": 0, "slots": 4, "url": self.server.url, "creds": str(creds), **options}
        async with Worker(MODEL, handler, **options) as worker:
            yield worker


@asynccontextmanager
async def worker_stack(server: NatsServer, folder: Path) -> AsyncIterator[WorkerStack]:
    stack = WorkerStack(server, folder)
    await stack.start()
    try:
        yield stack
    finally:
        await stack.stop()
