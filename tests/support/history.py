"""The history checker: reads a log from its beginning and says everything that must never be (G1–G3, G6–G8).

It knows the rules by itself, not from the decider: an independent second opinion on the same events.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aura.commands.heads import step
from aura.domain import job_state
from aura.domain.job_state import JobState
from aura.events import envelope
from aura.log.store import EventStore

#: event type → statuses in which it may happen.
ALLOWED: dict[str, set[str]] = {
    "job.assigned": {"QUEUED", "ASSIGNED"},
    "job.unassigned": {"ASSIGNED"},
    "job.claimed": {"QUEUED", "ASSIGNED"},
    "job.stage_changed": {"IN_PROGRESS"},
    "job.completed": {"IN_PROGRESS"},
    "job.submitted": {"IN_PROGRESS"},
    "job.failed": {"IN_PROGRESS", "QUEUED", "ASSIGNED"},
    "job.lease_expired": {"IN_PROGRESS"},
    "job.released": {"IN_PROGRESS"},
    "job.cancelled": {"QUEUED", "ASSIGNED", "IN_PROGRESS"},
    "job.accepted": {"SUBMITTED"},
    "job.rejected": {"SUBMITTED"},
    "job.retried": {"FAILED", "CANCELLED", "SUBMITTED"},
}
_OF_AN_ATTEMPT = {"job.completed", "job.submitted", "job.released", "job.lease_expired", "job.stage_changed"}
CLOSED = {"COMPLETED", "SUBMITTED", "FAILED", "CANCELLED"}


@dataclass
class JobHistory:
    """What one job's events add up to."""

    project: int
    types: list[str] = field(default_factory=list)
    status: str = ""
    attempt: int = 0
    state: JobState | None = None
    last: dict[str, Any] = field(default_factory=dict)


@dataclass
class History:
    """The whole log, checked. ``wrongs`` is empty or the test fails."""

    jobs: dict[str, JobHistory] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)
    events: int = 0

    def open_jobs(self) -> list[str]:
        """Jobs that have not ended."""
        return [job_id for job_id, job in self.jobs.items() if job.status not in CLOSED]


async def read_history(store: EventStore) -> History:
    """Read and check everything in the log."""
    history = History()
    ids: Counter[str] = Counter()
    expected = 0
    async for batch in store.read():
        for recorded in batch:
            expected = expected or recorded.seq
            if recorded.seq != expected:
                history.wrongs.append(f"sequence {recorded.seq} where {expected} was expected")
            expected = recorded.seq + 1
            event, flat = envelope.unseal(recorded.body, seq=recorded.seq, subject=recorded.subject)
            ids[flat["id"]] += 1
            history.events += 1
            if "job_id" in flat:
                _check_job(history, recorded.seq, event, flat)
    history.wrongs += [f"event {id_} is in the log {count} times" for id_, count in ids.items() if count > 1]
    return history


def _check_job(history: History, seq: int, event: Any, flat: dict[str, Any]) -> None:
    job_id, type_ = flat["job_id"], flat["type"]
    known = job_id in history.jobs
    job = history.jobs.setdefault(job_id, JobHistory(flat["project_id"]))
    where = f"{seq} {type_} of {job_id}"
    if (type_ == "job.created") == known:
        history.wrongs.append(f"{where}: created twice, or not at all")
    allowed = ALLOWED.get(type_)
    if allowed is not None and job.status not in allowed:
        history.wrongs.append(f"{where}: not allowed while {job.status}")
    if type_ == "job.claimed":
        if flat["attempt"] != job.attempt + 1:
            history.wrongs.append(f"{where}: attempt {flat['attempt']} after {job.attempt}")
        job.attempt = flat["attempt"]
    elif type_ in _OF_AN_ATTEMPT and flat["attempt"] != job.attempt:
        history.wrongs.append(f"{where}: attempt {flat['attempt']} speaks while {job.attempt} holds the lease")
    job.state = step(job.state, event, flat, seq)
    carried = job_state.from_json(flat["state"])
    if carried is None or job_state.placed(carried, seq) != job.state:
        history.wrongs.append(f"{where}: the carried state is not the fold")
    job.status = flat["state"]["status"]
    job.types.append(type_)
    job.last = flat
