"""The projection ``jobs``: one row per job as it is now, its PRD, and the counts that keep filters and statistics fast.

What ``job.created`` said goes to ``job_facts`` once; everything else is ``job_states``, whose columns come from the carried
state of the job's last event (always) and from single events (times, error, result, stages). ``None`` in a changed row means
"as it was"; ``""``, ``-1``, ``0`` and ``-infinity`` empty a column (``write_changed.sql``).

A job that was created in the batch has no row yet: its rows are inserted as they are at the batch's end (``write_created.sql``; many of
them are copied, ``rows.py``), and its part in the counts is known without asking (``born``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

import orjson
from msgspec import Meta, Struct
from msgspec.json import Decoder

from aura.domain.job_state import JobStatus
from aura.errors import PoisonEvent
from aura.events.subjects import UUID
from aura.projections import rows
from aura.projections.decoding import Int64, JobCarried, LogEvent, scalar
from aura.projections.projection import BLOCK_BITS, Projection, Table, Write

_CLOSED = frozenset(status.value for status in JobStatus if status.closed)
_MINUTE_NS = 60_000_000_000
#: What empties columns when the job is open again, and when an attempt begins.
_REOPENED = {"finished_at": "-infinity", "finished_seq": 0}
_NO_RESULT = {"result_bytes": -1, "result_digest": "", "output_count": -1}
_EMPTIES = {"error_code": "", "status_reason": "", **_REOPENED, **_NO_RESULT}
_CLOSING = frozenset(
    {"job.completed", "job.submitted", "job.failed", "job.lease_expired", "job.rejected", "job.cancelled"}
)
_REQUEUEING = frozenset(
    {"job.unassigned", "job.failed", "job.lease_expired", "job.released", "job.rejected", "job.retried"}
)
Own = dict[str, Any]
_JobId = Annotated[str, Meta(pattern=UUID.pattern)]


class _Input(Struct, gc=False):
    bytes: Int64 | None = None


class Facts(Struct, gc=False):
    """What ``job.created`` said."""

    root_job_id: str
    index: Int64
    count: Int64
    title: str
    task_type: str
    role: str
    prd_title: str | None = None
    name: str | None = None
    labels: dict[str, Any] | list[Any] | None = None
    subject: str | None = None
    stages: list[Any] | None = None
    depends_on: list[_JobId] | None = None
    session_id: str | None = None
    max_attempts: Int64 = 3
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    run_at: str | None = None
    concurrency_key: str | None = None
    input: _Input | None = None


_FACTS = Decoder(Facts).decode


@lru_cache(maxsize=65_536)
def kind_of(status: str, role: str, model: str | None) -> int:
    """A signed 32-bit hash of what filters look up. A collision costs a recheck, never a wrong row."""
    return zlib.crc32(f"{status}\x1f{role}\x1f{model or ''}".encode()) - 2**31


class Job:
    """A job in one batch: its last event, what its single events settle, and, if it was created here, its first event and what it said."""

    __slots__ = ("birth", "last", "own")

    def __init__(self, last: LogEvent, own: Own, birth: tuple[LogEvent, Facts] | None = None) -> None:
        self.last = last
        self.own = own
        self.birth = birth


class JobsFold:
    """One batch of job events."""

    def __init__(self, some_seq: int) -> None:
        self._block = some_seq >> BLOCK_BITS
        self._jobs: dict[str, Job] = {}
        self._throughput: dict[tuple[Any, ...], int] = {}

    def add(self, event: LogEvent) -> None:
        carried, type_, job_id = event.job, event.type, event.entity
        known = self._jobs.get(job_id)
        if type_ == "job.created":
            if known is not None:
                raise PoisonEvent("the job was created before", seq=event.seq, subject=event.subject)
            self._jobs[job_id] = Job(event, {"queued_at": event.body.ts}, (event, _FACTS(event.raw)))
            self._count(event, carried, "created")
            return
        settle = _SETTLES.get(type_)
        own: Own = settle(event, carried.status in _CLOSED) if settle is not None else {}
        if known is None:
            self._jobs[job_id] = Job(event, own)
        else:
            known.last = event
            known.own = _merged(known.own, own)
        if type_ in _CLOSING and carried.status in _CLOSED:
            self._count(event, carried, carried.status.lower())

    def _count(self, event: LogEvent, carried: JobCarried, outcome: str) -> None:
        moment = event.stored_ns // _MINUTE_NS, event.project, carried.model or "", outcome
        self._throughput[moment] = self._throughput.get(moment, 0) + 1

    def writes(self) -> list[Write]:
        if not self._jobs:
            return []
        fresh = [job for job in self._jobs.values() if job.birth is not None]
        found = _fresh_writes(fresh) if fresh else []
        changed = [_changed(job) for job in self._jobs.values() if job.birth is None]
        born: dict[tuple[Any, ...], int] = {}
        for place in map(_place, fresh):
            born[place] = born.get(place, 0) + 1
        params = {
            "block": self._block,
            "throughput": _counted(_MOMENT, self._throughput),
            "born": _counted(_PLACE, born),
        }
        return [*found, Write("projections/jobs/write_changed", changed, params)]


_MOMENT = ("minute", "project_id", "model", "outcome")
_PLACE = ("project_id", "root_job_id", "status", "role", "model", "kind")


def _counted(names: tuple[str, ...], counts: dict[tuple[Any, ...], int]) -> str:
    return orjson.dumps([dict(zip(names, key, strict=True), n=n) for key, n in counts.items()]).decode()


def _place(job: Job) -> tuple[Any, ...]:
    """Where a job created in the batch is counted."""
    assert job.birth is not None
    carried, facts = job.last.job, job.birth[1]
    status, role, model = carried.status, carried.role, carried.model
    return job.last.project, facts.root_job_id, status, role, model or "", kind_of(status, role, model)


def _fresh_writes(fresh: list[Job]) -> list[Write]:
    facts, states = [_facts(job) for job in fresh], [_state(job) for job in fresh]
    if len(fresh) < rows.COPY_FROM:
        records = [
            rows.record(fact, "labels", "stages") | rows.record(state, "stage_status", "state")
            for fact, state in zip(facts, states, strict=True)
        ]
        return [Write("projections/jobs/write_created", records)]
    prds: dict[str, dict[str, Any]] = {}
    for fact in facts:
        if fact["root_job_id"] not in prds:
            prds[fact["root_job_id"]] = {name: fact[name] for name in _PRD}
    return [
        Write("projections/jobs/write_prds", list(prds.values())),
        Write("projections/jobs/copy_facts", [], copy=rows.lines(facts)),
        Write("projections/jobs/copy_states", [], copy=rows.lines(states)),
    ]


#: A PRD is what the first of its jobs said of it.
_PRD = ("root_job_id", "project_id", "created_seq", "created_at", "prd_title", "count")
_OWN = tuple(
    (name, _EMPTIES.get(name))
    for name in (
        *("queued_at", "assigned_at", "claimed_at", "assigned_by", "finished_at", "finished_seq", "error_code"),
        *("status_reason", "result_bytes", "result_digest", "output_count"),
    )
)


def _facts(job: Job) -> rows.Row:
    assert job.birth is not None
    event, facts = job.birth
    return {
        "id": event.entity,
        "project_id": event.project,
        "created_seq": event.seq,
        "created_at": event.body.ts,
        "actor": event.body.actor,
        "root_job_id": facts.root_job_id,
        "idx": facts.index,
        "count": facts.count,
        "title": facts.title,
        "prd_title": facts.prd_title or "",
        "name": facts.name,
        "task_type": facts.task_type,
        "role": facts.role,
        "labels": rows.json_text(facts.labels),
        "subject": facts.subject,
        "stages": rows.json_text(facts.stages),
        "depends_on": "{" + ",".join(facts.depends_on) + "}" if facts.depends_on else None,
        "session_id": facts.session_id,
        "max_attempts": facts.max_attempts,
        "timeout_s": facts.timeout_s,
        "queue_timeout_s": facts.queue_timeout_s,
        "run_at": facts.run_at,
        "concurrency_key": facts.concurrency_key,
        "input_bytes": facts.input.bytes if facts.input is not None else None,
    }


def _carried(event: LogEvent) -> rows.Row:
    """The columns that every event of a job settles."""
    carried = event.job
    status, role, model = carried.status, carried.role, carried.model
    return {
        "role": role,
        "kind": kind_of(status, role, model),
        "status": status,
        "model": model,
        "worker": carried.worker,
        "attempt": carried.attempt,
        "spent": carried.spent,
        "priority": carried.priority,
        "not_before": carried.not_before,
        "lease_ttl_s": carried.lease_ttl_s,
        "retention_until": carried.retention_until,
        "held": carried.held,
        "purge": carried.purge,
        "events": carried.n,
        "seq": event.seq,
        "updated_at": event.body.ts,
    }


def _state(job: Job) -> rows.Row:
    """The row of a job that is new."""
    assert job.birth is not None
    created, facts = job.birth
    last, get = job.last, job.own.get
    return {
        "id": last.entity,
        "project_id": last.project,
        "created_seq": created.seq,
        "root_job_id": facts.root_job_id,
        **_carried(last),
        **{name: None if (value := get(name)) == empty else value for name, empty in _OWN},
        "stage_status": rows.json_text(get("stage_status")) or "{}",
        "state": last.state_json,
    }


def _changed(job: Job) -> rows.Row:
    """What changes in the row of a job that was there before."""
    last = job.last
    row = {"id": last.entity, "project_id": last.project, **_carried(last), **job.own, "state": last.state_json}
    return rows.record(row, "state")


def _merged(before: Own, after: Own) -> Own:
    if "stage_status" in after and not after.get("stage_reset") and "stage_status" in before:
        after["stage_status"] = before["stage_status"] | after["stage_status"]
    before.update(after)
    return before


# --- the columns that one type of event settles


def _assigned(event: LogEvent, _closed: bool) -> Own:
    return {"assigned_at": event.body.ts, "assigned_by": scalar(event.body.reason["policy"]), "status_reason": ""}


def _claimed(event: LogEvent, _closed: bool) -> Own:
    return {"claimed_at": event.body.ts, "status_reason": "", "stage_status": {}, "stage_reset": True, **_NO_RESULT}


def _stage_changed(event: LogEvent, _closed: bool) -> Own:
    stage, status = event.body.stage, event.body.status
    if not isinstance(stage, str) or not isinstance(status, str):
        raise PoisonEvent("no stage or no status", seq=event.seq, subject=event.subject)
    return {"stage_status": {stage: status}}


def _moved(event: LogEvent, closed: bool) -> Own:
    """Closed, or open again."""
    type_, body = event.type, event.body
    own: Own = {"status_reason": scalar(body.reason) or ""}
    if not closed:
        own["queued_at"] = body.ts
        own.update(_REOPENED)
    elif type_ != "job.accepted":
        own["finished_at"], own["finished_seq"] = body.ts, event.seq
    if type_ in ("job.completed", "job.submitted", "job.retried"):
        own["error_code"] = ""
    elif type_ == "job.failed":
        if body.error_code is None:
            raise PoisonEvent("no error code", seq=event.seq, subject=event.subject)
        own["error_code"] = scalar(body.error_code)
    elif type_ == "job.lease_expired":
        own["error_code"] = "lease_expired"
    if result := body.result:
        own["result_bytes"], own["result_digest"] = scalar(result["bytes"]), scalar(result["digest"])
    if output := body.output:
        own["output_count"] = scalar(output["count"])
    return own


_SETTLES: dict[str, Callable[[LogEvent, bool], Own]] = {
    **dict.fromkeys(_CLOSING | _REQUEUEING | {"job.accepted"}, _moved),
    "job.assigned": _assigned,
    "job.claimed": _claimed,
    "job.stage_changed": _stage_changed,
}

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
