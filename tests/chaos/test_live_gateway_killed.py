"""The gateway is killed with -9 and started again under live clients: they resume by their cursors, and each one's history is the log's,
without a gap, a duplicate or another order (G11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from tests.support.system import System

pytestmark = pytest.mark.slow
KILLS, PER_ROUND = 2, 100


class Follower:
    """One client with a cursor. ``wanted`` is set when it is known where the log ends."""

    def __init__(self, system: System, native: bool) -> None:
        self._url = system.url.replace("http", "ws")
        self._native = native
        self.seqs: list[int] = []
        self.resumes = 0
        self.welcomed = asyncio.Event()

    async def run(self, last: asyncio.Future[int]) -> None:
        while not (last.done() and self.seqs and self.seqs[-1] >= last.result()):
            try:
                async for frame in self._frames():
                    if "seq" in frame and "op" not in frame:
                        self.seqs.append(frame["seq"])
                    if frame.get("op") == "reset" or frame.get("type") == "reset":
                        raise AssertionError(f"a reset: {frame}")
                    if last.done() and self.seqs and self.seqs[-1] >= last.result():
                        return
            except (OSError, WebSocketException):
                pass
            self.resumes += 1
            await asyncio.sleep(0.05)  # a process outside comes back when it does

    async def _frames(self) -> AsyncIterator[dict[str, Any]]:
        since = self.seqs[-1] if self.seqs else 0
        path = "/ws" if self._native else f"/ws/events?since={since}"
        protocols = [Subprotocol("aura.v1")] if self._native else None
        async with connect(self._url + path, proxy=None, subprotocols=protocols, max_queue=None) as socket:
            if self._native:
                op = {"op": "subscribe", "id": "s", "subject": "aura.>", "from": {"seq": since + 1}}
                await socket.send(orjson.dumps(op).decode())
            self.welcomed.set()
            async for message in socket:
                got = orjson.loads(message)
                for frame in got if isinstance(got, list) else [got]:
                    yield frame


async def _submit(http: httpx.AsyncClient, key: str) -> int:
    """One PRD, repeated until it is acknowledged; its sequence."""
    body = {"title": key, "tasks": [{"payload": 1}]}
    while True:
        try:
            answer = await http.post("/prds", json=body, headers={"Idempotency-Key": key})
        except httpx.HTTPError:
            await asyncio.sleep(0.05)  # the process we talk to was killed
            continue
        if answer.status_code == 201:
            return int(answer.json()["seq"])
        await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_clients_resume_by_cursor_when_the_gateway_is_killed_G11(tmp_path: Path) -> None:
    system = System(tmp_path / "data")
    await system.start()
    try:
        last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        followers = [Follower(system, native=bool(number % 2)) for number in range(6)]
        running = [asyncio.ensure_future(follower.run(last)) for follower in followers]
        for follower in followers:
            await follower.welcomed.wait()
        async with httpx.AsyncClient(base_url=system.url, timeout=10, trust_env=False) as http:
            for round_ in range(KILLS + 1):
                sending = [asyncio.ensure_future(_submit(http, f"{round_}-{n}")) for n in range(PER_ROUND)]
                await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                if round_ < KILLS:
                    await system.kill("gateway")
                await asyncio.gather(*sending)
            await system.ready()
            async with system.log_store() as store:
                last.set_result((await store.identity()).last_seq)
            await _submit(http, "the last one")
        async with asyncio.timeout(60):
            await asyncio.gather(*running)
        for follower in followers:
            assert follower.seqs == list(range(1, follower.seqs[-1] + 1))
            assert follower.seqs[-1] >= last.result()
            assert follower.resumes >= KILLS
    finally:
        await system.stop()
