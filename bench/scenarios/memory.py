"""What an idle ``aura up`` holds in memory, process by process, and what it burns while nothing happens.

PSS counts a page that n processes share as 1/n in each: its sum is what the machine has less. RSS counts shared pages (Python's
libraries, Postgres' buffers) once per process, so its sum overstates. Measured twenty seconds after the start, after a few requests.
"""

from __future__ import annotations

import asyncio

from bench import servers
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.http import Http
from bench.processes import CpuMeter, Memory, memory

_SETTLE_S = 20.0


async def run(bench: Bench) -> None:
    """See the module docstring."""
    with bench.scratch("memory") as folder:
        async with servers.aura_up(folder) as up:
            http = Http(up.url)
            for path in ("/jobs", "/models/health", "/projections", "/stats"):
                await http.get(path)
            meter = CpuMeter(up.pids)
            await asyncio.sleep(_SETTLE_S)
            idle = meter.text(int(_SETTLE_S))
            used = {name: memory(pid) for name, pid in up.pids.items() if name != "supervisor"}
            everything = memory(up.pids["supervisor"])
            own = sum(one.pss for one in used.values()), sum(one.rss for one in used.values())
            used["supervisor"] = Memory(everything.pss - own[0], everything.rss - own[1])
            http.close()
    note = f"idle: {idle.replace('each', 'per second')}"
    bench.report(Figure("idle, sum of PSS", everything.pss, "MiB", target=Target(at_most=350.0), note=note))
    bench.report(Figure("idle, sum of RSS", everything.rss, "MiB"))
    for name, one in sorted(used.items(), key=lambda item: -item[1].pss):
        bench.report(Figure(f"  {name}, PSS", one.pss, "MiB", note=f"RSS {one.rss:.0f} MiB"))


SCENARIO = Scenario("memory", "idle memory of the whole stack", run)
