"""``GET /jobs`` with every filter, at a million jobs.

The rows come from generated events through the projector's own fold and write path (no fake tables). Asked over HTTP through a real
``aura gateway``, one request at a time, every filter and some combinations, first pages and pages deep down. Baseline: the same gateway
answering ``GET /health``, which touches no database.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator

import psycopg

from aura.log.store import Recorded
from aura.projections.connection import connect
from aura.projections.migrations import migrate
from aura.projections.projection import BLOCK
from aura.projections.writer import Writer
from aura.runtime.ports import choose, http_status
from bench import parts, servers
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.http import Http
from bench.machine import say
from bench.samples import Latency
from tests.support.synthetic_log import ROLES, WORDS, events

_BATCH = 10_000
_STATUSES = ("QUEUED", "ASSIGNED", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "SUBMITTED")


async def run(bench: Bench) -> None:
    """See the module docstring."""
    jobs = bench.pick(1_000_000, 100_000)
    with bench.scratch("filters") as folder:
        async with servers.nats(folder) as nats, servers.postgres(folder) as postgres:
            async with parts.log(nats.url) as connection:
                epoch = (await parts.store(connection).identity()).epoch
            rate = await _project(postgres.url, epoch, jobs)
            port = choose(1, [])[0]
            env = parts.environment(nats.url, postgres.url) | {"AURA_PORT": str(port)}
            async with parts.component("gateway", folder, env):
                while await http_status("127.0.0.1", port, "/health") != 200:
                    pass
                http = Http(f"http://127.0.0.1:{port}")
                found = await _ask(http, bench.pick(60, 15))
                base = Latency.of_ns([await _timed(http, "/health") for _ in range(300)])
                http.close()
    every = Latency.of_ns([one for taken in found.values() for one in taken])
    worst = sorted(found.items(), key=lambda item: -Latency.of_ns(item[1]).p99)[:3]
    slow = "; ".join(f"{name} p99 {Latency.of_ns(taken).p99:.1f}" for name, taken in worst)
    note = f"{every.text()}; {len(found)} filters; slowest: {slow}"
    size = f"{jobs:,} jobs"
    bench.report(
        Figure(
            f"GET /jobs, all filters, p99, {size}", every.p99, "ms", base.p99, "GET /health", Target(at_most=20.0), note
        )
    )
    name, taken = worst[0]
    latency = Latency.of_ns(taken)
    worst_target = Target(at_most=20.0)
    bench.report(Figure(f"slowest filter ({name}), p99", latency.p99, "ms", target=worst_target, note=latency.text()))
    bench.report(Figure("GET /jobs, all filters, p50", every.p50, "ms", base.p50, "GET /health"))
    bench.report(Figure("projected on the way there", rate, "events/s", note="one process, no log to read from"))


def _batches(source: Iterator[Recorded]) -> Iterator[list[Recorded]]:
    """As the feed cuts them: never across a block."""
    batch: list[Recorded] = []
    for one in source:
        batch.append(one)
        if len(batch) == _BATCH or (one.seq + 1) % BLOCK == 0:
            yield batch
            batch = []
    if batch:
        yield batch


async def _project(url: str, epoch: str, jobs: int) -> float:
    from aura.projections import versions
    from aura.projections.catalog import FROM_LOG

    connection = await connect(url, "bench")
    await migrate(connection)
    await connection.execute("SET synchronous_commit = off")
    live = [await versions.live(connection, one) for one in FROM_LOG.projections]
    writer = Writer(connection, live, epoch=epoch, decode=FROM_LOG.decode)
    began, done = time.perf_counter(), 0
    for number, batch in enumerate(_batches(events(jobs, window=jobs // 50))):
        await writer.commit(await writer.fold(batch))
        done += len(batch)
        if number % 50 == 0:
            say(f"    {done:,} events, {done / (time.perf_counter() - began):,.0f}/s")
    rate = done / (time.perf_counter() - began)
    await connection.close()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as session:
        await session.execute("VACUUM (ANALYZE)")
        await session.execute("CHECKPOINT") if await _super(session) else None
    return rate


async def _super(session: psycopg.AsyncConnection[tuple[object, ...]]) -> bool:
    row = await (await session.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")).fetchone()
    return bool(row and row[0])


def _questions(rng: random.Random) -> Iterator[tuple[str, str]]:
    """``(name, query string)``: each filter alone and the combinations people use."""
    while True:
        status, project = rng.choice(_STATUSES), rng.randint(1, 20)
        role, model = rng.choice(list(ROLES.items()))
        word = rng.choice(WORDS)
        rare = f"the {rng.choice(WORDS)} of {rng.choice(WORDS)} {rng.randint(0, 99_999)}"
        yield "nothing", ""
        yield "status", f"status={status}"
        yield "status open", "status=QUEUED,ASSIGNED,IN_PROGRESS"
        yield "project", f"project_id={project}"
        yield "role", f"role={role}"
        yield "model", f"model={model}"
        yield "q common", f"q={word}"
        yield "q rare", f"q={rare.replace(' ', '%20')}"
        yield "q nowhere", "q=zzyzx"
        yield "status+project", f"status={status}&project_id={project}"
        yield "role+status", f"role={role}&status={status}"
        yield "project+role+model+status", f"project_id={project}&role={role}&model={model}&status={status}"
        yield "project+q", f"project_id={project}&q={word}"
        yield "status+q", f"status={status}&q={word}"
        yield "nobody's model", "model=nobody"


async def _timed(http: Http, path: str) -> int:
    began = time.perf_counter_ns()
    await http.get(path)
    return time.perf_counter_ns() - began


async def _ask(http: Http, rounds: int) -> dict[str, list[int]]:
    kinds = 15
    questions = _questions(random.Random(1))
    for _, query in itertools.islice(questions, kinds * 2):
        await http.get(f"/jobs?{query}&limit=50")
    found: dict[str, list[int]] = {}
    for name, query in itertools.islice(questions, kinds * rounds):
        found.setdefault(name, []).append(await _timed(http, f"/jobs?{query}&limit=50"))
    return found


SCENARIO = Scenario("job_filters", "GET /jobs over HTTP at a million jobs", run)
