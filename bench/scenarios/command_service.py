"""The command service in one process: validation, load, decide, seal, append; content written where a command has some.

``assign``, ``claim`` and ``complete`` append one event each (claim also reads the job's input). ``submit`` is two stores: the encrypted
input, then the event. Baseline: raw guarded publishes at the same number in flight, in the same round.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from aura.cli.compose import CommandSide
from aura.commands.handler import Caller
from bench import parts, raw, servers
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.raw import Pipeline
from bench.samples import Latency, median

#: One command at a time, and many.
IN_FLIGHT = 128
_STEPS = ("submit", "assign", "claim", "complete")
_WORKER = Caller("worker:bench", "bench", "bench")


async def run(bench: Bench) -> None:
    """See the module docstring."""
    with bench.scratch("commands") as folder:
        async with servers.nats(folder) as nats, parts.log(nats.url) as connection:
            client = await raw.connect(nats.url)
            side = parts.commands(connection, folder)
            await _alone(bench, side, bench.pick(600, 200))
            await _together(bench, side, Pipeline(client), bench.pick(3_000, 1_000), bench.pick(5, 2))
            client.close()


def _params(step: str, job_id: str) -> dict[str, Any]:
    match step:
        case "submit":
            return {
                "project_id": 1,
                "title": "bench",
                "tasks": [{"type": "noop", "role": "Employee", "payload": {"n": 1}}],
            }
        case "assign":
            return {"job_id": job_id, "assigned_model": "employee_ollama"}
        case "claim":
            return {"job_id": job_id, "worker_id": "bench", "lease_ttl_s": 60}
        case _:
            return {"job_id": job_id, "attempt": 1, "success": True, "output_count": 0}


async def _call(side: CommandSide, step: str, job_id: str) -> dict[str, Any]:
    caller = parts.CALLER if step in ("submit", "assign") else _WORKER
    return await side.service.call(step, _params(step, job_id), caller)


async def _alone(bench: Bench, side: CommandSide, count: int) -> None:
    taken: dict[str, list[int]] = {step: [] for step in _STEPS}
    for number in range(count + 50):
        job_id = ""
        for step in _STEPS:
            began = time.perf_counter_ns()
            answer = await _call(side, step, job_id)
            if number >= 50:
                taken[step].append(time.perf_counter_ns() - began)
            job_id = job_id or answer["job_ids"][0]
    every = Latency.of_ns([one for step in _STEPS[1:] for one in taken[step]])
    bench.report(Figure("one command at a time, p50", every.p50, "ms", target=Target(at_most=1.5), note=every.text()))
    for step in _STEPS:
        latency = Latency.of_ns(taken[step])
        bench.report(Figure(f"  {step} alone, p50", latency.p50, "ms", note=latency.text()))


async def _together(bench: Bench, side: CommandSide, pipeline: Pipeline, count: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {step: [] for step in (*_STEPS, "raw", "all")}
    for number in range(rounds + 1):
        builders = [
            raw.guarded("append." + one.subject, one.guard or "", 0, one.event_id, one.body)
            for one in parts.created(count)
        ]
        found = {"raw": (await pipeline.run(builders, IN_FLIGHT)).rate}
        jobs: list[str] = []

        async def submit(kept: list[str] = jobs) -> None:
            kept.append((await _call(side, "submit", ""))["job_ids"][0])

        found["submit"] = await _rate([submit] * count)
        seconds = 0.0
        for step in _STEPS[1:]:
            found[step] = await _rate([_step(side, step, job_id) for job_id in jobs])
            seconds += count / found[step]
        found["all"] = 3 * count / seconds
        if number:
            for name, rate in found.items():
                rates[name].append(rate)
    base = median(rates["raw"])
    bench.report(
        Figure(
            f"commands, {IN_FLIGHT} in flight (assign, claim, complete)",
            median(rates["all"]),
            "cmd/s",
            base,
            "raw guarded publish",
            Target(ratio_at_least=0.6),
            samples=rates["all"],
        )
    )
    for step in _STEPS:
        name = f"  {step}, {IN_FLIGHT} in flight"
        bench.report(Figure(name, median(rates[step]), "cmd/s", base, "raw guarded publish", samples=rates[step]))


def _step(side: CommandSide, step: str, job_id: str) -> Callable[[], Awaitable[object]]:
    return lambda: _call(side, step, job_id)


async def _rate(work: list[Callable[[], Awaitable[object]]]) -> float:
    began = time.perf_counter()
    await parts.lanes(work, IN_FLIGHT)
    return len(work) / (time.perf_counter() - began)


SCENARIO = Scenario("command_service", "load, decide, append in one process", run)
