"""Five thousand clients connect at once with a cursor 1,000 events back: how long until the last one is live, and how often the log is
read for it.

The clock runs from the first connection, so handshakes are in it. A client is live when it has read an event that was stored after
everybody was back; the load client checks that nothing is missing or twice in between. Once with a ring that reaches back far enough
(the default does), once with one that does not, so that all of them need the log.
"""

from __future__ import annotations

import os
import signal

from bench.bench import Bench, Scenario
from bench.fanout import tools
from bench.figures import Figure, Target

CLIENTS, HISTORY, BACK = 5_000, 4_000, 1_000
_SMALL_RING = 128
#: Constant, whatever the number of clients.
_READS = 10.0


async def run(bench: Bench) -> None:
    """See the module docstring."""
    if not tools.ready(bench.folder):
        return
    clients = bench.pick(CLIENTS, 1_000)
    await _storm(bench, clients, "from the ring", None)
    await _storm(bench, clients, "from the log", _SMALL_RING)


async def _storm(bench: Bench, clients: int, what: str, ring: int | None) -> None:
    program = tools.module("relay", clients=clients, burst=1, rate=20, history=HISTORY, ring=ring)
    async with tools.server(bench.folder, *program) as server:
        since = HISTORY - BACK
        found = await tools.load(
            bench.folder,
            server,
            clients=clients,
            path=f"/ws/events?since={since}",
            connecting=512,
            until=HISTORY + 1,
            limit=90,
            **{"from": since},
        )
        assert server.process is not None
        os.kill(server.pid, signal.SIGUSR1)
        reads = int(await server.process.line())
    if found.reached < clients:
        raise RuntimeError(f"{found.reached} of {clients} clients became live")
    note = f"all {clients:,} connected after {found.open_s:.1f} s; no event missing, twice or out of order"
    bench.report(Figure(f"all live, {what}", found.reached_s, "s", target=Target(at_most=5.0), note=note))
    bench.report(Figure(f"  reads of the log, {what}", float(reads), "reads", target=Target(at_most=_READS)))


SCENARIO = Scenario("resume", "5,000 clients come back 1,000 events behind", run)
