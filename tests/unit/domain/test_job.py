"""The job decider: every command in every state, then each arrow of the diagram as given / when / then (G6, G7, G8, G15)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from aura.clock import rfc3339
from aura.domain import job_commands as c
from aura.domain.job import MAX_EVENTS, decide, evolve
from aura.domain.job_state import JobState, JobStatus, Purge
from aura.errors import Conflict, Fenced, Forbidden, InvalidRequest
from aura.events import catalogue as e

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
JOB = "0199c000-0000-7000-8000-000000000001"
REASON = e.AssignReason(policy="role")
LATER = rfc3339(NOW + timedelta(seconds=100))
EARLIER = rfc3339(NOW - timedelta(seconds=100))


def at(seconds: float) -> str:
    return rfc3339(NOW + timedelta(seconds=seconds))


def created(**changes: Any) -> e.JobCreated:
    facts: dict[str, Any] = {
        "root_job_id": JOB,
        "index": 0,
        "count": 1,
        "title": "t",
        "task_type": "task",
        "role": "Employee",
    }
    return e.JobCreated(**{**facts, **changes})


ASSIGNED = e.JobAssigned(assigned_model="alpha", term=1, reason=REASON)
CLAIMED = e.JobClaimed(worker_id="w1", attempt=1, lease_ttl_s=10, assigned_model="alpha")
COMPLETED = e.JobCompleted(attempt=1, retention_until=EARLIER)
SUBMITTED = e.JobSubmitted(attempt=1, retention_until=EARLIER)
FAILED = e.JobFailed(attempt=1, error_code="x", retryable=False, retention_until=EARLIER)
CANCELLED = e.JobCancelled(by="user:a", retention_until=EARLIER)


def given(*events: e.JobEvent) -> JobState:
    state: JobState | None = None
    for event in events:
        state = evolve(state, event)
    assert state is not None
    return state


STATES: dict[str, JobState | None] = {
    "none": None,
    "QUEUED": given(created()),
    "ASSIGNED": given(created(), ASSIGNED),
    "IN_PROGRESS": given(created(), ASSIGNED, CLAIMED),
    "COMPLETED": given(created(), ASSIGNED, CLAIMED, COMPLETED),
    "SUBMITTED": given(created(), ASSIGNED, CLAIMED, SUBMITTED),
    "FAILED": given(created(), ASSIGNED, CLAIMED, FAILED),
    "CANCELLED": given(created(), ASSIGNED, CLAIMED, CANCELLED),
}
COMMANDS: dict[str, c.JobCommand] = {
    "create": c.CreateJob(created()),
    "assign": c.AssignJob("alpha", REASON),
    "assign_other": c.AssignJob("beta", REASON),
    "assign_by_hand": c.AssignJob("beta", REASON, override=True),
    "reoffer": c.AssignJob("alpha", REASON, reoffer=True),
    "unassign": c.UnassignJob("model_offline"),
    "claim": c.ClaimJob("w2", 10, "alpha"),
    "stage": c.ChangeStage("build", "done", 1),
    "complete": c.CompleteJob(True, 60, 1),
    "submit": c.CompleteJob(False, 60, 1),
    "fail": c.FailJob("x", True, 60, 1, 1),
    "fail_waiting": c.FailWaitingJob("queue_timeout", 60),
    "expire": c.ExpireLease(1, 60, 1),
    "release": c.ReleaseJob(1),
    "cancel": c.CancelJob("user:a", 60),
    "retry": c.RetryJob("user:a"),
    "accept": c.AcceptJob("user:a"),
    "reject": c.RejectJob("user:a", 60),
    "reprioritize": c.ReprioritizeJob("user:a", 1),
    "hold": c.HoldArchive("user:a"),
    "release_hold": c.ReleaseHold("user:a"),
    "purge": c.RequestPurge("user:a", "sha256:x"),
    "record_purge": c.RecordPurge("user:a", 1, ("content",)),
}
_COLUMNS = ("none", "QUEUED", "ASSIGNED", "IN_PROGRESS", "COMPLETED", "SUBMITTED", "FAILED", "CANCELLED")
#: "-" nothing to do, "!" Conflict, "f" Fenced, else the event's type.
_L = "job.late_result_rejected"
TABLE: dict[str, tuple[str, ...]] = {
    "create": ("job.created", "!", "!", "!", "!", "!", "!", "!"),
    "assign": ("!", "job.assigned", "-", "!", "!", "!", "!", "!"),
    "assign_other": ("!", "job.assigned", "!", "!", "!", "!", "!", "!"),
    "assign_by_hand": ("!", "job.assigned", "job.assigned", "!", "!", "!", "!", "!"),
    "reoffer": ("!", "job.assigned", "job.assigned", "!", "!", "!", "!", "!"),
    "unassign": ("!", "-", "job.unassigned", "-", "-", "-", "-", "-"),
    "claim": ("!", "job.claimed", "job.claimed", "!", "!", "!", "!", "!"),
    "stage": ("!", "f", "f", "job.stage_changed", "f", "f", "f", "f"),
    "complete": ("!", "f", "f", "job.completed", _L, _L, _L, _L),
    "submit": ("!", "f", "f", "job.submitted", _L, _L, _L, _L),
    "fail": ("!", "f", "f", "job.failed", _L, _L, _L, _L),
    "fail_waiting": ("!", "job.failed", "job.failed", "-", "-", "-", "-", "-"),
    "expire": ("!", "-", "-", "job.lease_expired", "-", "-", "-", "-"),
    "release": ("!", "f", "f", "job.released", "f", "f", "f", "f"),
    "cancel": ("!", "job.cancelled", "job.cancelled", "job.cancelled", "!", "!", "!", "-"),
    "retry": ("!", "!", "!", "!", "!", "job.retried", "job.retried", "job.retried"),
    "accept": ("!", "!", "!", "!", "-", "job.accepted", "!", "!"),
    "reject": ("!", "!", "!", "!", "!", "job.rejected", "!", "!"),
    "reprioritize": ("!", "job.reprioritized", "job.reprioritized", "job.reprioritized", "!", "!", "!", "!"),
    "hold": ("!", "!", "!", "!", "archive.held", "archive.held", "archive.held", "archive.held"),
    "release_hold": ("!", "!", "!", "!", "-", "-", "-", "-"),
    "purge": ("!", "!", "!", "!", "archive.purge_requested", "!", *["archive.purge_requested"] * 2),
    "record_purge": ("!",) * 8,
}


@pytest.mark.parametrize("status", _COLUMNS)
@pytest.mark.parametrize("name", COMMANDS)
def test_g8_every_command_in_every_state(name: str, status: str) -> None:
    expected = TABLE[name][_COLUMNS.index(status)]
    state = STATES[status]
    if expected in "!f":
        with pytest.raises(Conflict) as refusal:
            decide(state, COMMANDS[name], now=NOW)
        assert (refusal.type is Fenced) == (expected == "f")
        assert refusal.value.status == (state.status if state is not None else None)
        return
    events = decide(state, COMMANDS[name], now=NOW)
    assert [event.TYPE for event in events] == ([] if expected == "-" else [expected])


def test_the_table_is_exhaustive() -> None:
    commands = {type(command) for command in COMMANDS.values()}
    assert commands == set(c.JobCommand.__args__)  # type: ignore[attr-defined]
    assert set(TABLE) == set(COMMANDS)
    assert set(_COLUMNS) == {"none", *(status.value for status in JobStatus)}
    reached = {cell for row in TABLE.values() for cell in row} | {"archive.hold_released", "archive.purged"}
    assert {event.TYPE for event in e.JobEvent.__args__} == reached - {"!", "f", "-"}  # type: ignore[attr-defined]


# ---------------------------------------------------------------- the arrows


def test_created_leads_to_queued() -> None:
    state = given(created(priority=2, max_attempts=5, run_at=LATER, depends_on=[JOB, JOB]))
    assert (state.status, state.priority, state.max_attempts, state.not_before, state.deps) == (
        JobStatus.QUEUED,
        2,
        5,
        LATER,
        2,
    )


def test_assigned_remembers_the_pool_and_that_the_job_was_ready() -> None:
    state = given(created(run_at=LATER, depends_on=[JOB]), ASSIGNED)
    assert (state.status, state.model, state.not_before, state.deps) == (JobStatus.ASSIGNED, "alpha", None, 0)


def test_a_job_that_is_not_due_is_not_assigned_except_by_hand() -> None:
    state = given(created(run_at=at(1)))
    with pytest.raises(Conflict, match="not due"):
        decide(state, COMMANDS["assign"], now=NOW)
    assert decide(state, COMMANDS["assign"], now=NOW + timedelta(seconds=1))
    assert decide(state, COMMANDS["assign_by_hand"], now=NOW)


def test_unassigned_leads_back_to_queued_without_a_pool() -> None:
    state = given(created(), ASSIGNED, e.JobUnassigned(reason="model_offline"))
    assert (state.status, state.model) == (JobStatus.QUEUED, None)


def test_g6_a_claim_starts_the_next_attempt_with_a_lease() -> None:
    [event] = decide(STATES["ASSIGNED"], c.ClaimJob("w2", 10, "fallback"), now=NOW)
    assert event == e.JobClaimed(worker_id="w2", attempt=1, lease_ttl_s=10, assigned_model="alpha")
    state = given(created(), ASSIGNED, event)
    assert (state.status, state.attempt, state.worker, state.lease_ttl_s) == (JobStatus.IN_PROGRESS, 1, "w2", 10)


def test_a_queued_job_may_be_claimed_directly_and_gets_the_fallback_pool() -> None:
    [event] = decide(STATES["QUEUED"], c.ClaimJob("w2", 10, "fallback"), now=NOW)
    assert isinstance(event, e.JobClaimed)
    assert event.assigned_model == "fallback"


def test_a_queued_job_is_not_claimed_before_its_time_or_its_dependencies() -> None:
    with pytest.raises(Conflict, match="not due"):
        decide(given(created(run_at=LATER)), COMMANDS["claim"], now=NOW)
    with pytest.raises(Conflict, match="depends"):
        decide(STATES["QUEUED"], c.ClaimJob("w2", 10, "alpha", dependencies_met=False), now=NOW)
    assert decide(STATES["ASSIGNED"], c.ClaimJob("w2", 10, "alpha", dependencies_met=False), now=NOW)


def test_an_offer_of_a_pool_claims_only_what_is_assigned_to_that_pool() -> None:
    for status, pool in (("QUEUED", "alpha"), ("ASSIGNED", "beta")):
        with pytest.raises(Conflict):
            decide(STATES[status], c.ClaimJob("w2", 10, "x", offered=True, pool=pool), now=NOW)
    for offered, pool in ((True, "alpha"), (True, None), (False, "beta")):
        assert decide(STATES["ASSIGNED"], c.ClaimJob("w2", 10, "x", offered=offered, pool=pool), now=NOW)


def test_g6_every_attempt_has_a_higher_number() -> None:
    state = given(created(), ASSIGNED, CLAIMED, e.JobReleased(worker_id="w1", attempt=1))
    [event] = decide(state, COMMANDS["claim"], now=NOW)
    assert isinstance(event, e.JobClaimed)
    assert event.attempt == 2


@pytest.mark.parametrize("attempt", [None, 1])
def test_completed_with_and_without_naming_the_attempt(attempt: int | None) -> None:
    [event] = decide(STATES["IN_PROGRESS"], c.CompleteJob(True, 60, attempt), now=NOW)
    assert event == e.JobCompleted(attempt=1, retention_until=at(60))
    state = given(created(), ASSIGNED, CLAIMED, event)
    assert (state.status, state.retention_until, state.lease_ttl_s) == (JobStatus.COMPLETED, at(60), None)


def test_submitted_waits_for_a_verdict() -> None:
    [event] = decide(STATES["IN_PROGRESS"], COMMANDS["submit"], now=NOW)
    assert isinstance(event, e.JobSubmitted)
    assert evolve(STATES["IN_PROGRESS"], event).status is JobStatus.SUBMITTED
    assert given(created(), CLAIMED, SUBMITTED, e.JobAccepted(by="user:a")).status is JobStatus.COMPLETED


def test_g6_only_the_current_attempt_reports() -> None:
    state = given(created(), CLAIMED, e.JobLeaseExpired(worker_id="w1", attempt=1, next_run_at=at(0)), ASSIGNED)
    state = evolve(state, e.JobClaimed(worker_id="w2", attempt=2, lease_ttl_s=10))
    [late] = decide(state, c.CompleteJob(True, 60, 1), now=NOW)
    assert late == e.JobLateResultRejected(worker_id="w2", attempt=1, current_attempt=2)
    state = evolve(state, late)
    assert (state.status, state.attempt, state.late) == (JobStatus.IN_PROGRESS, 2, (1,))
    with pytest.raises(Fenced) as refusal:  # recorded once, then only refused
        decide(state, c.CompleteJob(True, 60, 1), now=NOW)
    assert (refusal.value.attempt, refusal.value.current) == (1, 2)
    with pytest.raises(Fenced):
        decide(state, c.CompleteJob(True, 60, 3), now=NOW)
    with pytest.raises(Fenced):
        decide(state, c.CompleteJob(True, 60, -1), now=NOW)
    assert decide(state, c.CompleteJob(True, 60, 2), now=NOW)


def test_a_report_that_names_no_attempt_is_a_plain_conflict_when_nobody_runs() -> None:
    with pytest.raises(Conflict) as refusal:
        decide(STATES["COMPLETED"], c.CompleteJob(True, 60), now=NOW)
    assert refusal.type is Conflict


def test_failed_goes_back_to_the_queue_while_attempts_remain() -> None:
    state = given(created(max_attempts=2), ASSIGNED, CLAIMED)
    [event] = decide(state, c.FailJob("x", True, 60, 7), now=NOW)
    assert event == e.JobFailed(attempt=1, error_code="x", retryable=True, next_run_at=at(7))
    state = evolve(state, event)
    assert (state.status, state.spent, state.not_before, state.worker, state.model) == (
        JobStatus.QUEUED,
        1,
        at(7),
        None,
        None,
    )
    state = evolve(state, e.JobClaimed(worker_id="w1", attempt=2, lease_ttl_s=10))
    [event] = decide(state, c.FailJob("x", True, 60, 7), now=NOW)
    assert isinstance(event, e.JobFailed)
    assert event.retention_until == at(60)
    state = evolve(state, event)
    assert (state.status, state.spent) == (JobStatus.FAILED, 2)


def test_failed_for_good_when_not_retryable() -> None:
    [event] = decide(STATES["IN_PROGRESS"], c.FailJob("x", False, 60, 7), now=NOW)
    assert isinstance(event, e.JobFailed)
    assert (event.next_run_at, event.retention_until) == (None, at(60))


def test_a_job_that_waited_too_long_fails_for_good_and_spends_nothing() -> None:
    for status in ("QUEUED", "ASSIGNED"):
        [event] = decide(STATES[status], COMMANDS["fail_waiting"], now=NOW)
        state = evolve(STATES[status], event)
        assert (state.status, state.spent) == (JobStatus.FAILED, 0)


def test_g7_an_expired_lease_spends_the_attempt() -> None:
    state = given(created(max_attempts=2), ASSIGNED, CLAIMED)
    [event] = decide(state, c.ExpireLease(1, 60, 3), now=NOW)
    assert event == e.JobLeaseExpired(worker_id="w1", attempt=1, next_run_at=at(3))
    state = evolve(evolve(state, event), e.JobClaimed(worker_id="w1", attempt=2, lease_ttl_s=10))
    assert decide(state, c.ExpireLease(1, 60, 3), now=NOW) == []  # an older lease
    [event] = decide(state, c.ExpireLease(2, 60, 3), now=NOW)
    assert evolve(state, event).status is JobStatus.FAILED


def test_released_spends_nothing() -> None:
    [event] = decide(STATES["IN_PROGRESS"], c.ReleaseJob(1, delay_s=5), now=NOW)
    assert event == e.JobReleased(worker_id="w1", attempt=1, delay_s=5, next_run_at=at(5))
    state = given(created(), ASSIGNED, CLAIMED, event)
    assert (state.status, state.spent, state.not_before, state.lease_ttl_s) == (JobStatus.QUEUED, 0, at(5), None)
    with pytest.raises(InvalidRequest):
        decide(STATES["IN_PROGRESS"], c.ReleaseJob(1, delay_s=1e300), now=NOW)


def test_rejected_spends_the_attempt() -> None:
    queued = given(created(max_attempts=2), CLAIMED, SUBMITTED)
    [event] = decide(queued, COMMANDS["reject"], now=NOW)
    state = evolve(queued, event)
    assert (state.status, state.spent, state.retention_until) == (JobStatus.QUEUED, 1, None)
    last = given(created(max_attempts=1), CLAIMED, SUBMITTED)
    [event] = decide(last, COMMANDS["reject"], now=NOW)
    assert evolve(last, event).status is JobStatus.FAILED


def test_retried_starts_with_fresh_attempts_and_leaves_the_archive() -> None:
    state = given(created(max_attempts=1), CLAIMED, FAILED, e.JobRetried(by="user:a"))
    assert (state.status, state.spent, state.attempt, state.retention_until) == (JobStatus.QUEUED, 0, 1, None)


def test_reprioritized_changes_only_the_priority() -> None:
    before = STATES["IN_PROGRESS"]
    assert before is not None
    [event] = decide(before, COMMANDS["reprioritize"], now=NOW)
    assert evolve(before, event) == replace(before, priority=1, count=before.count + 1)
    assert decide(replace(before, priority=1), COMMANDS["reprioritize"], now=NOW) == []


# ---------------------------------------------------------------- the archive life


def test_g15_a_held_job_is_not_purged_until_the_hold_ends() -> None:
    held = given(created(), CLAIMED, COMPLETED, e.ArchiveHeld(by="user:a"))
    assert decide(held, COMMANDS["hold"], now=NOW) == []
    with pytest.raises(Conflict, match="held"):
        decide(held, COMMANDS["purge"], now=NOW)
    [event] = decide(held, COMMANDS["release_hold"], now=NOW)
    assert decide(evolve(held, event), COMMANDS["purge"], now=NOW)


def test_g15_nothing_is_purged_before_its_retention_ends() -> None:
    state = given(created(), CLAIMED, e.JobCompleted(attempt=1, retention_until=at(1)))
    with pytest.raises(Forbidden):
        decide(state, COMMANDS["purge"], now=NOW)
    assert decide(state, COMMANDS["purge"], now=NOW + timedelta(seconds=1))


def test_g15_what_waits_for_a_verdict_is_not_purged() -> None:
    with pytest.raises(Conflict, match="verdict"):
        decide(STATES["SUBMITTED"], COMMANDS["purge"], now=NOW)
    assert decide(given(created(), CLAIMED, SUBMITTED, e.JobAccepted(by="user:a")), COMMANDS["purge"], now=NOW)


@pytest.mark.parametrize("name", ["retry", "accept", "reject", "hold"])
def test_a_job_whose_purge_was_requested_leaves_its_state_no_more(name: str) -> None:
    requested = given(created(), CLAIMED, SUBMITTED, e.ArchivePurgeRequested(by="user:a", scope_digest="x"))
    assert requested.purge is Purge.REQUESTED
    with pytest.raises(Conflict, match="purged"):
        decide(requested, COMMANDS[name], now=NOW)


def test_a_purge_is_requested_once_and_recorded_once() -> None:
    requested = given(created(), CLAIMED, COMPLETED, e.ArchivePurgeRequested(by="user:a", scope_digest="x"))
    assert decide(requested, COMMANDS["purge"], now=NOW) == []
    [event] = decide(requested, COMMANDS["record_purge"], now=NOW)
    assert event == e.ArchivePurged(by="user:a", bytes=1, stores=["content"])
    purged = evolve(requested, event)
    assert purged.purge is Purge.PURGED
    assert decide(purged, COMMANDS["record_purge"], now=NOW) == []
    assert decide(purged, COMMANDS["purge"], now=NOW) == []


# ---------------------------------------------------------------- bounds


def test_g12_the_last_tenth_of_a_jobs_events_is_kept_for_ending_it() -> None:
    waiting = STATES["QUEUED"]
    assert waiting is not None
    nearly = replace(waiting, count=MAX_EVENTS * 9 // 10)
    with pytest.raises(Conflict, match="events"):
        decide(nearly, COMMANDS["assign"], now=NOW)
    assert decide(nearly, COMMANDS["cancel"], now=NOW)
    with pytest.raises(Conflict, match="events"):
        decide(replace(waiting, count=MAX_EVENTS), COMMANDS["cancel"], now=NOW)


def test_evolve_is_total_even_without_a_beginning() -> None:
    for status in STATES:
        for event in (ASSIGNED, CLAIMED, COMPLETED, SUBMITTED, FAILED, CANCELLED, e.JobRetried(by="user:a")):
            assert evolve(STATES[status], event).count >= 1
