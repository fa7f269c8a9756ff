"""No-op jobs from the first request to the last completion that the read models have, one worker process, everything durable.

Every job is four events in the log and one encrypted input; the target is a share of (raw publish rate ÷ 4). ``bulk`` submits PRDs of
1,000 tasks, ``single`` one task per request, 64 at a time. Baseline: unguarded publishes of 600 bytes into a plain stream of the
*same kind* of server, started for that, before and after; both runs have the machine to themselves.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench import raw, servers, stack
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.samples import median

EVENTS_PER_JOB = 4
CHUNK, CHUNKS_IN_FLIGHT, WINDOW = 1_000, 2, 64


async def run(bench: Bench) -> None:
    """See the module docstring."""
    jobs, rounds = bench.pick(10_000, 3_000), bench.pick(3, 1)
    with bench.scratch("throughput") as folder:
        raw_rates = [await _raw(folder, 0)]
        bulk: list[float] = []
        single: list[float] = []
        completed: list[float] = []
        total = 0
        async with stack.running(folder, 1_000 + 2 * rounds * jobs) as system:
            await _rate(system, range(1_000), 1_000, bulk=False)
            total = 1_000
            spent: dict[bool, list[str]] = {True: [], False: []}
            for _ in range(rounds):
                meter = system.meter()
                rate, done = await _rate(system, range(total, total + jobs), total + jobs, bulk=True)
                spent[True].append(meter.text(jobs))
                bulk.append(rate)
                completed.append(done)
                total += jobs
                meter = system.meter()
                rate, _ = await _rate(system, range(total, total + jobs), total + jobs, bulk=False)
                single.append(rate)
                spent[False].append(meter.text(jobs))
                total += jobs
            twice = sum(1 for _, _, starts in system.ledger.slots(0, total) if starts != 1)
        raw_rates.append(await _raw(folder, 1))
    base = median(raw_rates) / EVENTS_PER_JOB
    name = f"raw publish ÷ {EVENTS_PER_JOB}"
    note = f"{total:,} jobs, {twice} of them not started exactly once; raw rates {', '.join(f'{r:,.0f}' for r in raw_rates)}/s"
    target = Target(at_least=1_200, ratio_at_least=0.5)
    bench.report(Figure("bulk: submitted → projected", median(bulk), "jobs/s", base, name, target, note, bulk))
    bench.report(
        Figure(
            "bulk: submitted → completed",
            median(completed),
            "jobs/s",
            base,
            name,
            samples=completed,
            note=spent[True][-1],
        )
    )
    bench.report(
        Figure(
            "single: submitted → projected", median(single), "jobs/s", base, name, samples=single, note=spent[False][-1]
        )
    )


async def _raw(folder: Path, number: int) -> float:
    async with servers.nats(folder, name=f"raw{number}") as nats:
        client = await raw.connect(nats.url)
        prefix = await raw.plain_stream(client)
        pipeline = raw.Pipeline(client)
        builders = [raw.publish(f"{prefix}.{index}", b"x" * 600) for index in range(8_000)]
        await pipeline.run(builders[:1_000], 128)
        rate = (await pipeline.run(builders, 128)).rate
        client.close()
    return rate


async def _rate(system: stack.Stack, numbers: range, total: int, *, bulk: bool) -> tuple[float, float]:
    """Jobs per second until projected, and until completed."""
    step, in_flight = (CHUNK, CHUNKS_IN_FLIGHT) if bulk else (1, WINDOW)
    starts = iter(range(numbers.start, numbers.stop, step))

    async def lane() -> None:
        for start in starts:
            await system.submit(range(start, min(start + step, numbers.stop)))

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(in_flight)))
    seq = await system.all_completed(total)
    done = time.perf_counter() - began
    await system.projected(seq)
    return len(numbers) / (time.perf_counter() - began), len(numbers) / done


SCENARIO = Scenario("throughput", "no-op jobs a second, submitted to projected", run)
