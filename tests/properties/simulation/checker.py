"""Judges a log: the invariants G6–G9 as plain rules over events, written without any of the code under test.

Only the log counts: not what a worker believed, not what a leader planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aura.log.store import Recorded

OPEN = ("QUEUED", "ASSIGNED", "IN_PROGRESS")


class Violation(AssertionError):
    """An invariant does not hold; the message says which, and where in the log."""


@dataclass(slots=True)
class SeenJob:
    """What the events say of one job."""

    created: dict[str, Any]
    status: str = "QUEUED"
    attempt: int = 0
    spent: int = 0
    worker: str | None = None
    completions: int = 0
    late: set[int] = field(default_factory=set)
    was_failed: bool = False
    ends: int = 0
    model: str | None = None
    priority: int = 5
    not_before: str | None = None
    overridden: bool = False
    seq: int = 0


class Checker:
    """Feeds on events in order; raises :class:`Violation`. ``keys_exclusive``: no two leaders overlapped in this run."""

    def __init__(self, *, keys_exclusive: bool = False) -> None:
        self.jobs: dict[str, SeenJob] = {}
        self._keys_exclusive = keys_exclusive
        self._keys: dict[tuple[int, str], set[str]] = {}

    def take_all(self, events: Sequence[Recorded]) -> Checker:
        """Judge a whole log."""
        for recorded in events:
            self.take(recorded)
        return self

    def take(self, recorded: Recorded) -> None:
        """Judge one event."""
        if not recorded.subject.startswith("aura.job."):
            return
        event = recorded.decode()
        kind = event["type"]
        job_id = event["job_id"]
        job = self.jobs.get(job_id)
        if kind == "job.created":
            _demand(job is None, "G8", "created twice", recorded)
            self.jobs[job_id] = job = SeenJob(event, priority=event.get("priority", 5), not_before=event.get("run_at"))
        else:
            _demand(job is not None, "G8", "an event of a job that was never created", recorded)
            assert job is not None
            self._judge(job, kind, event, recorded)
        job.seq = recorded.seq
        _demand(
            event["state"]["status"] == job.status,
            "G8",
            f"carries {event['state']['status']}, is {job.status}",
            recorded,
        )
        _demand(job.spent <= event["state"].get("max_attempts", 3), "G7", "more attempts than allowed", recorded)
        self._judge_key(job, job_id, recorded)

    def _judge(self, job: SeenJob, kind: str, event: dict[str, Any], recorded: Recorded) -> None:
        def only_from(*allowed: str) -> None:
            _demand(job.status in allowed, "G8", f"{kind} of a job that is {job.status}", recorded)

        def holds_lease() -> None:
            _demand(job.status == "IN_PROGRESS", "G6", f"{kind} without a lease, the job is {job.status}", recorded)
            _demand(
                event["attempt"] == job.attempt,
                "G6",
                f"attempt {event['attempt']} reports, {job.attempt} is current",
                recorded,
            )

        ends = event.get("retention_until") is not None
        match kind:
            case "job.assigned":
                only_from("QUEUED", "ASSIGNED")
                if event["actor"].startswith("scheduler:"):
                    self._demand_dependencies(job, recorded)
                else:
                    job.overridden = True
                job.status, job.model, job.not_before = "ASSIGNED", event["assigned_model"], None
            case "job.unassigned":
                only_from("ASSIGNED")
                job.status = "QUEUED"
            case "job.claimed":
                _demand(job.status != "IN_PROGRESS", "G6", "a second valid lease", recorded)
                only_from("QUEUED", "ASSIGNED")
                if job.status == "QUEUED":
                    self._demand_dependencies(job, recorded)
                _demand(
                    event["attempt"] == job.attempt + 1,
                    "G6",
                    f"attempt {event['attempt']} after {job.attempt}",
                    recorded,
                )
                job.status, job.attempt, job.worker, job.not_before = (
                    "IN_PROGRESS",
                    event["attempt"],
                    event["worker_id"],
                    None,
                )
            case "job.stage_changed":
                holds_lease()
            case "job.completed":
                holds_lease()
                job.completions += 1
                _demand(job.completions == 1, "G6", "completed twice", recorded)
                job.status = "COMPLETED"
            case "job.submitted":
                holds_lease()
                job.status = "SUBMITTED"
            case "job.accepted":
                only_from("SUBMITTED")
                job.status = "COMPLETED"
            case "job.rejected":
                only_from("SUBMITTED")
                job.spent += 1
                job.status = "FAILED" if ends else "QUEUED"
            case "job.failed":
                if job.status == "IN_PROGRESS":
                    holds_lease()
                    job.spent += 1
                    job.status, job.not_before = ("FAILED" if ends else "QUEUED"), event.get("next_run_at")
                else:
                    only_from("QUEUED", "ASSIGNED")
                    _demand(ends, "G8", "a waiting job can only fail for good", recorded)
                    job.status = "FAILED"
            case "job.lease_expired":
                holds_lease()
                _demand(event["worker_id"] == job.worker, "G6", "the lease of another worker expired", recorded)
                job.spent += 1
                job.status, job.not_before = ("FAILED" if ends else "QUEUED"), event.get("next_run_at")
            case "job.released":
                holds_lease()
                job.status, job.not_before = "QUEUED", event.get("next_run_at")
            case "job.cancelled":
                only_from(*OPEN)
                if event.get("reason") == "dependency_failed":
                    wanted = job.created.get("depends_on", [])
                    _demand(
                        any(self.jobs[dep].was_failed for dep in wanted), "G8", "no dependency ever failed", recorded
                    )
                job.status = "CANCELLED"
            case "job.retried":
                only_from("FAILED", "CANCELLED", "SUBMITTED")
                job.status, job.spent = "QUEUED", 0
            case "job.reprioritized":
                only_from(*OPEN)
                job.priority = event["priority"]
            case "job.late_result_rejected":
                stale = job.status != "IN_PROGRESS" or event["attempt"] < job.attempt
                _demand(stale, "G6", "the current attempt was refused as late", recorded)
                _demand(event["attempt"] not in job.late, "G12", "recorded twice", recorded)
                job.late.add(event["attempt"])
            case _:
                raise Violation(f"unknown event {kind} at {recorded.seq}")
        if job.status not in OPEN:
            job.ends += 1
        if job.status in ("FAILED", "CANCELLED"):
            job.was_failed = True

    def _demand_dependencies(self, job: SeenJob, recorded: Recorded) -> None:
        for wanted in job.created.get("depends_on", []):
            status = self.jobs[wanted].status if wanted in self.jobs else "unknown"
            # An assignment by hand overrides the job's dependencies once and for all (``deps`` of the state is 0 afterwards).
            _demand(
                status == "COMPLETED" or job.overridden,
                "G8",
                f"started while dependency {wanted} is {status}",
                recorded,
            )

    def _judge_key(self, job: SeenJob, job_id: str, recorded: Recorded) -> None:
        key = job.created.get("concurrency_key")
        if key is None:
            return
        holders = self._keys.setdefault((job.created["project_id"], key), set())
        if job.status in ("ASSIGNED", "IN_PROGRESS"):
            holders.add(job_id)
        else:
            holders.discard(job_id)
        if self._keys_exclusive:
            _demand(len(holders) <= 1, "key", f"{len(holders)} jobs under concurrency key {key}", recorded)

    def unfinished(self) -> dict[str, SeenJob]:
        """Jobs that are still open."""
        return {job_id: job for job_id, job in self.jobs.items() if job.status in OPEN}


def _demand(holds: bool, guarantee: str, what: str, recorded: Recorded) -> None:
    if not holds:
        raise Violation(f"{guarantee}: {what} (sequence {recorded.seq}, {recorded.subject})")
