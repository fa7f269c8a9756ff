"""Replay: exact bytes, any window, any speed, no real waiting in the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from aura.audit.replay import line, replay
from aura.clock import ManualClock
from aura.errors import InvalidRequest
from aura.log.store import Recorded
from tests.support.job_log import JobLog


async def made() -> JobLog:
    log = JobLog()
    for job_id in await log.prd(3):
        await log.finish(job_id)
    return log


async def test_lines_are_the_stored_bytes_with_seq_in_front() -> None:
    log = await made()
    stored = await log.all()
    lines = [one async for one in replay(log.store, clock=ManualClock())]
    assert len(lines) == len(stored)
    for text, recorded in zip(lines, stored, strict=True):
        assert text == b'{"seq":%d,' % recorded.seq + recorded.body[1:] + b"\n"
        assert orjson.loads(text)["seq"] == recorded.seq


async def test_a_window_by_sequence_and_subject() -> None:
    log = await made()
    window = replay(log.store, clock=ManualClock(), from_seq=4, to_seq=9, subject="aura.job.*.*.claimed")
    lines = [orjson.loads(one) async for one in window]
    assert [one["type"] for one in lines] == ["job.claimed"] * len(lines)
    assert all(4 <= one["seq"] <= 9 for one in lines)
    assert lines


async def test_a_window_by_time_includes_both_ends() -> None:
    log = await made()
    stored = await log.all()
    at = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one.stored_at_ns // 1000) for one in stored]
    lines = [
        orjson.loads(one)["seq"] async for one in replay(log.store, clock=ManualClock(), from_time=at[2], to_time=at[5])
    ]
    assert lines == [3, 4, 5, 6]
    late = replay(log.store, clock=ManualClock(), from_time=at[-1] + timedelta(seconds=1))
    assert [one async for one in late] == []


async def test_speed_divides_the_pauses() -> None:
    log = await made()
    stored = await log.all()
    clock = ManualClock()

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    [_ async for _ in replay(log.store, clock=clock, speed=10, sleep=sleep)]
    took = (stored[-1].stored_at_ns - stored[0].stored_at_ns) / 1e9
    assert clock.monotonic_s() == pytest.approx(took / 10)


@pytest.mark.parametrize("speed", [0, -1, float("nan"), float("inf")])
async def test_an_impossible_speed_is_refused(speed: float) -> None:
    log = JobLog()
    with pytest.raises(InvalidRequest):
        [_ async for _ in replay(log.store, clock=ManualClock(), speed=speed)]


def test_g17_a_body_that_is_no_object_is_told_as_raw() -> None:
    assert orjson.loads(line(Recorded(3, "aura.system.x", 0, b"rubbish"))) == {
        "seq": 3,
        "subject": "aura.system.x",
        "raw": "cnViYmlzaA==",
    }
    assert orjson.loads(line(Recorded(3, "aura.system.x", 0, b"{}"))) == {"seq": 3}
