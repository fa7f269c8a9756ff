"""A composed gateway on real servers, in the test's process: ``async with live(server, database, folder) as gateway``.

Nothing in it is a stand-in: the parts are those of ``aura gateway``, bound by ``aura.cli.compose``. ``url`` may be a proxy's, to be rude to
the connection between the gateway and its log.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from aura.cli import compose, processes
from aura.config import Settings
from aura.gateway.context import GatewayContext
from aura.gateway.server import GatewayService
from aura.log.connection import Connection, RawHandler
from tests.support.servers import Database, NatsServer


class Live:
    """A composed gateway on real servers."""

    def __init__(self, server: NatsServer, service: GatewayService, http: httpx.AsyncClient) -> None:
        self.server, self.service, self.http = server, service, http

    @property
    def ctx(self) -> GatewayContext:
        return self.service._ctx

    @property
    def connection(self) -> Connection:
        """The gateway's connection to its log."""
        connection: Connection = self.ctx.store._connection  # type: ignore[attr-defined]
        return connection

    def lose(self, of: str, keep: Callable[[], bool]) -> None:
        """What the log pushes for ``of`` (``tail``, or ``output`` of watched jobs) reaches the gateway only while ``keep()`` is true."""
        for sid, handler in list(self.connection.raw_handlers.items()):
            is_tail = getattr(handler, "__self__", None).__class__.__name__ == "LogTail"
            is_output = handler.__qualname__.startswith("follow_output.")
            if is_tail if of == "tail" else is_output:

                def lossy(
                    subject: bytes, reply: bytes, body: bytes, headers: bytes | None, handler: RawHandler = handler
                ) -> None:
                    if keep():
                        handler(subject, reply, body, headers)

                self.connection.raw_handlers[sid] = lossy

    async def joined(self, members: int) -> None:
        """Wait until so many clients are live."""
        async with asyncio.timeout(10):
            while sum(len(group.members) for group in self.ctx.hub._groups.values()) < members:
                await asyncio.sleep(0.01)

    async def submit_surely(self, count: int, key: str) -> list[str]:
        """One PRD, repeated under its key until it is acknowledged."""
        body = {"title": key, "tasks": [{"payload": n} for n in range(count)]}
        while True:
            try:
                answer = await self.http.post("/prds", json=body, headers={"Idempotency-Key": key})
            except httpx.HTTPError:
                continue
            if answer.status_code == 201:
                ids: list[str] = answer.json()["job_ids"]
                return ids
            assert answer.status_code in (429, 503), answer.text
            await asyncio.sleep(0.05)

    async def say(self, job_id: str, chunk: str) -> None:
        """One record of output, repeated under its key until it is acknowledged."""
        headers = {"Idempotency-Key": chunk}
        while True:
            try:
                answer = await self.http.post(f"/jobs/{job_id}/stream", json={"chunk": chunk}, headers=headers)
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                return
            assert answer.status_code in (429, 503), answer.text
            await asyncio.sleep(0.05)

    def ws(self, path: str, **options: Any) -> connect:
        return connect(
            f"ws://127.0.0.1:{self.service.port}{path}", proxy=None, compression=None, max_queue=None, **options
        )

    def native(self) -> connect:
        return self.ws("/ws", subprotocols=[Subprotocol("aura.v1")])

    async def submit(self, count: int) -> list[str]:
        answer = await self.http.post("/prds", json={"title": "T", "tasks": [{"payload": n} for n in range(count)]})
        assert answer.status_code == 201, answer.text
        ids: list[str] = answer.json()["job_ids"]
        return ids

    async def log(self) -> list[int]:
        return [recorded.seq async for batch in self.ctx.store.read() for recorded in batch]


@asynccontextmanager
async def live(server: NatsServer, database: Database, folder: Path, url: str | None = None) -> AsyncIterator[Live]:
    """A started gateway. ``url``: where it finds its log, when not at the server's own."""
    settings = dataclasses.replace(
        Settings(),
        nats_url=url or server.url,
        nats_creds=server.creds("gateway"),
        database_url=database.reader_url,
        data_dir=folder,
        host="127.0.0.1",
        port=0,
    )
    made = processes.Gateway(compose.world(settings))
    await made.start()
    service = made._main
    assert isinstance(service, GatewayService)
    try:
        async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=20) as http:
            yield Live(server, service, http)
    finally:
        await made.stop()


async def frames(socket: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """Messages, arrays taken apart."""
    async for message in socket:
        got = orjson.loads(message)
        for frame in got if isinstance(got, list) else [got]:
            yield frame
