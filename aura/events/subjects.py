"""Every NATS subject that Aura uses, built and parsed here and nowhere else.

Tokens come from closed sets (event names), server-made ids (UUIDs), integers, and names that match ``NAME``. User text never
becomes a token: ``*``, ``>``, ``a.b``, ``$JS.API…``, control characters and 5,000-character names raise
:class:`~aura.errors.InvalidRequest` in the ``check_*`` functions, which every edge calls.

Grammar (committed space; writers publish the same subject behind ``append.``)::

    aura.job.<project>.<job_id>.<event>
    aura.job.<project>.<job_id>.assigned.<model>
    aura.job.<project>.<job_id>.archive.<event>
    aura.model.<model>.<event>
    aura.session.<project>.<session_id>.<event>
    aura.system.<event>
    aura.system.key.<key_id>.<issued|revoked>
    aura.output.<project>.<job_id>.<attempt>.<stream|log|progress>
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from aura.errors import InvalidRequest

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
MAX_PROJECT = 2**31 - 1

#: The committed space of the log: what a reader of every lifecycle event subscribes to.
LOG_SUBJECTS = ("aura.job.>", "aura.model.>", "aura.session.>", "aura.system.>")
OUTPUT_SUBJECT = "aura.output.>"
#: Everything a gateway relays: the log, output, and heartbeats.
EVERYTHING = (*LOG_SUBJECTS, OUTPUT_SUBJECT, "health.aura.>")
APPEND_PREFIX = "append."

EntityKind = Literal["job", "model", "session", "system"]
OutputKind = Literal["stream", "log", "progress"]
OUTPUT_KINDS: tuple[OutputKind, ...] = ("stream", "log", "progress")
ContentPart = Literal["input", "result", "error"]
ReportPart = Literal["result", "error"]


def check_name(value: object, field: str) -> str:
    """A model, worker or session name: 1–64 of ``A-Za-z0-9_-``. Raises ``InvalidRequest`` naming ``field``."""
    if not isinstance(value, str) or not NAME.match(value):
        raise InvalidRequest(f"{field} must be 1 to 64 characters of A-Z, a-z, 0-9, '_' or '-'", field=field)
    return value


def check_job_id(value: object, field: str = "job_id") -> str:
    """A canonical lower-case UUID. Raises ``InvalidRequest``."""
    if not isinstance(value, str) or not UUID.match(value):
        raise InvalidRequest(f"{field} must be a UUID in lower case", field=field)
    return value


def check_project(value: object, field: str = "project_id") -> int:
    """A project id: an integer from 1 to 2^31 - 1. Raises ``InvalidRequest``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_PROJECT:
        raise InvalidRequest(f"{field} must be an integer from 1 to {MAX_PROJECT}", field=field)
    return value


@dataclass(frozen=True, slots=True)
class Subject:
    """A committed log subject taken apart. ``entity`` is the job id, model, session id, API key's id, or ``""`` for the system."""

    kind: EntityKind
    project: int | None
    entity: str
    type: str
    """The event type, for example ``job.assigned`` or ``archive.purged``."""
    model: str | None = None
    """The routing token of an assignment."""


def parse(subject: str) -> Subject:
    """Take a committed log subject apart. Raises ``ValueError`` for anything the grammar does not produce."""
    tokens = subject.split(".")
    match tokens:
        case ["aura", "job", project, job_id, "assigned", model]:
            return Subject("job", int(project), job_id, "job.assigned", model)
        case ["aura", "job", project, job_id, "archive", event]:
            return Subject("job", int(project), job_id, f"archive.{event}")
        case ["aura", "job", project, job_id, event]:
            return Subject("job", int(project), job_id, f"job.{event}")
        case ["aura", "model", model, event]:
            return Subject("model", None, model, f"model.{event}")
        case ["aura", "session", project, session_id, event]:
            return Subject("session", int(project), session_id, f"session.{event}")
        case ["aura", "system", "key", key_id, event]:
            return Subject("system", None, key_id, f"system.key_{event}")
        case ["aura", "system", event]:
            return Subject("system", None, "", f"system.{event}")
        case _:
            raise ValueError(f"not a subject of the log: {subject!r}")


def job_event(project: int, job_id: str, type_: str, *, model: str | None = None) -> str:
    """The subject of a job event. ``type_`` is a catalogue type (``job.created``, ``archive.held``)."""
    kind, _, name = type_.partition(".")
    if kind == "archive":
        return f"aura.job.{project}.{job_id}.archive.{name}"
    if type_ == "job.assigned":
        return f"aura.job.{project}.{job_id}.assigned.{check_name(model, 'assigned_model')}"
    return f"aura.job.{project}.{job_id}.{name}"


def job_guard(project: int, job_id: str) -> str:
    """The one spelling of a job's guard: every writer of the job uses exactly this string."""
    return f"aura.job.{project}.{job_id}.>"


def job_anywhere(job_id: str) -> str:
    """Finds a job whose project is not known. For reading only, never a guard."""
    return f"aura.job.*.{job_id}.>"


def model_event(model: str, type_: str) -> str:
    """The subject of a model event."""
    return f"aura.model.{model}.{type_.removeprefix('model.')}"


def model_guard(model: str) -> str:
    """The one spelling of a model's guard."""
    return f"aura.model.{model}.>"


def session_event(project: int, session_id: str, type_: str) -> str:
    """The subject of a session event."""
    return f"aura.session.{project}.{session_id}.{type_.removeprefix('session.')}"


def session_guard(project: int, session_id: str) -> str:
    """The one spelling of a session's guard."""
    return f"aura.session.{project}.{session_id}.>"


def system_event(type_: str) -> str:
    """The subject of a system event."""
    return f"aura.system.{type_.removeprefix('system.')}"


def key_event(key_id: str, type_: str) -> str:
    """The subject of an API key's event (``system.key_issued``, ``system.key_revoked``)."""
    return f"aura.system.key.{key_id}.{type_.removeprefix('system.key_')}"


def key_guard(key_id: str) -> str:
    """The one spelling of an API key's guard."""
    return f"aura.system.key.{key_id}.>"


#: Every API key's events.
KEY_EVENTS = "aura.system.key.>"


def append_subject(committed: str) -> str:
    """Where a writer publishes so that the stream stores ``committed``."""
    return APPEND_PREFIX + committed


def output(project: int, job_id: str, attempt: int, kind: OutputKind) -> str:
    """The committed subject of one kind of output of one attempt."""
    return f"aura.output.{project}.{job_id}.{attempt}.{kind}"


def output_append(committed: str) -> str:
    """Where output is published, ``append.output.…``, that is stored and republished as :func:`output`."""
    return APPEND_PREFIX + committed.removeprefix("aura.")


def output_guard(project: int, job_id: str, attempt: int) -> str:
    """The guard of one attempt's output: one writer, in order."""
    return f"aura.output.{project}.{job_id}.{attempt}.>"


@dataclass(frozen=True, slots=True)
class OutputSubject:
    """An output subject taken apart."""

    project: int
    job_id: str
    attempt: int
    kind: OutputKind


@lru_cache(maxsize=4096)
def parse_output(subject: str) -> OutputSubject:
    """Inverse of :func:`output`. Raises ``ValueError``. What an attempt says comes in thousands of messages of one subject."""
    tokens = subject.split(".")
    if len(tokens) != 6 or tokens[:2] != ["aura", "output"]:
        raise ValueError(f"not an output subject: {subject!r}")
    for kind in OUTPUT_KINDS:
        if kind == tokens[5]:
            return OutputSubject(int(tokens[2]), tokens[3], int(tokens[4]), kind)
    raise ValueError(f"not an output subject: {subject!r}")


def content(project: int, job_id: str, part: str) -> str:
    """Where a part of a job's content is stored (stream ``AURA_CONTENT``): ``input``, or what :func:`report_part` made."""
    return f"content.aura.{project}.{job_id}.{part}"


def report_part(part: ReportPart, attempt: int, unique: str) -> str:
    """The part under which one attempt's result or error text is stored, once; named by the event's reference."""
    return f"{part}.{attempt}.{unique}"


def pool_filter(model: str) -> str:
    """What a pool's durable consumer selects from the log."""
    return f"aura.job.*.*.assigned.{check_name(model, 'model')}"


def pool_durable(model: str) -> str:
    """The name of a pool's durable consumer."""
    return f"pool_{check_name(model, 'model')}"


def health(model: str, worker: str) -> str:
    """Where a worker's heartbeats go (stream ``AURA_HEALTH``)."""
    return f"health.aura.{model}.{worker}"


def worker_command(worker_id: str, name: str) -> str:
    """A worker's command; its credential pins the subject, and that is its identity."""
    return f"cmd.aura.worker.{worker_id}.{name}"


def admin_command(name: str) -> str:
    """An operator's command."""
    return f"cmd.aura.admin.{name}"


#: Core subject on which checked lease renewals reach the scheduler's leader.
LEASE_RENEWED = "lease.aura.renewed"
