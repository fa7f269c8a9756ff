"""The shapes of API.md, as pure functions of rows."""

from __future__ import annotations

import pytest

from aura.projections import shapes

STATUSES = ("queued", "assigned", "in_progress", "submitted", "completed", "failed", "cancelled")


def prd_row(**counts: int) -> dict[str, object]:
    base = dict.fromkeys(STATUSES, 0) | counts
    return {
        "root_job_id": "r",
        "project_id": 1,
        "title": "t",
        "count": sum(base.values()),
        "created_at": "c",
        "first_seq": 1,
        **base,
    }


@pytest.mark.parametrize(
    ("counts", "status", "progress"),
    [
        ({"queued": 2}, "QUEUED", 0.0),
        ({"queued": 1, "completed": 1}, "IN_PROGRESS", 50.0),
        ({"in_progress": 1, "failed": 3}, "IN_PROGRESS", 75.0),
        ({"submitted": 1, "completed": 1}, "SUBMITTED", 50.0),
        ({"completed": 3}, "COMPLETED", 100.0),
        ({"completed": 2, "failed": 1, "cancelled": 1}, "FAILED", 100.0),
        ({"completed": 2, "cancelled": 1}, "CANCELLED", 100.0),
    ],
)
def test_a_prd_is_derived_from_its_jobs(counts: dict[str, int], status: str, progress: float) -> None:
    prd = shapes.prd(prd_row(**counts))
    assert (prd["status"], prd["progress"]) == (status, progress)


def test_the_newest_job_with_a_stage_decides_the_cell() -> None:
    def row(subject: str, stages: list[str], told: dict[str, str], status: str = "QUEUED") -> dict[str, object]:
        return {"subject": subject, "stages": stages, "stage_status": told, "status": status, "task_type": "scan"}

    found = shapes.grid(
        [
            row("a", ["fetch", "parse"], {"fetch": "done", "parse": "failed"}, "FAILED"),
            row("a", ["parse"], {"parse": "running"}, "IN_PROGRESS"),
            row("b", [], {}, "COMPLETED"),
        ]
    )
    assert found["stages"] == ["fetch", "parse", "scan"]
    assert found["subjects"] == [
        {"subject": "a", "stages": {"fetch": "done", "parse": "running"}, "status": "IN_PROGRESS", "jobs": 2},
        {"subject": "b", "stages": {"scan": "done"}, "status": "COMPLETED", "jobs": 1},
    ]


def test_lag_is_told_only_while_behind() -> None:
    def row() -> dict[str, object]:
        return {"name": "jobs", "seq": 10, "age_s": 4.25}

    assert shapes.projection(row(), 10)["lag_s"] == 0.0
    behind = shapes.projection(row(), 14)
    assert (behind["lag_events"], behind["lag_s"]) == (4, 4.25)
    assert shapes.projection(row(), None)["lag_events"] is None


def test_success_rate_counts_ended_jobs_only() -> None:
    counts = [
        {"status": "COMPLETED", "model": "m", "n": 3},
        {"status": "FAILED", "model": "m", "n": 1},
        {"status": "QUEUED", "model": "", "n": 5},
        {"status": "CANCELLED", "model": "m", "n": 9},
    ]
    told = shapes.stats(counts, [], None)
    assert told["models"]["m"]["success_rate"] == 0.75
    assert told["total"] == 18
    assert told["counts"]["SUBMITTED"] == 0
