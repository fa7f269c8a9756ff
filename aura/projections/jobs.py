"""The projection ``jobs``: one row per job as it is now, its PRD, and the counts that keep filters and statistics fast.

What ``job.created`` said goes to ``job_facts`` once; everything else is ``job_states``, whose columns come from the carried
state of the job's last event (always) and from single events (times, error, result, stages). ``None`` in a changed row means
"as it was"; ``""``, ``-1``, ``0`` and ``-infinity`` empty a column (``write_changed.sql``).
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import orjson

from aura.domain.job_state import JobStatus
from aura.errors import PoisonEvent
from aura.projections.decoding import LogEvent
from aura.projections.projection import BLOCK_BITS, Projection, Table, Write

_CLOSED = frozenset(status.value for status in JobStatus if status.closed)
_MINUTE_NS = 60_000_000_000
#: What empties columns when the job is open again, and when an attempt begins.
_REOPENED = {"finished_at": "-infinity", "finished_seq": 0}
_NO_RESULT = {"result_bytes": -1, "result_digest": "", "output_count": -1}
_CLOSING = frozenset(
    {"job.completed", "job.submitted", "job.failed", "job.lease_expired", "job.rejected", "job.cancelled"}
)
_REQUEUEING = frozenset(
    {"job.unassigned", "job.failed", "job.lease_expired", "job.released", "job.rejected", "job.retried"}
)


@lru_cache(maxsize=65_536)
def kind_of(status: str, role: str, model: str | None) -> int:
    """A signed 32-bit hash of what filters look up. A collision costs a recheck, never a wrong row."""
    return zlib.crc32(f"{status}\x1f{role}\x1f{model or ''}".encode()) - 2**31


class JobsFold:
    """One batch of job events. ``_changed`` holds the last event of each job and what its single events settle."""

    def __init__(self, some_seq: int) -> None:
        self._block = some_seq >> BLOCK_BITS
        self._created: dict[str, dict[str, Any]] = {}
        self._changed: dict[str, tuple[LogEvent, dict[str, Any]]] = {}
        self._throughput: dict[tuple[int, int, str, str], int] = {}

    def add(self, event: LogEvent) -> None:
        state = event.state
        assert state is not None
        status, job_id, _, _ = state["status"], event.entity, state["role"], state["n"]
        known = self._changed.get(job_id)
        if event.type == "job.created":
            if known is not None:
                raise PoisonEvent("the job was created before", seq=event.seq, subject=event.subject)
            facts = _facts(event)
            own = {"created_seq": event.seq, "root_job_id": facts["root_job_id"], "queued_at": event.ts}
            self._created[job_id] = facts
            self._changed[job_id] = (event, own)
            self._count(event, state, "created")
            return
        own = _own(event, status in _CLOSED)
        if event.type in _CLOSING and status in _CLOSED:
            self._count(event, state, status.lower())
        if known is not None:
            own = _merged(known[1], own)
        self._changed[job_id] = (event, own)

    def _count(self, event: LogEvent, state: dict[str, Any], outcome: str) -> None:
        assert event.project is not None
        key = (event.stored_ns // _MINUTE_NS, event.project, state.get("model") or "", outcome)
        self._throughput[key] = self._throughput.get(key, 0) + 1

    def writes(self) -> list[Write]:
        found = []
        if self._created:
            found.append(Write("projections/jobs/write_created", [_present(row) for row in self._created.values()]))
        if self._changed:
            rows = [_present(_carried(event) | own) for event, own in self._changed.values()]
            throughput = [
                {"minute": minute, "project_id": project, "model": model, "outcome": outcome, "n": n}
                for (minute, project, model, outcome), n in self._throughput.items()
            ]
            params = {"block": self._block, "throughput": orjson.dumps(throughput).decode()}
            found.append(Write("projections/jobs/write_changed", rows, params))
        return found


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """Without absent values: Postgres reads a missing key as NULL, and reads less."""
    return {name: value for name, value in row.items() if value is not None}


def _merged(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    if "stage_status" in after and not after.get("stage_reset") and "stage_status" in before:
        after["stage_status"] = before["stage_status"] | after["stage_status"]
    before.update(after)
    return before


def _carried(event: LogEvent) -> dict[str, Any]:
    """The columns that every event of a job settles."""
    state = event.state
    assert state is not None
    get = state.get
    status, role, model = state["status"], state["role"], get("model")
    return {
        "id": event.entity,
        "project_id": event.project,
        "role": role,
        "kind": kind_of(status, role, model),
        "status": status,
        "model": model,
        "worker": get("worker"),
        "attempt": get("attempt"),
        "spent": get("spent"),
        "priority": get("priority"),
        "not_before": get("not_before"),
        "lease_ttl_s": get("lease_ttl_s"),
        "retention_until": get("retention_until"),
        "held": get("held"),
        "purge": get("purge"),
        "events": state["n"],
        "seq": event.seq,
        "updated_at": event.ts,
        "state": state,
    }


def _facts(event: LogEvent) -> dict[str, Any]:
    flat = event.flat
    get = flat.get
    return {
        "id": event.entity,
        "project_id": event.project,
        "created_seq": event.seq,
        "created_at": event.ts,
        "actor": event.actor,
        "root_job_id": flat["root_job_id"],
        "idx": flat["index"],
        "count": flat["count"],
        "title": flat["title"],
        "prd_title": get("prd_title") or "",
        "name": get("name"),
        "task_type": flat["task_type"],
        "role": flat["role"],
        "labels": get("labels") or None,
        "subject": get("subject"),
        "stages": get("stages") or None,
        "depends_on": get("depends_on") or None,
        "session_id": get("session_id"),
        "max_attempts": get("max_attempts", 3),
        "timeout_s": get("timeout_s"),
        "queue_timeout_s": get("queue_timeout_s"),
        "run_at": get("run_at"),
        "concurrency_key": get("concurrency_key"),
        "input_bytes": flat["input"]["bytes"] if get("input") else None,
    }


def _own(event: LogEvent, closed: bool) -> dict[str, Any]:
    """The columns that one type of event settles."""
    type_, flat = event.type, event.flat
    if type_ == "job.assigned":
        return {"assigned_at": event.ts, "assigned_by": flat["reason"]["policy"], "status_reason": ""}
    if type_ == "job.claimed":
        return {"claimed_at": event.ts, "status_reason": "", "stage_status": {}, "stage_reset": True, **_NO_RESULT}
    if type_ == "job.stage_changed":
        return {"stage_status": {flat["stage"]: flat["status"]}}
    if type_ in _CLOSING or type_ in _REQUEUEING or type_ == "job.accepted":
        return _moved(event, closed)
    return {}


def _moved(event: LogEvent, closed: bool) -> dict[str, Any]:
    """Closed, or open again."""
    type_, flat = event.type, event.flat
    own: dict[str, Any] = {"status_reason": flat.get("reason") or ""}
    if not closed:
        own["queued_at"] = event.ts
        own.update(_REOPENED)
    elif type_ != "job.accepted":
        own["finished_at"], own["finished_seq"] = event.ts, event.seq
    if type_ in ("job.completed", "job.submitted", "job.retried"):
        own["error_code"] = ""
    elif type_ == "job.failed":
        own["error_code"] = flat["error_code"]
    elif type_ == "job.lease_expired":
        own["error_code"] = "lease_expired"
    if result := flat.get("result"):
        own["result_bytes"], own["result_digest"] = result["bytes"], result["digest"]
    if output := flat.get("output"):
        own["output_count"] = output["count"]
    return own


JOBS = Projection(
    name="jobs",
    tables=(
        Table("job_facts", ("id",)),
        Table("job_states", ("id",)),
        Table("prds", ("root_job_id",)),
        Table("job_kinds", ("status", "role", "model"), "n <> 0"),
        Table("job_counts", ("project_id", "status", "role", "model"), "n <> 0"),
        Table("count_deltas", ("block", "project_id", "status", "role", "model"), "n <> 0"),
        Table("job_throughput", ("minute", "project_id", "model", "outcome")),
    ),
    fold=JobsFold,
    kinds=frozenset({"job"}),
)
