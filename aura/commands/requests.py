"""The shapes of requests, shared by HTTP and NATS: validated here, once, before anything else happens.

Every string has a bound and a character set. Names that could become subject tokens match ``subjects.NAME``; free text
(titles, reasons) refuses control characters and Unicode bidi overrides, which forge logs and screens. Unknown fields are refused,
so that a misspelt option is an error and not a surprise.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from aura.domain.access_key import MAX_PROJECTS
from aura.errors import InvalidRequest
from aura.events.catalogue import AccessRole, StageStatus
from aura.events.limits import MAX_DATA
from aura.events.subjects import MAX_PROJECT, NAME, UUID

#: C0/C1 controls, line and paragraph separators, and the bidi controls of UAX #9.
_UNSAFE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u200e\\u200f\\u061c\\u202a-\\u202e\\u2066-\\u2069]|[\\ud800-\\udfff]"
)
MAX_TASKS = 1_000
MAX_CHUNK = 256 * 1024
MAX_STRATEGY = 4_000
#: How deep arrays and objects of a payload or of details may be nested.
MAX_DEPTH = 64

T = TypeVar("T", bound=BaseModel)


def _text(value: str) -> str:
    if _UNSAFE.search(value):
        raise ValueError("control characters, line breaks and bidi controls are not allowed")
    return value


def _worded(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _distinct(value: list[str]) -> list[str]:
    if len(set(value)) < len(value):
        raise ValueError("the same name twice")
    return value


def _no_nul(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("not valid Unicode") from error
    return value


def _name(value: str) -> str:
    if not NAME.match(value):
        raise ValueError("must be 1 to 64 characters of A-Z, a-z, 0-9, '_' or '-'")
    return value


def _job_id(value: str) -> str:
    if not UUID.match(value):
        raise ValueError("must be a UUID in lower case")
    return value


def _shallow(value: Any) -> Any:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _small(value: dict[str, Any]) -> dict[str, Any]:
    _shallow(value)
    try:
        size = len(orjson.dumps(value))
    except (orjson.JSONEncodeError, TypeError, RecursionError) as error:
        raise ValueError("not JSON that can be stored") from error
    if size > MAX_DATA:
        raise ValueError(f"is {size} bytes; the limit is {MAX_DATA}")
    return value


Json = Annotated[Any, AfterValidator(_shallow)]
Name = Annotated[str, AfterValidator(_name)]
JobId = Annotated[str, AfterValidator(_job_id)]
Title = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_text), AfterValidator(_worded)]
Seconds = Annotated[float, Field(gt=0, strict=True)]
Reason = Annotated[str, Field(max_length=200), AfterValidator(_text)]
Role = Annotated[str, AfterValidator(_name)]
TaskType = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,64}$")]
Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Project = Annotated[int, Field(ge=1, le=MAX_PROJECT, strict=True)]
Attempt = Annotated[int, Field(ge=1, le=2**31 - 1)]
Output = Annotated[str, Field(max_length=MAX_CHUNK), AfterValidator(_no_nul)]
Labels = dict[Name, Name] | list[Name]


class Request(BaseModel):
    """Base: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Report(Request):
    """What workers say: nothing is taken for what it only resembles (``"yes"`` is no truth value)."""

    model_config = ConfigDict(strict=True)


class Task(Request):
    """One task of a PRD. ``depends_on`` names other tasks by index (0 …) or by ``name``; durations are seconds."""

    type: TaskType = "task"
    role: Role = "Employee"
    payload: Json = None
    name: Name | None = None
    title: Title | None = None
    priority: Annotated[int, Field(ge=0, le=9, strict=True)] = 5
    depends_on: Annotated[list[Annotated[int, Field(ge=0, strict=True)] | Name], Field(max_length=512)] = []
    max_attempts: Annotated[int, Field(ge=1, le=100, strict=True)] = 3
    timeout_s: Annotated[Seconds, Field(le=7 * 86_400)] | None = None
    queue_timeout_s: Annotated[Seconds, Field(le=30 * 86_400)] | None = None
    run_at: AwareDatetime | None = None
    subject: Name | None = None
    stages: Annotated[list[Name], Field(max_length=64), AfterValidator(_distinct)] = []
    labels: Annotated[Labels, Field(max_length=16)] = {}
    concurrency_key: Name | None = None
    session_id: Name | None = None


class Submit(Request):
    """A PRD: 1 to 1,000 tasks, stored all or none."""

    project_id: Project = 1
    title: Title
    tasks: Annotated[list[Task], Field(min_length=1, max_length=MAX_TASKS)]


class Assign(Request):
    """Give a job to a pool by hand."""

    assigned_model: Name


class Claim(Request):
    """Start an attempt. The lease runs ``lease_ttl_s`` seconds after each heartbeat. ``offered``: answers an assignment that the pool
    delivered to the pool ``model``, and is refused if that was taken back meanwhile (pool paused, concurrency key busy) or the job
    was given to another pool."""

    worker_id: Name
    lease_ttl_s: Annotated[float, Field(ge=5, le=3_600)] | None = None
    model: Name | None = None
    offered: bool = False

    @model_validator(mode="after")
    def _offered_to_a_pool(self) -> Claim:
        if self.offered and self.model is None:
            raise ValueError("who answers an offer names its pool ('model')")
        return self


class Heartbeat(Report):
    """Renew a lease."""

    attempt: Attempt | None = None


class Lease(Report):
    """An attempt that a worker says it is working on."""

    job_id: JobId
    attempt: Attempt


class Heartbeats(Report):
    """All leases of a worker at once."""

    in_flight: Annotated[list[Lease], Field(max_length=10_000)] = []


class Hello(Request):
    """A worker introduces its pool."""

    model: Name
    slots: Annotated[int, Field(ge=1, le=10_000)] = 1
    roles: Annotated[list[Role], Field(max_length=8)] = []
    interval_s: Annotated[float, Field(gt=0, le=3_600)] | None = None


class Stream(Report):
    """A piece of output text."""

    chunk: Output
    final: bool = False
    attempt: Attempt | None = None


class Log(Report):
    """One log line."""

    line: Output
    level: Literal["DEBUG", "INFO", "PROGRESS", "SUCCESS", "WARNING", "ERROR"] = "INFO"
    attempt: Attempt | None = None


class Progress(Report):
    """How far, and what is being done; in a workflow by which ``agent``, with ``data`` for whoever watches (a JSON object)."""

    percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
    step: Annotated[str, Field(max_length=300), AfterValidator(_text)] = ""
    agent: Name | None = None
    data: Annotated[dict[str, Any], AfterValidator(_small)] | None = None
    attempt: Attempt | None = None


class Stage(Report):
    """One stage of a pipeline moved."""

    stage: Name
    status: StageStatus
    attempt: Attempt | None = None


class Complete(Report):
    """Hand in a result. ``output_count`` is what the SDK wrote; without it the output log is asked."""

    success: bool
    details: Json = None
    attempt: Attempt | None = None
    output_count: Annotated[int, Field(ge=0)] | None = None


class Fail(Report):
    """The attempt failed. ``reason`` is content: kept encrypted with the job, never in an event."""

    reason: Output = ""
    error_code: Code = "worker_error"
    retryable: bool = True
    attempt: Attempt | None = None
    output_count: Annotated[int, Field(ge=0)] | None = None


class Release(Report):
    """Give the job back unharmed, optionally not to be run again for ``delay_s`` seconds."""

    delay_s: Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False)] = 0
    attempt: Attempt | None = None


class Because(Request):
    """Commands that take only a reason: cancel, retry, accept, reject, hold, purge."""

    reason: Reason = ""


class SessionReport(Report):
    """What the worker of a workflow says of its session. ``workflow`` goes with ``started``, ``agent`` with the others; ``output`` is any
    JSON and content; ``message`` is shown to the workflow's user and kept in the log."""

    attempt: Attempt
    session_id: Name | None = None
    event: Literal["started", "agent_started", "agent_completed", "agent_failed"]
    workflow: Name | None = None
    agent: Name | None = None
    duration_ms: Annotated[int, Field(ge=0, le=2**53)] | None = None
    output: Json = None
    error_code: Code = "agent_failed"
    message: Reason = ""

    @model_validator(mode="after")
    def _complete(self) -> SessionReport:
        if self.event != "started" and (self.agent is None or self.session_id is None):
            raise ValueError("what is said of an agent names it ('agent') and its session ('session_id')")
        return self


class CancelSession(Request):
    """Cancel a session. ``project_id`` where several projects have one of that name."""

    project_id: Project | None = None
    reason: Reason = ""


class RunWorkflow(Request):
    """Start a workflow with any JSON as its input."""

    project_id: Project = 1
    session_id: Name
    workflow: Name
    input: Json = None


class NoArguments(Request):
    """Nothing."""


class IssueKey(Request):
    """Make an API key. ``projects`` left out: all of them, those to come included."""

    role: AccessRole
    projects: Annotated[list[Project], Field(min_length=1, max_length=MAX_PROJECTS)] | None = None
    label: Annotated[str, Field(max_length=64), AfterValidator(_text)] = ""
    expires_at: AwareDatetime | None = None


class Reprioritize(Request):
    """0 runs first, 9 last."""

    priority: Annotated[int, Field(ge=0, le=9)]


class Bulk(Request):
    """Cancel or retry many jobs, named by id."""

    action: Literal["cancel", "retry"]
    ids: Annotated[list[JobId], Field(min_length=1, max_length=1_000)]
    reason: Reason = ""


class ModelHeartbeat(BaseModel):
    """A model's report. Any further fields (``uptime``, ``mem_mb``, ``gpu_mem_mb`` …) are its payload, at most 64 of them."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    status: Annotated[str, Field(max_length=64), AfterValidator(_text)] = "ok"
    worker_id: Name = "http"
    slots: Annotated[int, Field(ge=1, le=10_000)] = 1
    interval_s: Annotated[float, Field(gt=0, le=3_600)] | None = None
    roles: Annotated[list[Role], Field(max_length=8)] = []


def stored_json(value: Any, field: str) -> bytes:
    """``value`` as JSON that can be stored and read back. Raises ``InvalidRequest`` naming ``field``."""
    try:
        return orjson.dumps(value)
    except (orjson.JSONEncodeError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"{field} is not JSON that can be stored", field=field) from error


def parse(model: type[T], params: object) -> T:
    """Validate ``params``. Raises ``InvalidRequest`` that names the first culprit and the rule, never echoes the value."""
    try:
        return model.model_validate(params)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or NAME.match(str(part)))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InvalidRequest(f"{where or 'body'}: {first['msg']}{more}", field=where or None) from error
