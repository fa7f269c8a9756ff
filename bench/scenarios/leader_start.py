"""How long a new scheduler process needs until it leads, and until it assigns, with 100,000 open jobs.

The log holds the jobs, ``aura projector`` has projected them, then ``aura scheduler`` starts: interpreter, snapshot, fold, election. What
is timed ends with ``system.leader_elected`` in the committed space, and with the first assignment.
"""

from __future__ import annotations

import asyncio
import time

import psycopg

from bench import parts, raw, servers
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.processes import memory


async def run(bench: Bench) -> None:
    """See the module docstring."""
    jobs = bench.pick(100_000, 20_000)
    with bench.scratch("leader") as folder:
        async with servers.nats(folder) as nats, servers.postgres(folder) as postgres:
            async with parts.log(nats.url):
                client = await raw.connect(nats.url)
                total = await parts.fill(client, (("append." + one.subject, one.body) for one in parts.created(jobs)))
            env = parts.environment(nats.url, postgres.url)
            async with parts.component("projector", folder, env):
                await _projected(postgres.url, total)
                elected: asyncio.Future[float] = asyncio.get_running_loop().create_future()
                assigned: asyncio.Future[float] = asyncio.get_running_loop().create_future()
                client.subscribe("aura.system.leader_elected", _mark(elected))
                client.subscribe("aura.job.*.*.assigned.*", _mark(assigned))
                await client.flush()
                began = time.perf_counter()
                async with parts.component("scheduler", folder, env) as scheduler:
                    async with asyncio.timeout(120):
                        leads, assigns = await elected - began, await assigned - began
                    used = memory(scheduler.pid)
            client.close()
    note = f"{jobs:,} open jobs; the scheduler then has {used.rss:.0f} MiB resident"
    bench.report(Figure("process start → leads", leads, "s", target=Target(at_most=5.0), note=note))
    bench.report(Figure("process start → first assignment", assigns, "s"))


def _mark(future: asyncio.Future[float]) -> raw.OnMessage:
    def arrived(_subject: bytes, _headers: bytes, _body: bytes) -> None:
        if not future.done():
            future.set_result(time.perf_counter())

    return arrived


async def _projected(url: str, total: int) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        async with asyncio.timeout(300):
            while True:
                await asyncio.sleep(0.1)
                try:
                    cursor = await connection.execute("SELECT min(seq) FROM aura.projections WHERE name <> 'health'")
                except psycopg.errors.UndefinedTable:
                    continue
                row = await cursor.fetchone()
                if row and (row[0] or 0) >= total:
                    return


SCENARIO = Scenario("leader_start", "a new leader with many open jobs", run)
