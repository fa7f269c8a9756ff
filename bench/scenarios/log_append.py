"""Guarded appends to the log, against the same messages published raw by the leanest client we can write.

Baseline and ours share the stream, the sizes, the process and the event loop's turn; ours adds validation, the unknown-outcome
protocol and group commit. With ``sync_interval: always`` the server flushes once per plain message: group commit may beat raw.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append
from bench import parts, raw, servers
from bench.bench import Bench, Scenario, interleaved
from bench.figures import Figure
from bench.raw import Pipeline
from bench.samples import Latency, median


async def run(bench: Bench) -> None:
    """See the module docstring."""
    with bench.scratch("append") as folder:
        async with servers.nats(folder) as nats, parts.log(nats.url) as connection:
            client = await raw.connect(nats.url)
            pipeline = Pipeline(client)
            store = parts.store(connection)
            rounds = bench.pick(5, 2)
            await _plain(bench, client, pipeline, rounds)
            for in_flight, count in ((1, 1_000), (16, 4_000), (128, 8_000)):
                await _guarded(bench, pipeline, store, in_flight, bench.pick(count, count // 2), rounds)
            client.close()


async def _plain(bench: Bench, client: raw.RawClient, pipeline: Pipeline, rounds: int) -> None:
    """The unguarded publish rate on a plain stream: the divisor of the throughput target."""
    prefix = await raw.plain_stream(client)
    body = b"x" * 600
    rates = []
    for _ in range(rounds + 1):
        builders = [raw.publish(f"{prefix}.{number}", body) for number in range(bench.pick(8_000, 4_000))]
        rates.append((await pipeline.run(builders, 128)).rate)
    rates = rates[1:]
    bench.report(Figure("raw publish, no guard, 128 in flight", median(rates), "msg/s", samples=rates))


async def _guarded(
    bench: Bench, pipeline: Pipeline, store: JetStreamEventStore, in_flight: int, count: int, rounds: int
) -> None:
    theirs: list[int] = []
    ours: list[int] = []

    async def baseline() -> float:
        builders = [
            raw.guarded("append." + one.subject, one.guard or "", 0, one.event_id, one.body)
            for one in parts.created(count)
        ]
        published = await pipeline.run(builders, in_flight)
        theirs.extend(published.latencies_ns)
        return published.rate

    async def measured() -> float:
        def append(one: Append) -> Callable[[], Awaitable[None]]:
            async def go() -> None:
                began = time.perf_counter_ns()
                await store.append(one)
                ours.append(time.perf_counter_ns() - began)

            return go

        work = [append(one) for one in parts.created(count)]
        began = time.perf_counter()
        await parts.lanes(work, in_flight)
        return count / (time.perf_counter() - began)

    (base, base_samples), (value, samples) = await interleaved(rounds, baseline, measured)
    note = f"ours {Latency.of_ns(ours).text()}; raw {Latency.of_ns(theirs).text()}; raw samples {_short(base_samples)}"
    name = f"guarded append, {in_flight} in flight"
    bench.report(Figure(name, value, "msg/s", base, "raw guarded publish", note=note, samples=samples))


def _short(samples: list[float]) -> str:
    return ", ".join(f"{one:,.0f}" for one in samples)


SCENARIO = Scenario("log_append", "guarded appends against raw guarded publishes", run)
