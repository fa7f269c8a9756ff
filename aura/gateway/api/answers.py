"""The shapes of answers, for the documentation: handlers answer what commands and read models return, unvalidated.

Every shape allows further fields: clients must ignore what they do not know.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow", defer_build=True)


class Problem(_Answer):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(description="Stable; what clients match")
    trace_id: str


class Submitted(_Answer):
    """A PRD was stored."""

    root_job_id: str
    job_ids: list[str]
    message: str
    seq: int


class Committed(_Answer):
    """A command on a job was committed (or was already so)."""

    job_id: str
    status: str | None = None
    seq: int


class Assigned(_Answer):
    """A job was given to a pool."""

    job_id: str
    assigned_model: str
    seq: int


class Claimed(_Answer):
    """An attempt began. ``attempt`` is the fencing token of everything the worker says about it."""

    job_id: str
    project_id: int
    worker: str
    attempt: int
    lease_ttl_s: float
    assigned_model: str | None
    payload: Any
    seq: int
    traceparent: str | None = None


class Renewed(_Answer):
    """A lease was renewed, or the job was cancelled."""

    job_id: str
    cancelled: bool
    status: str
    seq: int


class Ok(_Answer):
    """It is done."""

    ok: bool


class Selected(_Answer):
    """Which jobs a bulk action would touch, as of ``seq``."""

    action: str
    ids: list[str]
    count: int
    seq: int
    more: bool = Field(description="Whether the filter matches more than fit in one action")


class Job(_Answer):
    """A job as the read model has it."""

    id: str
    project_id: int
    role: str
    assigned_model: str | None
    status: str
    created_at: str


class Prd(_Answer):
    """A PRD; status and progress are derived from its jobs."""

    root_job_id: str
    project_id: int
    title: str


class Archive(_Answer):
    """A closed job."""

    id: str
    project_id: int
    final_status: str
    archived_at: str
    retention_until: str | None


class SessionAgent(_Answer):
    """An agent's newest run. ``INTERRUPTED``: its worker was gone, or the session over, before it ended."""

    agent: str
    status: str = Field(description="RUNNING, COMPLETED, FAILED or INTERRUPTED")
    attempt: int
    started_at: str | None
    duration_ms: int | None
    error_code: str | None
    message: str | None
    output_bytes: int | None


class Session(_Answer):
    """One run of an agent workflow; alone (not in a list) with ``result``, and each agent's ``output`` up to 64 KiB."""

    session_id: str
    project_id: int
    workflow: str
    status: str = Field(description="RUNNING, COMPLETED, FAILED or CANCELLED")
    job_id: str
    attempt: int
    agents: list[SessionAgent]
    started_at: str
    ended_at: str | None
    duration_ms: int | None
    error_code: str | None
    message: str | None


class SessionCommitted(_Answer):
    """A command on a session was committed (or was already so)."""

    session_id: str
    project_id: int
    job_id: str
    status: str
    seq: int


class ModelHealth(_Answer):
    """A model as its newest heartbeat says."""

    model_name: str
    payload: dict[str, Any]
    reported_at: str
    status: str


class Event(_Answer):
    """A committed event: flat JSON with its sequence."""

    seq: int
    type: str


class Result(_Answer):
    """What the attempt handed in."""

    job_id: str
    status: str
    attempt: int
    details: Any
    error: Any


class Projection(_Answer):
    """How far a read model is."""

    name: str


class Version(_Answer):
    """Which software, which log."""

    version: str
    epoch: str


class Ready(_Answer):
    """Whether everything we depend on answers."""

    ready: bool
    checks: dict[str, str] | None = None


class Caller(_Answer):
    """Who one is to the gateway. ``projects`` null: all."""

    actor: str
    roles: list[str]
    projects: list[int] | None
    actions: list[str]
    modes: list[str]
    key_id: str | None = None
    expires_at: str | None = None


class AccessKey(_Answer):
    """What is known of an API key."""

    key_id: str
    role: str
    projects: list[int] | None
    label: str
    actor: str
    status: str = Field(description="active, expired or revoked")
    issued_at: str
    issued_by: str
    expires_at: str | None
    revoked_at: str | None


class IssuedKey(AccessKey):
    """The only answer that holds the key itself."""

    key: str
    seq: int


class Ticket(_Answer):
    """The first message of a live connection: ``{"op":"auth","ticket":"…"}``."""

    ticket: str
    expires_in_s: int


class WorkflowRunning(_Answer):
    """A workflow that goes on."""

    status: str
    session_id: str
    job_id: str
    seq: int


class WorkflowDone(WorkflowRunning):
    """A workflow's result, flat: besides these, whatever the workflow found. ``status`` is ``success``."""


ANYTHING: dict[str, Any] = {"type": "object"}
TEXT: dict[str, Any] = {"type": "string"}


def array(of: type[BaseModel]) -> dict[str, Any]:
    """A JSON array of a documented shape."""
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{of.__name__}"}, "x-model": of}
