"""A whole ``aura up`` in processes of its own, as a user runs it, and the means to be rude to each of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from aura.clock import SystemClock
from aura.ids import SystemIds
from aura.log.connection import connect
from aura.log.jetstream import JetStreamEventStore
from aura.running import process_start, read_runtime

REPOSITORY = Path(__file__).parents[2]
START_S = 60


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class System:
    """One ``aura up`` on a data folder. ``start`` returns when ``/ready`` answers 200."""

    def __init__(self, data: Path, **env: str) -> None:
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = env
        self._up: asyncio.subprocess.Process | None = None

    def environment(self) -> dict[str, str]:
        """What ``aura`` commands beside it run with."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
        return (
            kept
            | {"AURA_DATA_DIR": str(self.data), "AURA_PORT": str(self.port), "PYTHONPATH": str(REPOSITORY)}
            | self._env
        )

    async def start(self, *args: str) -> None:
        """Start, and wait until it is ready."""
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data.parent / "up.log").open("ab") as log:
            self._up = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "aura", "up", *args,
                env=self.environment(), cwd=self.data.parent, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        await self.ready()

    async def ready(self) -> None:
        """Wait until ``/ready`` answers 200. Fails at once when ``aura up`` has ended."""
        async with asyncio.timeout(START_S), httpx.AsyncClient(base_url=self.url, timeout=5) as http:
            while True:
                try:
                    if (await http.get("/ready")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                if self._up is not None and self._up.returncode is not None:
                    raise AssertionError(f"aura up ended with {self._up.returncode}: {self.log()}")
                await asyncio.sleep(0.05)  # a process outside: its readiness can only be asked for

    async def stop(self) -> int:
        """SIGTERM and wait. Returns the exit status."""
        if self._up is None:
            return 0
        up, self._up = self._up, None
        if up.returncode is None:
            up.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            return await up.wait()

    async def kill_supervisor(self) -> dict[str, int]:
        """SIGKILL ``aura up`` itself; returns the children that were running (name → pid)."""
        assert self._up is not None
        children = self.pids()
        up, self._up = self._up, None
        up.kill()
        await up.wait()
        return children

    def log(self) -> str:
        """The end of what everything said."""
        files = [self.data.parent / "up.log", *sorted((self.data / "logs").glob("*.log"))]
        return "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')[-2_000:]}" for file in files if file.exists()
        )

    def runtime(self) -> Mapping[str, Any]:
        """``runtime.json``."""
        return read_runtime(self.data) or {}

    def pids(self) -> dict[str, int]:
        """Children by name."""
        return {name: int(child["pid"]) for name, child in self.runtime().get("children", {}).items()}

    async def kill(self, name: str) -> None:
        """SIGKILL one child and wait until another process has taken its place."""
        before = self.pids()[name]
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(START_S):
            while self.pids().get(name, before) == before or process_start(self.pids()[name]) is None:
                await asyncio.sleep(0.02)  # a process outside

    @asynccontextmanager
    async def log_store(self) -> AsyncIterator[JetStreamEventStore]:
        """The log, read as the observer."""
        ids, clock = SystemIds(), SystemClock()
        creds = self.data / "credentials" / "observer.creds"
        connection = await connect(self.runtime()["nats"]["url"], creds, "test")
        store = JetStreamEventStore(connection, clock, ids)
        try:
            yield store
        finally:
            await store.close()
            await connection.close()


def alive(pid: int) -> bool:
    """Whether a process of that id runs."""
    return process_start(pid) is not None
