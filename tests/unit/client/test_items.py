"""What an event says of its job, and how a problem becomes an error."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from aura import errors
from aura.client import Chunk, Event, LogLine, Progress
from aura.client.items import record_of
from aura.commands.wire import problem
from aura.problems import error_of


def event(kind: str, **more: Any) -> Event:
    return Event(1, kind, "", {"type": kind, **more})


@pytest.mark.parametrize("status", ["COMPLETED", "SUBMITTED", "FAILED", "CANCELLED"])
def test_an_event_closes_its_job_when_it_leaves_it_closed(status: str) -> None:
    assert event("job.failed", state={"status": status}).closes == status


def test_other_events_do_not() -> None:
    assert event("job.failed", state={"status": "QUEUED"}).closes is None
    assert event("job.failed").closes is None
    assert event("job.failed", state="?").closes is None
    assert event("session.completed", state={"status": "COMPLETED"}).closes is None


def test_records_are_what_their_kind_says() -> None:
    head = {"attempt": 2, "i": 3}
    assert isinstance(record_of({"type": "job.stream", **head, "chunk": "x", "final": True}), Chunk)
    assert isinstance(record_of({"type": "job.log", **head, "level": "INFO", "line": "x"}), LogLine)
    progress = record_of({"type": "job.progress", **head, "percent": 40, "step": None})
    assert isinstance(progress, Progress)
    assert (progress.attempt, progress.i, progress.percent, progress.step) == (2, 3, 40.0, "")
    assert record_of({"type": "job.telepathy", **head}) is None


def test_errors_carry_their_data_over_the_wire() -> None:
    fenced = errors.Fenced("too late", status="QUEUED", attempt=1, current=2)
    there = error_of(*problem(fenced))
    assert isinstance(there, errors.Fenced)
    assert (there.detail, there.status, there.attempt, there.current) == ("too late", "QUEUED", 1, 2)
    limit = error_of(*problem(errors.TooLarge("big", limit=7)))
    assert isinstance(limit, errors.TooLarge)
    assert limit.limit == 7
    busy = error_of(*problem(errors.Overloaded("full", retry_after_s=9)))
    assert isinstance(busy, errors.Overloaded)
    assert busy.retry_after_s == 9


def test_a_trace_id_stands_under_the_traceback() -> None:
    error = error_of(409, orjson.dumps({"code": "conflict", "detail": "no", "trace_id": "abc"}))
    assert error.__notes__ == ["trace id abc"]
