"""Every client follows a job of its own: what an event costs must depend on who wants it, not on who is there.

Events of all jobs in turn, 16 per turn of the loop, each wanted by exactly one client; the baseline is the same with 16 clients. Both
ways to follow a job: a subject on ``/ws/events``, and ``/ws/job/{id}``.
"""

from __future__ import annotations

from bench.bench import Bench, Scenario, interleaved
from bench.fanout import tools
from bench.fanout.relay import job_id
from bench.figures import Figure, Target

CLIENTS, FEW, BURST = 1_000, 16, 16
#: The issue says O(matching): sixty times the clients may cost the event a quarter more (caches are finite).
_TARGET = Target(ratio_at_least=0.8)


async def run(bench: Bench) -> None:
    """See the module docstring."""
    if not tools.ready(bench.folder):
        return
    for name, path in (
        ("a subject each on /ws/events", "/ws/events?subject=aura.job.1.{}.>"),
        ("/ws/job/{id}", "/ws/job/{}"),
    ):

        async def many(path: str = path) -> float:
            return await _rate(bench, CLIENTS, path)

        async def few(path: str = path) -> float:
            return await _rate(bench, FEW, path)

        (rate, samples), (base, _) = await interleaved(bench.pick(3, 1), many, few, warm_up=False)
        note = f"{1e6 / rate:.1f} µs of processor time per event, {1e6 / base:.1f} with {FEW} clients"
        what = f"{CLIENTS:,} clients, {name}"
        bench.report(Figure(what, rate, "events/cpu-s", base, f"{FEW} clients", _TARGET, note, samples))


async def _rate(bench: Bench, clients: int, path: str) -> float:
    paths = bench.folder / "fanout-paths"
    paths.write_text("".join(path.format(job_id(number)) + "\n" for number in range(clients)), "ascii")
    program = tools.module("relay", clients=clients, burst=BURST, jobs=clients)
    async with tools.server(bench.folder, *program) as server:
        result = await tools.load(
            bench.folder, server, clients=clients, paths=paths, sparse=True, window=2, warm=0.7, pause=500, limit=60
        )
    return result.per_cpu_s


SCENARIO = Scenario("fan_out_jobs", "1,000 clients, each its own job", run)
