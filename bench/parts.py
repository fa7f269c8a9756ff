"""Parts of the system, wired to servers without accounts, for scenarios that measure one of them alone."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from aura import config
from aura.cli.compose import CommandSide, command_side, world
from aura.clock import SystemClock, rfc3339
from aura.commands.handler import Caller
from aura.ids import SystemIds
from aura.log import topology
from aura.log.connection import Connection, connect
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append
from bench import servers
from bench.raw import RawClient

CALLER = Caller("user:bench", "bench", "bench")
IDS = SystemIds()
CLOCK = SystemClock()


@asynccontextmanager
async def log(url: str) -> AsyncIterator[Connection]:
    """A connection to a server with the streams of the topology."""
    connection = await connect(url, name="bench", connect_timeout_s=20)
    try:
        await topology.ensure(connection, CLOCK, IDS)
        yield connection
    finally:
        await connection.close()


def commands(connection: Connection, folder: Path) -> CommandSide:
    """The command service as the gateway binds it."""
    settings = config.load({"data_dir": str(folder / "commands")}, env={})
    settings.data_dir.mkdir(mode=0o700, exist_ok=True)
    return command_side(world(settings), connection, IDS.random_bytes(32))


def store(connection: Connection) -> JetStreamEventStore:
    """The log's store."""
    return JetStreamEventStore(connection, CLOCK, IDS)


def created(count: int, *, project: int = 1) -> Iterator[Append]:
    """``job.created`` of new jobs, about 720 bytes each, as the intake makes them (but for the title)."""
    for _ in range(count):
        job_id, event_id = IDS.uuid7(), IDS.uuid7()
        body = {
            "id": event_id,
            "type": "job.created",
            "v": 1,
            "ts": rfc3339(CLOCK.now()),
            "actor": "user:bench",
            "correlation_id": event_id,
            "causation_id": event_id,
            "project_id": project,
            "job_id": job_id,
            "root_job_id": job_id,
            "index": 0,
            "count": 1,
            "title": "render the chart of the week",
            "prd_title": "bench",
            "task_type": "noop",
            "role": "Employee",
            "priority": 5,
            "labels": {},
            "stages": [],
            "depends_on": [],
            "max_attempts": 3,
            "input": {"bytes": 20, "digest": "sha256:" + "0" * 64},
            "state": {"v": 1, "status": "QUEUED", "role": "Employee", "n": 1},
        }
        guard = f"aura.job.{project}.{job_id}.>"
        yield Append(f"aura.job.{project}.{job_id}.created", guard, 0, event_id, orjson.dumps(body))


async def lanes(work: Sequence[Callable[[], Awaitable[object]]], in_flight: int) -> None:
    """Run all of ``work``, ``in_flight`` at a time."""
    queue = iter(work)

    async def lane() -> None:
        for one in queue:
            await one()

    await asyncio.gather(*(lane() for _ in range(in_flight)))


@asynccontextmanager
async def component(name: str, folder: Path, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """``aura gateway|scheduler|projector`` as a process of its own, against servers without accounts."""
    clean = {"AURA_DATA_DIR": str(folder / "aura"), **env}
    (folder / "aura").mkdir(mode=0o700, exist_ok=True)
    process = await servers.copy_of([sys.executable, "-m", "aura", name], env=clean, log=folder / f"{name}.log")
    try:
        yield process
    finally:
        await servers.end(process)


#: Messages of one raw atomic batch, and batches in flight, when a scenario fills a log.
_BATCH, _OPEN = 1_000, 4


async def fill(client: RawClient, messages: Iterator[tuple[str, bytes]]) -> int:
    """Store ``(append subject, body)`` quickly, in unguarded atomic batches, in order; returns how many. For set-up only."""
    acks: asyncio.Queue[bytes] = asyncio.Queue()
    inbox = f"{client.inbox}.fill"
    client.subscribe(inbox, lambda _subject, _headers, body: acks.put_nowait(body) if body else None)
    open_batches, stored = 0, 0
    chunk: list[tuple[str, bytes]] = []

    async def landed() -> None:
        answer = await acks.get()
        if b'"error"' in answer:
            raise RuntimeError(f"filling the log: {answer[:300]!r}")

    def send() -> None:
        batch = IDS.uuid7()
        parts = []
        for number, (subject, body) in enumerate(chunk, 1):
            end = "Nats-Batch-Commit: 1\r\n" if number == len(chunk) else ""
            head = f"NATS/1.0\r\nNats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n{end}\r\n".encode()
            reply = inbox if end else ""
            parts.append(
                f"HPUB {subject} {reply} {len(head)} {len(head) + len(body)}\r\n".encode() + head + body + b"\r\n"
            )
        client.send(b"".join(parts))

    for message in messages:
        chunk.append(message)
        if len(chunk) == _BATCH:
            send()
            stored, chunk, open_batches = stored + len(chunk), [], open_batches + 1
            if open_batches == _OPEN:
                await landed()
                open_batches -= 1
    if chunk:
        send()
        stored, open_batches = stored + len(chunk), open_batches + 1
    for _ in range(open_batches):
        await landed()
    return stored


def environment(nats_url: str, database_url: str) -> dict[str, str]:
    """For :func:`component`."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
    return keep | {"AURA_NATS_URL": nats_url, "AURA_DATABASE_URL": database_url}
