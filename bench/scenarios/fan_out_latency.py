"""Append acknowledged → frame read by the client, through a real nats-server and a real ``aura gateway`` process.

One process publishes to the log's append space at a steady rate (open loop), the load client reads with 100 connections on
``/ws/events``; both share a clock, and a file in which the publisher writes when each event was acknowledged. The gateway is pinned to
one core and the clients to the next; nats-server and the publisher take what is left of all of them. What is due while four writes
are under way is appended as one atomic batch, as Aura's own group commit does. A frame that is read before its acknowledgement counts
as 0. Baseline: what an append takes until it is acknowledged; when that is long, events come in large batches, which are read late.
"""

from __future__ import annotations

import asyncio
import contextlib

from aura.runtime.ports import choose
from bench import parts, raw, servers
from bench.bench import Bench, Scenario
from bench.fanout import tools
from bench.fanout.paced import Paced
from bench.fanout.tools import Load, Server
from bench.figures import Figure, Target
from bench.samples import Latency

CLIENTS = 100


async def run(bench: Bench) -> None:
    """See the module docstring."""
    if not tools.ready(bench.folder):
        return
    with bench.scratch("latency") as folder:
        async with servers.nats(folder) as nats, servers.postgres(folder) as postgres, parts.log(nats.url):
            env = parts.environment(nats.url, postgres.url) | {
                "AURA_PORT": str(choose(1, [])[0]),
                "AURA_LOG_LEVEL": "warning",
            }
            async with parts.component("gateway", folder, env) as process:
                port = int(env["AURA_PORT"])
                await servers.wait_for_port(port)
                tools.pin(process.pid, tools.cores()[0])
                gateway = Server(port, process.pid)
                await _figures(bench, gateway, nats.url)


async def _figures(bench: Bench, gateway: Server, nats_url: str) -> None:
    steady, acked = await _measure(bench, gateway, nats_url, 1_000)
    _report(bench, f"1,000 events/s × {CLIENTS} clients", steady, acked, Target(at_most=2.0), Target(at_most=8.0))
    stalled, _ = await _measure(bench, gateway, nats_url, 1_000, stalled=1)
    bench.report(
        Figure(
            "  the same beside a client that never reads, p99",
            stalled.p99_ms,
            "ms",
            steady.p99_ms,
            "without it",
            Target(ratio_at_most=1.5),
        )
    )
    fast, acked = await _measure(bench, gateway, nats_url, 8_000)
    _report(bench, f"8,000 events/s × {CLIENTS} clients", fast, acked, None, Target(at_most=20.0))


async def _measure(
    bench: Bench, gateway: Server, nats_url: str, rate: int, *, stalled: int = 0
) -> tuple[Load, Latency]:
    acks = bench.folder / "fanout-acks"
    client = await raw.connect(nats_url)
    paced = Paced(client, acks, rate, tools.SIZE)
    publishing = asyncio.create_task(paced.run())
    try:
        found = await tools.load(
            bench.folder,
            gateway,
            clients=CLIENTS + stalled,
            stalled=stalled or None,
            path="/ws/events",
            acks=acks,
            warm=1.0,
            window=bench.pick(10, 3),
            settle=0.5,
            limit=60,
        )
        if publishing.done():
            publishing.result()
    finally:
        publishing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await publishing
        client.close()
    took = found.events / CLIENTS / found.seconds
    if took < 0.95 * rate:
        raise RuntimeError(f"{took:,.0f} events/s arrived of {rate:,}: not sustained")
    return found, Latency.of_ns(paced.took_ns)


def _report(bench: Bench, name: str, found: Load, acked: Latency, p50: Target | None, p99: Target) -> None:
    note = (
        f"p50 {found.p50_ms:.2f}  p90 {found.p90_ms:.2f}  p99 {found.p99_ms:.2f}  p99.9 {found.p999_ms:.2f}  max {found.max_ms:.1f} ms "
        f"(n = {found.samples:,}); gateway {found.busy}, {1e6 * found.cpu_s / found.events:.2f} µs of "
        "processor time per delivery"
    )
    bench.report(Figure(f"{name}, p50", found.p50_ms, "ms", acked.p50, "sent → acknowledged", p50, note))
    bench.report(Figure(f"{name}, p99", found.p99_ms, "ms", acked.p99, "sent → acknowledged", p99))


SCENARIO = Scenario("fan_out_latency", "append acknowledged → frame read, 100 clients", run)
