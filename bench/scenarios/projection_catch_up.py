"""How fast an empty set of read models catches up with a full log: the real ``aura projector`` from nothing to the end.

Baselines of the same run: COPY of the same bodies into one table without indexes (what Postgres can take at most), and reading the
same stream raw with direct gets (what the log can give).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import psycopg
from psycopg.types.json import Json

from bench import parts, raw, servers
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.processes import CpuMeter
from tests.support.synthetic_log import events


async def run(bench: Bench) -> None:
    """See the module docstring."""
    jobs = bench.pick(100_000, 25_000)
    with bench.scratch("catch-up") as folder:
        async with servers.nats(folder) as nats, servers.postgres(folder) as postgres:
            async with parts.log(nats.url) as connection:
                client = await raw.connect(nats.url)
                total = await parts.fill(client, _messages(jobs))
                client.close()
                began = time.perf_counter()
                async for _ in parts.store(connection).read():
                    pass
                reading = total / (time.perf_counter() - began)
            copying = await _copy(postgres.url, bench.pick(100_000, 50_000))
            env = parts.environment(nats.url, postgres.url)
            async with parts.component("projector", folder, env) as projector:
                meter = CpuMeter({"projector": projector.pid, "nats": nats.pid, "postgres": postgres.pid})
                rate = await _caught_up(postgres.url, total)
                spent = meter.per(total)
    cpu = " + ".join(f"{name} {ms * 1000:.0f}" for name, ms in spent.items())
    note = f"{total:,} events; {cpu} µs of processor time per event"
    target = Target(at_least=30_000)
    bench.report(Figure("catching up", rate, "events/s", copying, "COPY of the bodies", target, note))
    bench.report(Figure("reading the log alone", reading, "events/s"))


def _messages(jobs: int) -> Iterator[tuple[str, bytes]]:
    for recorded in events(jobs):
        yield "append." + recorded.subject, recorded.body


async def _copy(url: str, count: int) -> float:
    bodies = [recorded.body for recorded, _ in zip(events(count), range(count), strict=False)]
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("CREATE TABLE bench_copy (seq bigint, body json)")
        await connection.commit()
        began = time.perf_counter()
        async with connection.cursor() as cursor, cursor.copy("COPY bench_copy FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "json"])
            for seq, body in enumerate(bodies):
                await copy.write_row((seq, Json(body, dumps=bytes)))
        await connection.commit()
        taken = time.perf_counter() - began
        await connection.execute("DROP TABLE bench_copy")
        await connection.commit()
    return count / taken


async def _caught_up(url: str, total: int) -> float:
    """Events per second from the first committed batch to the end."""
    first: tuple[int, float] | None = None
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        async with asyncio.timeout(600):
            while True:
                await asyncio.sleep(0.02)
                try:
                    cursor = await connection.execute("SELECT min(seq) FROM aura.projections WHERE name <> 'health'")
                except psycopg.errors.UndefinedTable:
                    continue
                row = await cursor.fetchone()
                seq = int(row[0] or 0) if row else 0
                if seq and first is None:
                    first = (seq, time.perf_counter())
                if first is not None and seq >= total:
                    return (total - first[0]) / (time.perf_counter() - first[1])


SCENARIO = Scenario("projection_catch_up", "an empty set of read models and a full log", run)
