"""``aura up``: from the shell's ``exec`` to ``GET /ready`` = 200, from nothing and again on the same folder."""

from __future__ import annotations

from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.processes import cpu_s
from bench.samples import median
from bench.servers import AuraUp


async def run(bench: Bench) -> None:
    """See the module docstring."""
    cold: list[float] = []
    warm: list[float] = []
    spent: dict[str, float] = {}
    for _ in range(bench.pick(3, 2)):
        with bench.scratch("start") as folder:
            for kept in (cold, warm, warm):
                up = AuraUp(folder / "data")
                await up.start()
                kept.append(up.started_s)
                spent = {name: cpu_s(pid) for name, pid in up.pids.items()}
                await up.stop()
    own = spent["supervisor"] - sum(used for name, used in spent.items() if name != "supervisor")
    parts = " + ".join(f"{name} {used:.2f}" for name, used in (spent | {"supervisor": own}).items())
    note = f"a warm start takes {spent['supervisor']:.2f} s of processor time: {parts}"
    bench.report(Figure("cold start → ready", median(cold), "s", target=Target(at_most=6.0), samples=cold))
    bench.report(Figure("warm start → ready", median(warm), "s", target=Target(at_most=2.0), note=note, samples=warm))


SCENARIO = Scenario("start", "cold and warm start of aura up", run)
