"""The same events to all clients: the hub, uvicorn and the sockets of the real gateway, fed inside its process.

Measured per second of the server's processor time (see ``bench.fanout.tools``), server and client on cores of their own. Baselines,
in turn with it: a plain C server that writes the same bytes and does nothing else, the naive hub (lock, text per client, gather), and
nats-server's own WebSocket listener with a publisher beside it. The load client looks every half millisecond, so that nobody pays for
waking it with every write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bench.bench import Bench, Scenario, interleaved
from bench.fanout import nats_ws, tools
from bench.fanout.tools import Load, Server
from bench.figures import Figure, Target

_PAUSE_US = 500


async def run(bench: Bench) -> None:
    """See the module docstring."""
    if not tools.ready(bench.folder):
        return
    await _compare(bench, 1_000, 1, {"plain C server": 0.8, "naive hub": 5.0})
    await _compare(bench, 1_000, 64, {"plain C server": 0.6, "nats-server's WebSocket": 5.0})
    await _compare(bench, 4_000, 1, {"plain C server": 0.8})


async def _compare(bench: Bench, clients: int, burst: int, baselines: dict[str, float]) -> None:
    folder, seconds = bench.folder, bench.pick(3, 2)
    found: dict[str, list[Load]] = {name: [] for name in ("gateway", *baselines)}

    def part(name: str) -> Callable[[], Awaitable[float]]:
        async def once() -> float:
            async with _server(folder, name, clients, burst) as (server, options):
                result = await tools.load(
                    folder, server, clients=clients, window=seconds, warm=0.7, pause=_PAUSE_US, limit=90, **options
                )
            found[name].append(result)
            return result.per_cpu_s

        return once

    rounds = await interleaved(bench.pick(3, 1), *(part(name) for name in found), warm_up=False)
    values = dict(zip(found, rounds, strict=True))
    what = "one event per write" if burst == 1 else f"bursts of {burst}"
    for name, ratio in baselines.items():
        note = f"gateway {found['gateway'][-1].text()}; {name} {found[name][-1].text()}"
        bench.report(
            Figure(
                f"{clients:,} clients, {what}",
                values["gateway"][0],
                "deliveries/cpu-s",
                values[name][0],
                name,
                Target(ratio_at_least=ratio),
                note,
                values["gateway"][1],
            )
        )


@asynccontextmanager
async def _server(folder: Path, name: str, clients: int, burst: int) -> AsyncIterator[tuple[Server, dict[str, object]]]:
    """The server of that name and what the load client must know."""
    if name == "gateway":
        program = tools.module("relay", clients=clients, burst=burst)
        async with tools.server(folder, *program) as server:
            yield server, {"path": "/ws/events"}
    elif name == "naive hub":
        async with tools.server(folder, *tools.module("naive", clients=clients)) as server:
            yield server, {"path": "/ws"}
    elif name == "plain C server":
        async with tools.server(folder, folder / "serve", str(clients), str(burst), str(tools.SIZE)) as server:
            yield server, {}
    else:
        async with nats_ws.running(folder, clients, burst) as server:
            yield server, {"nats": nats_ws.SUBJECT, "count": True}


SCENARIO = Scenario("fan_out", "the same events to 1,000 and 4,000 WebSocket clients", run)
