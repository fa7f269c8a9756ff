"""The event catalogue: every event type, its own fields, its version.

A model here holds the type's *own* fields only. The stored form is one flat JSON object (``envelope.py`` adds the common fields
and the entity's ids before, ``state`` after). ``type`` and ``v`` are class constants and stable for ever (golden files pin
every version ever written, G18); an old version is brought to today's shape by ``upcasting.py`` before it is validated.

Unknown fields are ignored on read, so that version N reads what N + 1 adds. Content (prompts, payloads, results, error text) is
never here: events carry :class:`ContentRef`, ``{bytes, digest}``. Instants are RFC 3339 strings (``clock.rfc3339``), durations seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
JobId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Reason = Annotated[str, Field(max_length=200)]
TraceId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Instant = Annotated[str, Field(max_length=40)]
StageStatus = Literal["not_run", "running", "done", "failed"]
AccessRole = Literal["viewer", "worker", "operator", "auditor", "director"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class ContentRef(_Record):
    """What an event says of content: its size, its salted digest (``sha256:…``), and for results and error texts the ``part`` it is
    stored as (``result.<attempt>.<id>``): written once, so that nobody can put another text behind a committed reference."""

    bytes: int
    digest: str
    part: Annotated[str, Field(max_length=64)] | None = None


class OutputRef(_Record):
    """How many output records the attempt produced; a reader that has ``count`` of them has all."""

    count: int


class KeyRef(_Record):
    """Hashes of the idempotency key and body that created the entity; keyed hashes, so they reveal neither."""

    key: str
    body: str


class AssignReason(_Record):
    """Why this model: the policy's name, the winner's score, and whom it passed over (``model: why``)."""

    policy: str
    score: float | None = None
    rejected: tuple[str, ...] = ()


class Event(_Record):
    """Base of all own-field models. ``TYPE`` is stored; class names are not."""

    TYPE: ClassVar[str]
    V: ClassVar[int] = 1


# ---------------------------------------------------------------- job


class JobCreated(Event):
    """A task of a PRD entered the log. After it the job is QUEUED."""

    TYPE = "job.created"
    root_job_id: JobId
    index: int
    count: int
    title: str
    prd_title: str = ""
    name: str | None = None
    task_type: str
    role: str
    priority: int = 5
    labels: dict[str, str] | list[str] = Field(default_factory=dict)
    subject: str | None = None
    stages: list[str] = Field(default_factory=list)
    depends_on: list[JobId] = Field(default_factory=list)
    session_id: str | None = None
    max_attempts: int = 3
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    run_at: Instant | None = None
    concurrency_key: str | None = None
    idempotency_key: KeyRef | None = None
    trace_id: TraceId | None = None
    input: ContentRef | None = None


class JobAssigned(Event):
    """The scheduler (or an operator) gave the job to a pool; the subject carries the model as a routing token."""

    TYPE = "job.assigned"
    assigned_model: Name
    term: int = 0
    reason: AssignReason


class JobUnassigned(Event):
    """Taken back from a pool before any claim."""

    TYPE = "job.unassigned"
    reason: Reason


class JobClaimed(Event):
    """An attempt begins. ``attempt`` is the fencing token."""

    TYPE = "job.claimed"
    worker_id: Name
    attempt: int
    lease_ttl_s: float
    assigned_model: Name | None = None
    holder: Annotated[str, Field(max_length=100)] | None = None
    """Over authenticated HTTP: who claimed, and alone may speak for the attempt. On NATS that is the worker itself."""


class JobStageChanged(Event):
    """One stage of a pipeline moved."""

    TYPE = "job.stage_changed"
    attempt: int
    stage: str
    status: StageStatus


class JobCompleted(Event):
    """The attempt succeeded."""

    TYPE = "job.completed"
    attempt: int
    success: Literal[True] = True
    result: ContentRef | None = None
    output: OutputRef = OutputRef(count=0)
    retention_until: Instant


class JobSubmitted(Event):
    """Handed in with ``success: false``: waits for a verdict."""

    TYPE = "job.submitted"
    attempt: int
    success: Literal[False] = False
    result: ContentRef | None = None
    output: OutputRef = OutputRef(count=0)
    retention_until: Instant


class JobAccepted(Event):
    """A submitted result was accepted."""

    TYPE = "job.accepted"
    by: str
    reason: Reason = ""


class JobRejected(Event):
    """A submitted result was rejected: queued again, or FAILED when ``retention_until`` stands."""

    TYPE = "job.rejected"
    by: str
    reason: Reason = ""
    retention_until: Instant | None = None


class JobFailed(Event):
    """The attempt (or the wait for one) failed: queued again at ``next_run_at``, or FAILED when ``retention_until`` stands."""

    TYPE = "job.failed"
    attempt: int
    error_code: str
    retryable: bool
    next_run_at: Instant | None = None
    retention_until: Instant | None = None
    error: ContentRef | None = None
    output: OutputRef = OutputRef(count=0)


class JobLeaseExpired(Event):
    """The worker of the attempt was not heard of for a whole lease."""

    TYPE = "job.lease_expired"
    worker_id: Name
    attempt: int
    next_run_at: Instant | None = None
    retention_until: Instant | None = None


class JobReleased(Event):
    """Given back unharmed (worker shut down, or snoozed); no attempt is spent."""

    TYPE = "job.released"
    worker_id: Name
    attempt: int
    delay_s: float = 0
    next_run_at: Instant | None = None


class JobRetried(Event):
    """An operator queued a closed job again; withdraws it from the archive."""

    TYPE = "job.retried"
    by: str
    reason: Reason = ""


class JobReprioritized(Event):
    """The priority changed (0 first, 9 last)."""

    TYPE = "job.reprioritized"
    by: str
    priority: int


class JobCancelled(Event):
    """Cancelled by a person or because a dependency failed."""

    TYPE = "job.cancelled"
    by: str
    reason: Reason = ""
    retention_until: Instant


class JobLateResultRejected(Event):
    """A result of an attempt that no longer holds the lease; the result itself is not kept."""

    TYPE = "job.late_result_rejected"
    worker_id: str
    attempt: int
    current_attempt: int


class ArchiveHeld(Event):
    """Legal hold: not purgeable."""

    TYPE = "archive.held"
    by: str
    reason: Reason = ""


class ArchiveHoldReleased(Event):
    """The hold ended."""

    TYPE = "archive.hold_released"
    by: str


class ArchivePurgeRequested(Event):
    """The director asked for erasure; from here the job cannot be retried and erasure is resumed until it is done."""

    TYPE = "archive.purge_requested"
    by: str
    reason: Reason = ""
    scope_digest: str


class ArchivePurged(Event):
    """The tombstone: content, output and keys are gone."""

    TYPE = "archive.purged"
    by: str
    reason: Reason = ""
    bytes: int
    stores: list[str]


# ---------------------------------------------------------------- model


class ModelRegistered(Event):
    """First seen, or its declaration changed."""

    TYPE = "model.registered"
    roles: list[str] = Field(default_factory=list)
    slots: int = 1
    labels: dict[str, str] = Field(default_factory=dict)


class ModelOnline(Event):
    """At least one worker is heartbeating."""

    TYPE = "model.online"


class ModelDegraded(Event):
    """Heartbeats arrive but report trouble."""

    TYPE = "model.degraded"
    reason: Reason


class ModelOffline(Event):
    """No worker heard of for three intervals."""

    TYPE = "model.offline"
    reason: Reason
    last_seen: Instant | None = None


class ModelPaused(Event):
    """An operator stopped new assignments."""

    TYPE = "model.paused"
    by: str


class ModelResumed(Event):
    """Assignments may go on."""

    TYPE = "model.resumed"
    by: str


# ---------------------------------------------------------------- session


class SessionStarted(Event):
    """A workflow began, or (a later ``attempt``) its retried job began it again. ``job_id`` is the job that runs it."""

    TYPE = "session.started"
    workflow: str
    job_id: JobId | None = None
    attempt: int | None = None
    input: ContentRef | None = None


class SessionAgentStarted(Event):
    """An agent took over."""

    TYPE = "session.agent_started"
    agent: str
    attempt: int | None = None


class SessionAgentCompleted(Event):
    """An agent handed back."""

    TYPE = "session.agent_completed"
    agent: str
    attempt: int | None = None
    duration_ms: int
    output: ContentRef | None = None


class SessionAgentFailed(Event):
    """An agent failed or timed out (``error_code`` tells which). ``message`` is for the workflow's user."""

    TYPE = "session.agent_failed"
    agent: str
    attempt: int | None = None
    error_code: str
    message: Reason | None = None


class SessionCompleted(Event):
    """The workflow ended well. ``output`` is its job's result."""

    TYPE = "session.completed"
    output: ContentRef | None = None


class SessionFailed(Event):
    """The workflow ended badly. ``message`` is for its user."""

    TYPE = "session.failed"
    error_code: str
    message: Reason | None = None


class SessionCancelled(Event):
    """The workflow was cancelled."""

    TYPE = "session.cancelled"
    by: str
    reason: Reason | None = None


# ---------------------------------------------------------------- system


class SystemLeaderElected(Event):
    """A new leader: ``role`` is ``scheduler``, ``projector`` …"""

    TYPE = "system.leader_elected"
    role: str
    term: int
    holder: str


class SystemProjectionRebuilt(Event):
    """A rebuilt projection was switched in. ``at_seq``, not ``seq``: readers put the event's own sequence under that name (ADR 0008)."""

    TYPE = "system.projection_rebuilt"
    projection: str
    version: int
    at_seq: int
    rows: int
    differences: int


class SystemAlertRaised(Event):
    """Something needs a person."""

    TYPE = "system.alert_raised"
    alert: str = Field(alias="code", serialization_alias="code")
    severity: Literal["info", "warning", "critical"]
    entity: str

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, defer_build=True)


class SystemAlertCleared(Event):
    """It no longer does."""

    TYPE = "system.alert_cleared"
    alert: str = Field(alias="code", serialization_alias="code")
    entity: str

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, defer_build=True)


class SystemRetentionChanged(Event):
    """The default retention changed."""

    TYPE = "system.retention_changed"
    by: str
    days: float


class SystemAccessDenied(Event):
    """An authenticated refusal; one per actor, action and minute, with a count."""

    TYPE = "system.access_denied"
    denied_actor: str
    action: str
    target: str
    count: int = 1


class SystemKeyIssued(Event):
    """An API key lets its holder in. ``digest`` is SHA-256 of the key, which itself is nowhere; no ``projects`` = all of them."""

    TYPE = "system.key_issued"
    key_id: Name
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    role: AccessRole
    projects: list[int] | None = None
    label: Annotated[str, Field(max_length=64)] = ""
    expires_at: Instant | None = None
    by: str


class SystemKeyRevoked(Event):
    """It lets nobody in any more."""

    TYPE = "system.key_revoked"
    key_id: Name
    by: str
    reason: Reason = ""


JobEvent = (
    JobCreated
    | JobAssigned
    | JobUnassigned
    | JobClaimed
    | JobStageChanged
    | JobCompleted
    | JobSubmitted
    | JobAccepted
    | JobRejected
    | JobFailed
    | JobLeaseExpired
    | JobReleased
    | JobRetried
    | JobReprioritized
    | JobCancelled
    | JobLateResultRejected
    | ArchiveHeld
    | ArchiveHoldReleased
    | ArchivePurgeRequested
    | ArchivePurged
)
ModelEvent = ModelRegistered | ModelOnline | ModelDegraded | ModelOffline | ModelPaused | ModelResumed
SessionEvent = (
    SessionStarted
    | SessionAgentStarted
    | SessionAgentCompleted
    | SessionAgentFailed
    | SessionCompleted
    | SessionFailed
    | SessionCancelled
)
SystemEvent = (
    SystemLeaderElected
    | SystemProjectionRebuilt
    | SystemAlertRaised
    | SystemAlertCleared
    | SystemRetentionChanged
    | SystemAccessDenied
    | SystemKeyIssued
    | SystemKeyRevoked
)
KeyEvent = SystemKeyIssued | SystemKeyRevoked


def _members(union: Any) -> tuple[type[Event], ...]:
    members: tuple[type[Event], ...] = union.__args__
    return members


#: type name → model, for every event of the catalogue.
CATALOGUE: Mapping[str, type[Event]] = MappingProxyType(
    {cls.TYPE: cls for union in (JobEvent, ModelEvent, SessionEvent, SystemEvent) for cls in _members(union)}
)
JOB_EVENTS: frozenset[type[Event]] = frozenset(_members(JobEvent))
MODEL_EVENTS: frozenset[type[Event]] = frozenset(_members(ModelEvent))
SESSION_EVENTS: frozenset[type[Event]] = frozenset(_members(SessionEvent))
