"""Loading and appending to one job while the log holds 10³ … 10⁶ others: both must stay flat.

The log is filled with whole lives (about four events a job); then a handful of jobs of this process are loaded (the one direct get of an
uncached head) and appended to. Ratio: against the smallest log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from aura.events import subjects
from bench import parts, raw, servers
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.processes import memory
from bench.samples import Latency
from tests.support.synthetic_log import events

_SAMPLES = 400


async def run(bench: Bench) -> None:
    """See the module docstring."""
    sizes = (1_000, 10_000, 100_000) if bench.quick else (1_000, 10_000, 100_000, 1_000_000)
    found: dict[int, tuple[Latency, Latency, float]] = {}
    with bench.scratch("entity") as folder:
        async with servers.nats(folder) as nats, parts.log(nats.url) as connection:
            client = await raw.connect(nats.url)
            store = parts.store(connection)
            source = _messages(sizes[-1])
            filled = 0
            for size in sizes:
                filled += await parts.fill(client, _take(source, size * 4 - filled))
                loads, appends = [], []
                for one in parts.created(_SAMPLES):
                    began = time.perf_counter_ns()
                    await store.append(one)
                    appends.append(time.perf_counter_ns() - began)
                    began = time.perf_counter_ns()
                    await store.last(subjects.job_anywhere(one.subject.split(".")[3]))
                    loads.append(time.perf_counter_ns() - began)
                found[size] = Latency.of_ns(loads), Latency.of_ns(appends), memory(nats.pid).rss
            client.close()
    load, append, _ = found[sizes[0]]
    for size, (loads_now, appends_now, rss) in found.items():
        flat = Target(ratio_at_most=1.5) if size != sizes[0] else None
        against = f"{sizes[0]:,} jobs"
        note = f"{loads_now.text()}; nats-server {rss:.0f} MiB"
        bench.report(Figure(f"load, {size:,} jobs, p50", loads_now.p50, "ms", load.p50, against, flat, note))
        bench.report(
            Figure(f"append, {size:,} jobs, p50", appends_now.p50, "ms", append.p50, against, flat, appends_now.text())
        )


def _messages(jobs: int) -> Iterator[tuple[str, bytes]]:
    for recorded in events(jobs + 1_000):
        yield "append." + recorded.subject, recorded.body


def _take(source: Iterator[tuple[str, bytes]], count: int) -> Iterator[tuple[str, bytes]]:
    for _, message in zip(range(count), source, strict=False):
        yield message


SCENARIO = Scenario("entity_size", "load and append of one job by size of the log", run)
