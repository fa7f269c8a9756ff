"""``python -m bench.fanout.relay``: the real gateway (uvicorn, hub, sockets) fed inside its process, so that no other server shares
its core.

Prints its port; when ``--clients`` are connected it feeds ``--burst`` events per turn of the event loop: as fast as clients take them,
or ``--rate`` events a second. As fast as they take them: a turn waits while somebody has :data:`BEHIND` bytes unsent; a sixteenth of
the clients is asked each time, because asking is our cost and not the gateway's. ``--history`` events are in the log before. SIGUSR1
makes it print how often its log was read.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
import uvloop

from aura.cli.services import GC_THRESHOLDS
from aura.clock import SystemClock
from aura.config import Settings
from aura.errors import AuraError
from aura.gateway.context import GatewayContext
from aura.gateway.limits import Limits
from aura.gateway.live.fanout.fan import Fans
from aura.gateway.live.fanout.hub import Hub
from aura.gateway.metrics import Metrics
from aura.gateway.server import GatewayService
from aura.ids import SystemIds
from aura.log.store import Recorded
from bench.fanout.stand_ins import ListLog, NoCommands, NoOutput
from bench.fanout.tools import SIZE, raise_file_limit

BEHIND = 64 * 1024
OnBatch = Callable[[list[Recorded]], None]


def job_id(number: int) -> str:
    """Of the n-th job."""
    return f"00000000-0000-7000-8000-{number:012x}"


@dataclass(frozen=True, slots=True)
class Feed:
    """How events come."""

    clients: int
    burst: int
    rate: float
    jobs: int
    size: int

    def event(self, seq: int) -> Recorded:
        """A frame of ``size`` bytes of JSON."""
        job = job_id(seq % self.jobs)
        text = f'{{"type":"job.progress","t":{time.monotonic_ns()},"job_id":"{job}","pad":"'
        pad = "x" * (self.size - len(f'{{"seq":{seq},') - len(text) - 1)
        return Recorded(seq, f"aura.job.1.{job}.progress", time.time_ns(), f'{text}{pad}"}}'.encode())


class Feeder:
    """The gateway's tail."""

    def __init__(self, feed: Feed, log: ListLog, from_seq: int, on_batch: OnBatch) -> None:
        self._feed, self._log, self._from, self._on_batch = feed, log, from_seq, on_batch
        self._task: asyncio.Task[None] | None = None
        self.connected: Callable[[], int] = lambda: 0
        self.unsent: Callable[[], list[Callable[[], int]]] = list

    async def start(self) -> None:
        if before := self._log.events[self._from - 1 :]:
            self._on_batch(before)
        self._task = asyncio.create_task(self._run())

    def age_s(self) -> float:
        """It has all there is."""
        return 0.0

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        feed, events = self._feed, self._log.events
        if not feed.burst:
            return
        while self.connected() < feed.clients:  # noqa: ASYNC110 - the hub has no event for it, nor should it
            await asyncio.sleep(0.02)
        seq, due = len(events), time.monotonic()
        unsent = self.unsent()
        for turn in itertools.count():
            batch = [feed.event(seq + number) for number in range(1, feed.burst + 1)]
            seq += feed.burst
            if feed.rate:  # only then: a flood's memory must not grow
                events += batch
            self._on_batch(batch)
            due += feed.burst / feed.rate if feed.rate else 0.0
            await asyncio.sleep(max(0.0, due - time.monotonic()) if feed.rate else 0)
            asked = unsent[turn % 16 :: 16] if not feed.rate else ()
            while any(one() > BEHIND for one in asked):  # noqa: ASYNC110 - nor a transport
                await asyncio.sleep(0.0002)


def gateway(feed: Feed, history: int, limits: Limits) -> tuple[GatewayService, ListLog]:
    """The service over a list."""
    clock, metrics = SystemClock(), Metrics()
    log = ListLog([feed.event(seq) for seq in range(1, history + 1)])
    hub = Hub(clock, limits, metrics, Fans(Settings().io_uring))
    nothing: Any = None
    ctx = GatewayContext(
        settings=Settings(host="127.0.0.1", port=0),
        clock=clock,
        ids=SystemIds(),
        commands=cast(Any, NoCommands()),
        store=log,
        content=nothing,
        output=cast(Any, NoOutput()),
        queries=nothing,
        next_job=nothing,
        explain=nothing,
        hub=hub,
        metrics=metrics,
        limits=limits,
    )

    def tail(from_seq: int, on_batch: OnBatch, _on_end: Callable[[AuraError], None]) -> Feeder:
        feeder = Feeder(feed, log, from_seq, on_batch)
        feeder.connected = lambda: hub.connections
        feeder.unsent = lambda: _unsent(service)
        return feeder

    service = GatewayService(ctx, tail)
    return service, log


def _unsent(service: Any) -> list[Callable[[], int]]:
    """How to ask all that are connected now for what they have unsent; uvicorn knows them."""
    return [one.transport.get_write_buffer_size for one in service._server.server_state.connections]


async def run(feed: Feed, history: int, limits: Limits) -> None:
    """Serve until SIGTERM."""
    service, log = gateway(feed, history, limits)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: print(log.reads, flush=True))
    await service.start()
    gc.set_threshold(*GC_THRESHOLDS)  # as `aura gateway` does
    gc.freeze()
    print(service.port, flush=True)
    await over.wait()


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--burst", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--history", type=int, default=0)
    parser.add_argument("--ring", type=int, default=Limits().ring_frames)
    args = parser.parse_args()
    raise_file_limit()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    feed = Feed(args.clients, args.burst, args.rate, args.jobs, args.size)
    uvloop.run(run(feed, args.history, Limits(ring_frames=args.ring)))


if __name__ == "__main__":
    main()
