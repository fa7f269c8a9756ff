"""Real servers for measurements: nats-server and Postgres as ``aura up`` runs them, in a folder of their own, on loopback.

``nats`` and ``postgres`` start a server without the rest, for scenarios that measure one part; ``aura_up`` starts everything as a
user would. All of them end with the scenario, whatever happens, and with this process, even on ``kill -9``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aura.running import read_runtime
from aura.runtime.embedded_nats import EmbeddedNats
from aura.runtime.embedded_postgres import EmbeddedPostgres
from aura.runtime.ports import choose, http_status
from aura.runtime.process import die_with_parent

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class NatsHandle:
    """A running nats-server without accounts."""

    url: str
    pid: int
    store: Path
    profile_port: int = 0

    async def live_heap(self) -> int:
        """Bytes of Go objects in use after a collection. Only of a ``profiled`` server."""
        url = f"http://127.0.0.1:{self.profile_port}/debug/pprof/heap?gc=1&debug=1"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        return next(int(line.split("=")[1]) for line in text.splitlines() if line.startswith("# HeapAlloc"))


@dataclass(frozen=True, slots=True)
class PostgresHandle:
    """A running Postgres; ``url`` holds the owner's password."""

    url: str
    pid: int
    embedded: EmbeddedPostgres

    async def stop(self) -> None:
        """Let clients go and write a checkpoint, so that the files may be copied."""
        await self.embedded.stop()


class _Relaxed(EmbeddedNats):
    """nats-server with its default flush interval of two minutes: what others run."""

    def _config(self) -> str:
        return super()._config().replace("sync_interval: always", 'sync_interval: "2m"')


class _Profiled(EmbeddedNats):
    """nats-server with Go's profiler on loopback."""

    profile_port = 0

    def _config(self) -> str:
        self.profile_port = self.profile_port or choose(1, [])[0]
        return super()._config() + f"\nprof_port: {self.profile_port}\n"


@asynccontextmanager
async def nats(
    folder: Path, *, flush_always: bool = True, profiled: bool = False, name: str = "nats"
) -> AsyncIterator[NatsHandle]:
    """nats-server with ``sync_interval: always`` (or the server's default)."""
    kind = _Profiled if profiled else EmbeddedNats if flush_always else _Relaxed
    server = kind(folder / name, "", folder / f"{name}.log")
    await server.start()
    assert server.child is not None
    port = server.profile_port if isinstance(server, _Profiled) else 0
    try:
        yield NatsHandle(server.url, server.child.pid, folder / name / "store", port)
    finally:
        await server.stop()


@asynccontextmanager
async def postgres(folder: Path, *, name: str = "postgres") -> AsyncIterator[PostgresHandle]:
    """A durable Postgres with an empty database."""
    server = EmbeddedPostgres(folder / name, folder / f"{name}-credentials", folder / f"{name}.log")
    await server.start()
    assert server.child is not None
    try:
        yield PostgresHandle(server.url(), server.child.pid, server)
    finally:
        await server.stop()


class AuraUp:
    """``aura up`` as a process of its own. ``pids`` are all processes of the stack by name."""

    def __init__(self, data: Path, env: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.url = ""
        self.started_s = 0.0
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, *, args: tuple[str, ...] = (), within_s: float = 90.0) -> None:
        """Start it and return when ``/ready`` says so; ``started_s`` is how long that took, process start included."""
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        env = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")} | self._env
        log = (self.data.parent / f"{self.data.name}.up.log").open("ab")
        began = time.perf_counter()
        command = [sys.executable, "-m", "aura", "up", "--data", str(self.data), "--port", "0", *args]
        parent = os.getpid()
        self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM, parent),  # one thread: nothing to lock
        )
        log.close()
        try:
            async with asyncio.timeout(within_s):
                await self._ready(self._process)
        except BaseException:
            await self.stop()
            raise
        self.started_s = time.perf_counter() - began

    async def _ready(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"aura up ended with {process.returncode}: {self._said()}")
            state = self.state()
            supervisor = state.get("supervisor") or {}
            port = (state.get("gateway") or {}).get("port")
            if supervisor.get("pid") == process.pid and port and await http_status("127.0.0.1", port, "/ready") == 200:
                self.url = f"http://127.0.0.1:{port}"
                return
            await asyncio.sleep(0.01)

    def _said(self) -> str:
        text = (self.data.parent / f"{self.data.name}.up.log").read_text("utf-8", "replace")
        return " | ".join(text.splitlines()[-4:])

    def state(self) -> dict[str, Any]:
        """``runtime.json``."""
        return read_runtime(self.data) or {}

    @property
    def pids(self) -> dict[str, int]:
        """Component → pid of the process that the supervisor started."""
        assert self._process is not None
        children = {name: int(child["pid"]) for name, child in self.state().get("children", {}).items()}
        return {"supervisor": self._process.pid} | children

    def nats_env(self) -> dict[str, str]:
        """The environment with which a worker finds this system."""
        return {"AURA_DATA_DIR": str(self.data)}

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after 30 s. Safe twice."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        for _ in range(300):
            if process.poll() is not None:
                return
            await asyncio.sleep(0.1)
        process.kill()
        process.wait()


@asynccontextmanager
async def aura_up(folder: Path, *args: str, env: Mapping[str, str] | None = None) -> AsyncIterator[AuraUp]:
    """The whole stack on a data folder in ``folder``."""
    up = AuraUp(folder / "data", env)
    await up.start(args=args)
    try:
        yield up
    finally:
        await up.stop()


async def copy_of(program: list[str], *, env: Mapping[str, str], log: Path) -> asyncio.subprocess.Process:
    """A helper process of a scenario (a worker, a producer): stdin and stdout are pipes, stderr goes to ``log``."""
    parent = os.getpid()
    with log.open("ab") as errors:
        return await asyncio.create_subprocess_exec(
            *program,
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL, parent),
        )


async def wait_for_port(port: int, within_s: float = 20.0) -> None:
    """Return when something listens on the loopback port. Raises ``TimeoutError``."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


async def end(process: asyncio.subprocess.Process, patience_s: float = 10.0) -> None:
    """SIGTERM, then SIGKILL. Safe on an ended process."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(patience_s):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def dump(path: Path, value: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
