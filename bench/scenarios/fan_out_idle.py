"""Ten thousand connected clients that get nothing: memory of the gateway's process for each, and how fast they can connect.

Memory is the process's resident size after, less before, divided; the kernel's buffers are not in it. Handshakes are counted per
second of the server's processor time, with 64 under way at once; the rate by the clock stands in the note. Baseline: the naive hub.
"""

from __future__ import annotations

from bench.bench import Bench, Scenario
from bench.fanout import tools
from bench.fanout.tools import Load
from bench.figures import Figure, Target

CLIENTS = 10_000


async def run(bench: Bench) -> None:
    """See the module docstring."""
    if not tools.ready(bench.folder):
        return
    clients = bench.pick(CLIENTS, 4_000)
    room = tools.raise_file_limit() - 200
    if room < clients:
        clients = room
    gateway = await _idle(bench, clients, tools.module("relay", burst=0))
    naive = await _idle(bench, clients, tools.module("naive", clients=clients + 1))
    note = f"{gateway.opened:,} connections; the kernel's socket buffers are not in it"
    size = Figure("memory of an idle client", _kb(gateway), "kB", _kb(naive), "naive hub", Target(at_most=25.0), note)
    bench.report(size)
    bench.report(
        Figure(
            "handshakes",
            gateway.opened / gateway.open_cpu_s,
            "per cpu-s",
            naive.opened / naive.open_cpu_s,
            "naive hub",
            Target(at_least=1_000.0),
            f"{gateway.opened / gateway.open_s:,.0f}/s by the clock (naive hub {naive.opened / naive.open_s:,.0f}/s)",
        )
    )


async def _idle(bench: Bench, clients: int, program: list[str]) -> Load:
    async with tools.server(bench.folder, *program) as server:
        result = await tools.load(bench.folder, server, clients=clients, path="/ws/events", idle=1.5, limit=90)
    if result.opened < clients:
        raise RuntimeError(f"{result.opened} of {clients} clients connected")
    return result


def _kb(found: Load) -> float:
    return float((found.memory_after_kib - found.memory_before_kib) * 1.024 / found.opened)


SCENARIO = Scenario("fan_out_idle", "10,000 idle connections: memory and handshakes", run)
