"""The peers as the judge sees them: their server, their commands, what they keep and how safely."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aura.runtime.ports import choose
from bench import servers
from bench.servers import ROOT

#: The interpreter that has the peers (``make bench-peers`` makes it).
PYTHON = Path(os.environ.get("AURA_BENCH_PEERS_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))


@dataclass(frozen=True, slots=True)
class Peer:
    """One configuration of one peer. ``server`` yields its URL; ``worker`` are the arguments of its one worker process."""

    name: str
    package: str
    durability: str
    history: str
    settings: str
    script: str
    server: Callable[[Path], AbstractAsyncContextManager[str]]
    worker: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    setup: bool = True
    ready: str | None = "ready"
    jobs: int = 20_000
    single_jobs: int = 5_000


def redis_server() -> str | None:
    """A redis-server on PATH, or the one named in ``AURA_BENCH_REDIS``."""
    return os.environ.get("AURA_BENCH_REDIS") or shutil.which("redis-server")


@asynccontextmanager
async def _postgres(folder: Path) -> AsyncIterator[str]:
    async with servers.postgres(folder) as running:
        yield running.url


@asynccontextmanager
async def _jetstream_always(folder: Path) -> AsyncIterator[str]:
    async with servers.nats(folder) as running:
        yield running.url


@asynccontextmanager
async def _jetstream_default(folder: Path) -> AsyncIterator[str]:
    async with servers.nats(folder, flush_always=False) as running:
        yield running.url


def _redis(*options: str) -> Callable[[Path], AbstractAsyncContextManager[str]]:
    @asynccontextmanager
    async def start(folder: Path) -> AsyncIterator[str]:
        binary = redis_server()
        assert binary is not None
        port = choose(1, [])[0]
        args = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *options]
        with (folder / "redis.log").open("ab") as log:
            process = subprocess.Popen(args, stdout=log, stderr=log)  # noqa: ASYNC220 - returns at once
        try:
            await servers.wait_for_port(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()

    return start


_PYTHON = str(PYTHON)
_TASKIQ = tuple(
    f"{_PYTHON} -m taskiq worker bench.peers.taskiq_peer:broker --workers 1 --max-async-tasks 100"
    " --max-prefetch 1000 --log-level WARNING".split()
)
PEERS = (
    Peer(
        "pgqueuer",
        "pgqueuer",
        "every commit flushed (durable tables)",
        "log rows per status change, rolled up later",
        "asyncpg, uvloop, 1 queue manager, batch 500, pgq autovac, list enqueue of 1,000",
        "bench.peers.pgqueuer_peer",
        _postgres,
        (_PYTHON, "-m", "bench.peers.pgqueuer_peer", "worker"),
    ),
    Peer(
        "procrastinate",
        "procrastinate",
        "every commit flushed",
        "job rows stay, one event row per step",
        "psycopg binary, uvloop, concurrency 30, pool 20, batch_defer of 1,000",
        "bench.peers.procrastinate_peer",
        _postgres,
        (_PYTHON, "-m", "bench.peers.procrastinate_peer", "worker"),
        jobs=5_000,
        single_jobs=3_000,
    ),
    Peer(
        "Dramatiq + Redis, AOF always",
        "dramatiq",
        "every command flushed (appendfsync always)",
        "none",
        "1 process, 8 threads, default prefetch; 4 sending threads for bulk",
        "bench.peers.dramatiq_peer",
        _redis("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        (_PYTHON, "-m", "dramatiq", "bench.peers.dramatiq_peer", "--processes", "1", "--threads", "8"),
        setup=False,
        ready=None,
    ),
    Peer(
        "Dramatiq + Redis, as shipped",
        "dramatiq",
        "none: up to an hour of jobs is lost with the power (RDB snapshots)",
        "none",
        "as above",
        "bench.peers.dramatiq_peer",
        _redis(),
        (_PYTHON, "-m", "dramatiq", "bench.peers.dramatiq_peer", "--processes", "1", "--threads", "8"),
        setup=False,
        ready=None,
    ),
    Peer(
        "taskiq-nats, sync always",
        "taskiq-nats",
        "every message flushed (sync_interval: always)",
        "the message; of its fate only the acknowledgement",
        "JetStream pull, 1 process, uvloop, pull batch 10, 100 async tasks, prefetch 1,000",
        "bench.peers.taskiq_peer",
        _jetstream_always,
        _TASKIQ,
        ready=None,
        jobs=10_000,
    ),
    Peer(
        "taskiq-nats, sync default",
        "taskiq-nats",
        "flushed every 2 minutes: power loss takes them all",
        "the message; of its fate only the acknowledgement",
        "as above",
        "bench.peers.taskiq_peer",
        _jetstream_default,
        _TASKIQ,
        ready=None,
        jobs=10_000,
    ),
)


def missing(peer: Peer) -> str | None:
    """Why this peer cannot run here, with what to do; ``None`` when it can."""
    if not PYTHON.exists():
        return f"{PYTHON} is not there: run `make bench-peers`, or set AURA_BENCH_PEERS_PYTHON"
    if "redis" in peer.name.lower() and redis_server() is None:
        return (
            "no redis-server: install your distribution's package (`apt-get install redis-server`), "
            "or name a binary in AURA_BENCH_REDIS"
        )
    return None


def versions() -> dict[str, str]:
    """Installed versions of the peers."""
    wanted = [
        "pgqueuer",
        "procrastinate",
        "dramatiq",
        "redis",
        "taskiq",
        "taskiq-nats",
        "nats-py",
        "asyncpg",
        "psycopg",
    ]
    code = f"from importlib.metadata import version\nfor n in {wanted!r}: print(n, version(n))"
    said = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout
    found = dict(line.split() for line in said.splitlines())
    if binary := redis_server():
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        found["redis-server"] = told.partition("v=")[2].split()[0] if "v=" in told else told.strip()
    found["python"] = sys.version.split()[0]
    return found
