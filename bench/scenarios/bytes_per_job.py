"""What a closed job costs nats-server for ever: resident memory and disk, for four events and one encrypted input.

Filled through atomic batches with the sizes of real messages, then measured after the server has been idle, and again after a restart
(what it needs, without what the filling left behind). Ids of messages are kept for two minutes only, so they are waited out by the restart.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import parts, raw, servers
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.processes import memory
from tests.support.synthetic_log import events

_INPUT = b"i" * 80
#: After this long without a read the server has dropped its caches of blocks and of their subjects.
_EXPIRED_S = 140.0


async def run(bench: Bench) -> None:
    """See the module docstring."""
    jobs = bench.pick(200_000, 50_000)
    with bench.scratch("bytes") as folder:
        async with servers.nats(folder, profiled=True) as nats, parts.log(nats.url):
            await asyncio.sleep(1)
            empty, empty_heap = memory(nats.pid).rss, await nats.live_heap()
            client = await raw.connect(nats.url)
            await parts.fill(client, _events(jobs))
            await parts.fill(client, _inputs(jobs))
            client.close()
            full = memory(nats.pid).rss
            await asyncio.sleep(_EXPIRED_S)
            heap = await nats.live_heap()
            disk = _disk(nats.store)
        async with servers.nats(folder) as nats, parts.log(nats.url):
            await asyncio.sleep(10)
            restarted = memory(nats.pid).rss
    mib = 1024 * 1024 / jobs
    target = Target(at_most=1_200)
    note = f"{jobs:,} jobs; Go's live heap, caches expired"
    bench.report(Figure("live heap per closed job", (heap - empty_heap) / jobs, "B", target=target, note=note))
    note = f"{empty:.0f} → {restarted:.0f} MiB resident (right after filling: {full:.0f} MiB, most of it garbage and caches)"
    grown = (restarted - empty) * mib
    bench.report(Figure("resident bytes per closed job, after a restart", grown, "B", target=target, note=note))
    bench.report(Figure("bytes on disk per closed job", disk / jobs, "B"))


def _events(jobs: int) -> Iterator[tuple[str, bytes]]:
    for recorded in events(jobs):
        yield "append." + recorded.subject, recorded.body


def _inputs(jobs: int) -> Iterator[tuple[str, bytes]]:
    for recorded in events(jobs):
        if recorded.subject.endswith(".created"):
            tokens = recorded.subject.split(".")
            yield f"content.aura.{tokens[2]}.{tokens[3]}.input", _INPUT


def _disk(folder: Path) -> int:
    said = subprocess.run(["du", "-sB1", str(folder)], capture_output=True, text=True, check=True).stdout
    return int(said.split()[0])


SCENARIO = Scenario("bytes_per_job", "what a closed job costs nats-server", run)
