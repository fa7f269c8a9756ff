"""Submit → assigned → handler started at 100 jobs a second, over HTTP, through all processes of a real ``aura up``.

The clock starts before the request is written; ``assigned`` is when a NATS subscriber of the committed space sees the event, ``started``
when the handler runs in the worker's process. Producer, gateway, scheduler, projector, worker, nats-server and Postgres share the cores.
Open loop: a late answer does not slow the producer. Baseline, in the same minute: the bare prototype of ``bench/prototype.py`` at
the same rate, which does nothing but the two appends and deliveries that are on every job's way.
"""

from __future__ import annotations

import asyncio
import time

from bench import prototype, stack
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.samples import Latency

RATE = 100


async def run(bench: Bench) -> None:
    """See the module docstring."""
    seconds = bench.pick(30, 8)
    with bench.scratch("start") as folder:
        bare = await prototype.measure(folder, RATE, bench.pick(12, 5))
        async with stack.running(folder, RATE * (seconds + 5)) as system:
            await _paced(system, 0, RATE * 4)
            meter = system.meter()
            assigned, started = await _paced(system, RATE * 4, RATE * seconds)
            note = f"open loop, over HTTP; client and all servers share the cores; {meter.text(RATE * seconds)}"
            _report(bench, "submit → assigned", assigned, bare.assigned, Target(at_most=4.0), None, note)
            _report(
                bench,
                "submit → handler started",
                started,
                bare.started,
                Target(at_most=6.0),
                Target(at_most=30.0),
                note,
            )


def _report(bench: Bench, name: str, found: Latency, bare: Latency, p50: Target, p99: Target | None, note: str) -> None:
    bench.report(Figure(f"{name}, p50", found.p50, "ms", bare.p50, "bare prototype", p50, f"{found.text()}; {note}"))
    bench.report(Figure(f"{name}, p99", found.p99, "ms", bare.p99, "bare prototype", p99))


async def _paced(system: stack.Stack, first: int, count: int) -> tuple[Latency, Latency]:
    sent: dict[str, int] = {}
    assigned: dict[str, int] = {}
    sent_at: dict[int, int] = {}

    def seen(_event: str, job_id: str, at: int) -> None:
        assigned.setdefault(job_id, at)

    system.on_event = seen
    before = system.completed
    pending = set()

    async def submit(number: int) -> None:
        sent_at[number] = time.monotonic_ns()
        (job_id,) = await system.submit(range(number, number + 1))
        sent[job_id] = sent_at[number]

    began = time.monotonic()
    for index in range(count):
        wait = began + index / RATE - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(submit(first + index))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    await system.all_completed(before + count)
    slots = system.ledger.slots(first, count)
    started = [at - sent_at[first + index] for index, (_, at, _) in enumerate(slots)]
    return Latency.of_ns([assigned[job_id] - at for job_id, at in sent.items()]), Latency.of_ns(started)


SCENARIO = Scenario("submit_to_start", "latency over HTTP at 100 jobs/s, whole system", run)
