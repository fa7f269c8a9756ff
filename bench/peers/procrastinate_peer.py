"""procrastinate: psycopg 3 (binary), LISTEN/NOTIFY, one worker with many concurrent jobs, ``batch_defer_async`` for bulk.

Finished jobs stay as rows (its default, ``delete_jobs: never``) and every step is a row of ``procrastinate_events``: the only
other one here that keeps a history.
"""

from __future__ import annotations

import json
import os
import sys

import procrastinate
import psycopg
import uvloop

from bench.peers.ledger import Ledger
from bench.peers.pace import bulk, paced, single

URL = os.environ["BENCH_URL"]
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "30"))
_ledger: Ledger | None = None
app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=URL, min_size=4, max_size=int(os.environ.get("BENCH_POOL", "20")))
)


@app.task(name="noop")
async def noop(number: int) -> None:
    assert _ledger is not None
    _ledger.started(number)


async def worker() -> None:
    async with app.open_async():
        print("ready", flush=True)
        await app.run_worker_async(concurrency=CONCURRENCY, listen_notify=True, install_signal_handlers=True)


async def produce(mode: str, ledger: Ledger, first: int, count: int) -> None:
    async def one(number: int) -> None:
        await noop.defer_async(number=number)

    async def many(numbers: range) -> None:
        await noop.batch_defer_async(*({"number": number} for number in numbers))

    async with app.open_async():
        await {
            "bulk": lambda: bulk(many, ledger, first, count),
            "single": lambda: single(one, ledger, first, count),
            "paced": lambda: paced(one, ledger, first, count),
        }[mode]()


async def done() -> None:
    async with await psycopg.AsyncConnection.connect(URL) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FILTER (WHERE status = 'succeeded'), count(*) FILTER (WHERE status <> 'succeeded')"
            " FROM procrastinate_jobs"
        )
        row = await cursor.fetchone()
        assert row is not None
        print(json.dumps({"finished": row[0], "left": row[1]}))


async def main() -> None:
    global _ledger
    command, path, slots, *rest = sys.argv[1:]
    _ledger = Ledger(path, int(slots))
    match command:
        case "setup":
            async with app.open_async():
                await app.schema_manager.apply_schema_async()
        case "worker":
            await worker()
        case "done":
            await done()
        case mode:
            await produce(mode, _ledger, int(rest[0]), int(rest[1]))


if __name__ == "__main__":
    uvloop.run(main())
