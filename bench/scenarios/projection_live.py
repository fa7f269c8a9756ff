"""Publish → committed row, seen from outside, at 1,000 events a second.

Whole lives of jobs are appended through the store (guards and group commit). A second Postgres session asks for the checkpoint again
and again, a millisecond after each answer, so a figure is up to that much too high; the real ``aura projector`` runs as a
process of its own. The clock starts before the append, so the log's own flush is included. Baseline: until the log acknowledged
the same events; what is left is the projection's.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from aura.errors import Unavailable
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append, Recorded
from aura.projections.queries import Queries
from bench import parts, servers
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.processes import CpuMeter
from bench.samples import Latency
from tests.support.synthetic_log import events

RATE = 1_000
ASK_S = 0.001


async def run(bench: Bench) -> None:
    """See the module docstring."""
    seconds = bench.pick(20, 8)
    with bench.scratch("live") as folder:
        async with servers.nats(folder) as nats, servers.postgres(folder) as postgres:
            env = parts.environment(nats.url, postgres.url)
            async with (
                parts.log(nats.url) as connection,
                parts.component("projector", folder, env) as projector,
            ):
                heard = await _listener(postgres.url)
                publisher = _Publisher(parts.store(connection), heard)
                await publisher.run(RATE * 3)
                meter = CpuMeter({"projector": projector.pid, "nats": nats.pid, "postgres": postgres.pid})
                acked, projected = await publisher.run(RATE * seconds)
                spent = meter.text(RATE * seconds)
                heard.close()
    note = f"{projected.text()}; {spent}"
    bench.report(
        Figure(
            "publish → committed row, p50", projected.p50, "ms", acked.p50, "publish → ack", Target(at_most=3.0), note
        )
    )
    bench.report(
        Figure("publish → committed row, p99", projected.p99, "ms", acked.p99, "publish → ack", Target(at_most=15.0))
    )


class _Listener:
    """Asks how far the read models are. ``at[seq]`` is when everything up to ``seq`` was known to be committed."""

    def __init__(self) -> None:
        self.seq = 0
        self.waiting: dict[int, int] = {}
        self.taken: list[int] = []
        self.moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, url: str) -> None:
        queries = Queries(url, clock=parts.CLOCK, max_connections=1)
        await queries.start()

        async def ask() -> None:
            try:
                while True:
                    with suppress(Unavailable):  # before the projector has made its tables
                        self._reached(await queries.checkpoint(), time.perf_counter_ns())
                    await asyncio.sleep(ASK_S)
            finally:
                await queries.stop()

        self._task = asyncio.create_task(ask())

    async def all_of(self, count: int) -> None:
        """Wait until ``count`` latencies are known."""
        while len(self.taken) < count:
            await self.moved.wait()
            self.moved.clear()

    def _reached(self, seq: int, now: int) -> None:
        for one in range(self.seq + 1, seq + 1):
            sent = self.waiting.pop(one, None)
            if sent is not None:
                self.taken.append(now - sent)
        self.seq = max(self.seq, seq)
        self.moved.set()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def _listener(url: str) -> _Listener:
    listener = _Listener()
    await listener.start(url)
    return listener


class _Publisher:
    """Appends whole lives of jobs through the store, each event behind the one before it, as the command service would."""

    def __init__(self, store: JetStreamEventStore, heard: _Listener) -> None:
        self._store = store
        self._heard = heard
        self._source = events(1_000_000)
        self._heads: dict[str, asyncio.Task[int]] = {}
        self._acked: list[int] = []

    async def run(self, count: int) -> tuple[Latency, Latency]:
        """On schedule, whatever happens; returns the latencies until acknowledged and until projected."""
        self._acked, self._heard.taken = [], []
        began = time.monotonic()
        for number in range(count):
            wait = began + number / RATE - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            one = next(self._source)
            guard = one.subject.rsplit(".", one.subject.count(".") - 3)[0] + ".>"
            self._heads[guard] = asyncio.create_task(self._append(one, guard, self._heads.get(guard)))
        await asyncio.wait_for(self._heard.all_of(count), 120)
        return Latency.of_ns(self._acked), Latency.of_ns(self._heard.taken)

    async def _append(self, one: Recorded, guard: str, before: asyncio.Task[int] | None) -> int:
        expected = await before if before is not None else 0
        sent = time.perf_counter_ns()
        seq = await self._store.append(Append(one.subject, guard, expected, parts.IDS.uuid7(), one.body))
        now = time.perf_counter_ns()
        self._acked.append(now - sent)
        if seq > self._heard.seq:
            self._heard.waiting[seq] = sent
        else:
            self._heard.taken.append(now - sent)  # projected before we were told that it is stored
            self._heard.moved.set()
        return seq


SCENARIO = Scenario("projection_live", "publish to committed row at 1,000 events/s", run)
