"""Late and repeated reports: recorded at most once per attempt, never at the cost of ending the job, never twice (G8, G12)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from aura.domain import job_commands as c
from aura.domain.job import MAX_EVENTS, decide, evolve
from aura.errors import Fenced
from aura.events import catalogue as e
from tests.unit.domain.test_job import CLAIMED, COMPLETED, NOW, STATES, created, given


@pytest.mark.parametrize("order", [range(1, 31), range(30, 0, -1), [*range(1, 31, 3), *range(30, 0, -1)]])
def test_g12_an_attempts_late_result_is_recorded_at_most_once_ever(order: Sequence[int]) -> None:
    state = replace(given(created(), CLAIMED, COMPLETED), attempt=31)
    recorded: list[int] = []
    for attempt in [*order, *order, *reversed(order)]:
        try:
            [late] = decide(state, c.CompleteJob(True, 60, attempt), now=NOW)
        except Fenced:
            continue
        recorded.append(attempt)
        state = evolve(state, late)
    assert len(recorded) == len(set(recorded))
    assert {*recorded} >= set(range(23, 31)), "at least the newest are on record"
    assert len(state.late) == 8


def test_g12_late_results_are_not_recorded_out_of_the_reserve() -> None:
    running = given(created(), CLAIMED, e.JobReleased(worker_id="w", attempt=1), CLAIMED)
    full = replace(running, attempt=2, count=MAX_EVENTS * 9 // 10)
    with pytest.raises(Fenced):
        decide(full, c.CompleteJob(True, 60, 1), now=NOW)
    assert decide(full, c.CompleteJob(True, 60, 2), now=NOW)


@pytest.mark.parametrize("attempt", [None, 1])
def test_a_report_that_the_log_holds_already_is_already_so(attempt: int | None) -> None:
    assert decide(STATES["COMPLETED"], c.CompleteJob(True, 60, attempt, repeated=True), now=NOW) == []
    assert decide(STATES["FAILED"], c.FailJob("x", False, 60, 1, attempt, repeated=True), now=NOW) == []
    state = STATES["COMPLETED"]
    assert state is not None
    [late] = decide(replace(state, attempt=2), c.CompleteJob(True, 60, 1, repeated=True), now=NOW)
    assert late.TYPE == "job.late_result_rejected"
