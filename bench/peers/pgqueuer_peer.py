"""pgqueuer: asyncpg, uvloop, ``durable`` tables, its own autovacuum settings.

Settings from its performance guide and its benchmark tool: a direct connection for the queue manager, a larger ``batch_size`` for
short jobs (500 beat 10 and 100; more queue managers in the process made it slower), list ``enqueue`` for bulk (one INSERT for many jobs).

States of a job: a row in ``pgqueuer`` while it is queued or picked; its events in ``pgqueuer_log``; the row goes when it is done.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from bench.peers.ledger import Ledger
from bench.peers.pace import bulk, paced, single

URL = os.environ["BENCH_URL"]
MANAGERS = int(os.environ.get("BENCH_MANAGERS", "1"))
BATCH = int(os.environ.get("BENCH_BATCH", "500"))


async def setup() -> None:
    connection = await asyncpg.connect(URL)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()
    await connection.close()


async def worker(ledger: Ledger) -> None:
    async def one() -> None:
        pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

        @pgq.entrypoint("noop")
        async def noop(job: Job) -> None:
            ledger.started(int(job.payload or b"0"))

        await pgq.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=5))

    print("ready", flush=True)
    await asyncio.gather(*(one() for _ in range(MANAGERS)))


async def produce(mode: str, ledger: Ledger, first: int, count: int) -> None:
    pool = await asyncpg.create_pool(URL, min_size=8, max_size=16)
    queries = Queries(AsyncpgPoolDriver(pool))

    async def one(number: int) -> None:
        await queries.enqueue("noop", b"%d" % number)

    async def many(numbers: range) -> None:
        await queries.enqueue(["noop"] * len(numbers), [b"%d" % n for n in numbers], [0] * len(numbers))

    await {
        "bulk": lambda: bulk(many, ledger, first, count),
        "single": lambda: single(one, ledger, first, count),
        "paced": lambda: paced(one, ledger, first, count),
    }[mode]()
    await pool.close()


async def done() -> None:
    connection = await asyncpg.connect(URL)
    left = await connection.fetchval("SELECT count(*) FROM pgqueuer")
    finished = await connection.fetchval("SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'")
    print(json.dumps({"left": left, "finished": finished}))
    await connection.close()


async def main() -> None:
    command, path, slots, *rest = sys.argv[1:]
    ledger = Ledger(path, int(slots))
    match command:
        case "setup":
            await setup()
        case "worker":
            await worker(ledger)
        case "done":
            await done()
        case mode:
            await produce(mode, ledger, int(rest[0]), int(rest[1]))


if __name__ == "__main__":
    uvloop.run(main())
