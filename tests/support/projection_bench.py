"""How fast the projector is, without HTTP: ``python -m tests.support.projection_bench CONNINFO [--jobs N] [--rate R]``.

Two numbers, each with a baseline of the same run: events per second when catching up with every projection in one pass (against
decoding alone), and publish → committed row at a steady rate (against an empty transaction). Needs an empty database whose
user may create schemas; the log is in memory (``MemoryEventStore``'s follow is immediate), so that only the projector and
Postgres are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import psycopg

from aura.clock import SystemClock
from aura.log.store import LogIdentity, Recorded
from aura.projections.decoding import decode
from aura.projections.service import ProjectorService
from tests.support.synthetic_log import events


class GrowingLog:
    """A log that is given its events by :meth:`publish`."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self._arrived = asyncio.Event()

    def publish(self, recorded: Sequence[Recorded]) -> None:
        self.events += recorded
        self._arrived.set()

    async def identity(self) -> LogIdentity:
        return LogIdentity("bench", 1 if self.events else 0, len(self.events))

    async def get(self, seq: int) -> Recorded | None:
        return self.events[seq - 1] if 0 < seq <= len(self.events) else None

    async def read(
        self, from_seq: int = 1, *, to_seq: int | None = None, subject: str | None = None, batch: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        end = len(self.events) if to_seq is None else to_seq
        for start in range(from_seq - 1, end, batch):
            yield self.events[start : min(start + batch, end)]

    async def follow(self, from_seq: int) -> AsyncIterator[list[Recorded]]:
        position = from_seq - 1
        while True:
            if position < len(self.events):
                batch = self.events[position : position + 1_000]
                position += len(batch)
                yield batch
                await asyncio.sleep(0)
            else:
                self._arrived.clear()
                await self._arrived.wait()


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def catch_up(conninfo: str, recorded: list[Recorded]) -> None:
    log = GrowingLog()
    log.publish(recorded)
    began = time.perf_counter()
    for one in recorded[:20_000]:
        decode(one)
    alone = min(len(recorded), 20_000) / (time.perf_counter() - began)
    service = ProjectorService(log, conninfo, clock=SystemClock())
    began = time.perf_counter()
    await service.start()
    await service.log.reached(len(recorded))
    rate = len(recorded) / (time.perf_counter() - began)
    await service.stop()
    print(
        f"catching up: {rate:,.0f} events/s, all projections; decoding alone {alone:,.0f}/s; ratio {rate / alone:.2f}"
    )


async def live(conninfo: str, recorded: list[Recorded], done: int, rate: float) -> None:
    """``recorded`` continues after ``done`` events that are projected already."""
    log = GrowingLog()
    log.publish(recorded[:done])
    service = ProjectorService(log, conninfo, clock=SystemClock())
    await service.start()
    await service.log.reached(done)
    pause = 1 / rate
    sent: dict[int, float] = {}
    took: list[float] = []

    async def watch() -> None:
        seen = done
        while seen < len(recorded):
            await service.log.reached(seen + 1)
            now = time.perf_counter()
            reached = service.log.seq
            took.extend(now - sent[seq] for seq in range(seen + 1, reached + 1))
            seen = reached

    watching = asyncio.create_task(watch())
    due = time.perf_counter()
    for one in recorded[done:]:
        due += pause
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        sent[one.seq] = time.perf_counter()
        log.publish([one])
    await watching
    await service.stop()
    empty: list[float] = []
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        for _ in range(300):
            began = time.perf_counter()
            async with connection.transaction():
                await connection.execute("SELECT pg_current_xact_id()")
            empty.append(time.perf_counter() - began)
    print(
        f"live at {rate:,.0f}/s: publish → committed p50 {percentile(took, 0.5) * 1e3:.2f} ms, p99 {percentile(took, 0.99) * 1e3:.2f} ms;"
        f" an empty transaction p50 {percentile(empty, 0.5) * 1e3:.2f} ms, p99 {percentile(empty, 0.99) * 1e3:.2f} ms"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("conninfo")
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=1_000.0)
    parser.add_argument("--live", type=int, default=10_000, help="events of the live part")
    given = parser.parse_args()
    recorded = list(events(given.jobs + given.live // 4 + 100))
    done = 4 * given.jobs - 2_000
    await catch_up(given.conninfo, recorded[:done])
    await live(given.conninfo, recorded[: done + given.live], done, given.rate)


if __name__ == "__main__":
    asyncio.run(main())
