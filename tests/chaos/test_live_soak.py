"""The soak: a real ``aura up`` with a steady writer, and live clients of every dialect of which some read fast, some slowly, some nothing
at all, and some come and go (G11, G12).

It runs for ``AURA_SOAK_S`` seconds (20 in the suite; ten minutes for a release). At the end every client reads what is left, from its own
cursor or from the one that its 4408 named, and everything that any of them was told is compared with the log and with what the writer
was acknowledged. The gateway's memory is sampled throughout. Latencies with and without those who never read are printed, not asserted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.support.live_clients import Client, StudioClient
from tests.support.live_history import Stored, differences, read_log
from tests.support.soak import SHORT, soaking

pytestmark = pytest.mark.slow
SOAK_S = float(os.environ.get("AURA_SOAK_S", "20"))
DIALECTS = ("ws", "sse", "native")
#: How much more memory the gateway may have at the end than after the warm-up.
SPARE_KB = 48 * 1024


async def _for(seconds: float, tasks: Sequence[asyncio.Future[Any]]) -> None:
    """So long, or until one of the tasks failed, which is raised."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def _studio_wrongs(studio: StudioClient, stored: Stored) -> list[str]:
    """Every event of a job that changes its status, from its first one on."""
    quiet = (".stage_changed", ".reprioritized", ".late_result_rejected")
    seqs = [seq for seq, _ in studio.statuses]
    wanted = [
        seq
        for seq, subject in zip(stored.seqs, stored.subjects, strict=True)
        if subject.startswith("aura.job.") and not subject.endswith(quiet) and seqs[0] <= seq <= seqs[-1]
    ]
    return differences(studio.name, wanted, seqs)


STORY = [
    ("agent_status", "a", 0),
    *[("progress", "a", 1)] * (SHORT // 3),
    ("agent_status", "a", 100),
    ("complete", "a", 100),
]


@pytest.mark.timeout(SOAK_S + 180)
async def test_soak_with_slow_readers_G11_G12(tmp_path: Path) -> None:
    async with soaking(tmp_path, SOAK_S) as soak:
        overlapping = ["aura.job.>", "aura.*.1.>", "aura.system.>", "aura.job.1.*.created"]
        fast: list[Client] = [
            *(soak.log(f"events {dialect}", dialect) for dialect in DIALECTS),
            soak.log("native, overlapping", "native", patterns=overlapping),
            soak.log("filtered", "ws", patterns=["aura.job.1.>"]),
            *(soak.job(f"long job {dialect}", dialect) for dialect in DIALECTS),
        ]
        studios = [soak.studio("ws"), soak.studio("sse")]
        for client in soak.clients:
            await client.connected.wait()
        writing = asyncio.ensure_future(soak.writer.run())
        passing = [
            *(asyncio.ensure_future(soak.visit(dialect)) for dialect in DIALECTS),
            *(asyncio.ensure_future(soak.follow_shorts(dialect)) for dialect in ("ws", "sse")),
            *(asyncio.ensure_future(soak.follow_stories(dialect)) for dialect in ("ws", "sse")),
        ]
        sampling = asyncio.ensure_future(soak.sample())
        everything = [writing, sampling, *passing]
        for dialect in DIALECTS:
            soak.log(f"fickle {dialect}", dialect, pace="fickle")
            soak.job(f"fickle job {dialect}", dialect, pace="fickle")
        slow: list[Client] = [soak.log(f"slow {dialect}", dialect, since=None, pace="slow") for dialect in DIALECTS]
        slow.append(soak.job("slow job", "ws", pace="slow"))
        try:
            without = soak.measure(fast)
            await _for(SOAK_S * 0.3, [*everything, *soak.running])
            never = [soak.log(f"never {n} {dialect}", dialect, pace="never") for dialect in DIALECTS for n in (1, 2)]
            for dialect in DIALECTS:
                soak.job(f"never job {dialect}", dialect, pace="never")
            beside = soak.measure(fast)
            await _for(SOAK_S * 0.7, [*everything, *soak.running])
            soak.measure(fast)
            dropped = await soak.metric('aura_live_dropped_total{reason="too_slow"}')
            connections = await soak.metric("aura_live_connections")
            soak.writer.stopping = True
            await asyncio.gather(writing, *passing)
            await soak.finish()
        finally:
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

        stored = await read_log(soak.writer.store)
        wrongs = [wrong for log in soak.logs for wrong in log.wrongs + log.told.wrongs(stored)]
        wrongs += [f"{log.name} ends at {log.told.last}" for log in soak.logs if log.told.last < soak.until]
        wrongs += [wrong for log in soak.visitors for wrong in log.wrongs + log.told.wrongs(stored)]
        for job in (*soak.jobs, *soak.shorts):
            said = {(job.job_id, 1): soak.writer.said[job.job_id, 1]}
            wrongs += job.wrongs + job.heard.wrongs(said, said)
        wrongs += [wrong for studio in studios for wrong in _studio_wrongs(studio, stored)]
        wrongs += [wrong for story in soak.stories for wrong in differences(story.name, STORY, story.story)]
        soak.tell(len(stored.seqs), without, beside, dropped, connections)
        assert wrongs == []
        assert dropped, "nobody was too slow"
        assert SOAK_S < 120 or all(client.closes.total() for client in never), "those who never read were let go"
        assert any(client.closes[4408] for client in slow), "none of those who read slowly was told where to resume"
        third = len(soak.rss_kb) // 3
        assert median(soak.rss_kb[-third:]) <= median(soak.rss_kb[third : 2 * third]) + SPARE_KB, soak.rss_kb
