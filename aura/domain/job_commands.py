"""What may be asked of a job. A command may be refused; a fact may not.

Everything the decider cannot derive is an argument: the time (``now`` of ``decide``), retention, hashes of content. ``attempt``
``None`` means "the current one" (DECISIONS.md, Leases).
"""

from __future__ import annotations

from dataclasses import dataclass

from aura.events.catalogue import AssignReason, ContentRef, JobCreated, OutputRef, StageStatus

NO_OUTPUT = OutputRef(count=0)


@dataclass(frozen=True, slots=True)
class CreateJob:
    """A task of a PRD becomes a job."""

    created: JobCreated


@dataclass(frozen=True, slots=True)
class AssignJob:
    """Give the job to a pool. ``override`` is an operator's choice; ``reoffer`` repeats an assignment that nobody took."""

    model: str
    reason: AssignReason
    term: int = 0
    override: bool = False
    reoffer: bool = False


@dataclass(frozen=True, slots=True)
class UnassignJob:
    """Take the job back from a pool that cannot run it."""

    reason: str


@dataclass(frozen=True, slots=True)
class ClaimJob:
    """A worker wants to start an attempt. ``fallback_model`` names the pool when the job was never assigned;
    ``dependencies_met`` is looked up by the handler when the state says there are dependencies. ``offered``: the worker answers an
    assignment to its ``pool``; if that was taken back meanwhile (pool paused, concurrency key busy) or the job was given to another
    pool, the job is not its to claim. ``holder``: who alone may speak for the attempt, where that is not the worker by name."""

    worker_id: str
    lease_ttl_s: float
    fallback_model: str
    dependencies_met: bool = True
    offered: bool = False
    pool: str | None = None
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class ChangeStage:
    """Report a stage of the current attempt."""

    stage: str
    status: StageStatus
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class CompleteJob:
    """Hand in the attempt's result. ``success`` false waits for a verdict. ``repeated``: the log already holds this very report of the
    current attempt and it led to the status the job is in (looked up by the handler); there is nothing to do."""

    success: bool
    retention_s: float
    attempt: int | None = None
    result: ContentRef | None = None
    output: OutputRef = NO_OUTPUT
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class FailJob:
    """The attempt failed. ``retry_in_s`` is the back-off if attempts remain (``retry.py``). ``repeated`` as in :class:`CompleteJob`."""

    error_code: str
    retryable: bool
    retention_s: float
    retry_in_s: float
    attempt: int | None = None
    error: ContentRef | None = None
    output: OutputRef = NO_OUTPUT
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class FailWaitingJob:
    """The job cannot start: it waited longer than its ``queue_timeout_s``, or its input cannot be read."""

    error_code: str
    retention_s: float


@dataclass(frozen=True, slots=True)
class ExpireLease:
    """The lease of ``attempt`` ran out."""

    attempt: int
    retention_s: float
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class ReleaseJob:
    """The worker gives the job back; no attempt is spent."""

    attempt: int | None = None
    delay_s: float = 0


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Stop it, wherever it is."""

    by: str
    retention_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RetryJob:
    """Queue a FAILED, CANCELLED or SUBMITTED job again with fresh attempts."""

    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AcceptJob:
    """Accept a submitted result."""

    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RejectJob:
    """Reject a submitted result; it spends the attempt."""

    by: str
    retention_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReprioritizeJob:
    """Change the priority of a job that is not closed."""

    by: str
    priority: int


@dataclass(frozen=True, slots=True)
class HoldArchive:
    """Legal hold on a closed job."""

    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """End a legal hold."""

    by: str


@dataclass(frozen=True, slots=True)
class RequestPurge:
    """Ask for the erasure of a closed, unheld job whose retention has passed."""

    by: str
    scope_digest: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RecordPurge:
    """Erasure is done: leave the tombstone."""

    by: str
    bytes: int
    stores: tuple[str, ...]
    reason: str = ""


JobCommand = (
    CreateJob
    | AssignJob
    | UnassignJob
    | ClaimJob
    | ChangeStage
    | CompleteJob
    | FailJob
    | FailWaitingJob
    | ExpireLease
    | ReleaseJob
    | CancelJob
    | RetryJob
    | AcceptJob
    | RejectJob
    | ReprioritizeJob
    | HoldArchive
    | ReleaseHold
    | RequestPurge
    | RecordPurge
)
