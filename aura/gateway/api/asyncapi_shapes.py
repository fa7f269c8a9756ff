"""Shapes of what streams but is no event of the log: output records, heartbeats, the orchestrator's and the studio's messages, and what
``aura.v1`` says. JSON Schema; ``tests/unit/gateway/test_asyncapi.py`` holds them against what the dialects really make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
TRUTH: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
TIME: Schema = {"type": "string", "format": "date-time"}
UUID: Schema = {"type": "string", "format": "uuid"}


def _const(value: str) -> Schema:
    return {"type": "string", "const": value}


def _or_null(schema: Schema) -> Schema:
    return {"oneOf": [schema, {"type": "null"}]}


def shape(about: str, required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object: its required and its optional members."""
    return {
        "type": "object",
        "description": about,
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


_RECORD: Schema = {
    "job_id": UUID,
    "project_id": WHOLE,
    "attempt": WHOLE,
    "i": {**WHOLE, "description": "counts from 0 per attempt over all three kinds, so a hole shows"},
    "ts": TIME,
    "cursor": {**WHOLE, "description": "resume with ?from=<cursor>&after=<i>"},
}
#: Records of a job's output.
RECORDS: dict[str, Schema] = {
    "job.stream": shape("A piece of output", {"type": _const("job.stream"), **_RECORD, "chunk": TEXT, "final": TRUTH}),
    "job.log": shape("A log line", {"type": _const("job.log"), **_RECORD, "level": TEXT, "line": TEXT}),
    "job.progress": shape(
        "How far an attempt is",
        {"type": _const("job.progress"), **_RECORD, "percent": {"type": "number", "minimum": 0, "maximum": 100}},
        {"step": _or_null(TEXT), "agent": TEXT, "data": OBJECT},
    ),
}
HEARTBEATS: dict[str, Schema] = {
    "model.heartbeat": shape(
        "A worker's sign of life: live only, without a sequence",
        {
            "type": _const("model.heartbeat"),
            "model": TEXT,
            "worker_id": TEXT,
            "payload": OBJECT,
            "slots": _or_null(WHOLE),
            "interval_s": _or_null(NUMBER),
            "in_flight": {"type": "array", "items": shape("A lease", {"job_id": UUID, "attempt": WHOLE})},
            "ts": TIME,
        },
    )
}


def _told(kind: str, about: str, members: Mapping[str, Schema]) -> Schema:
    return shape(about, {"type": _const(kind), "timestamp": TIME, "session_id": TEXT, **members})


_STEP = {
    "agent": TEXT,
    "status": TEXT,
    "progress": {"type": "number", "minimum": 0, "maximum": 100},
    "data": {"description": "depends on the agent"},
}
#: The five messages of ``/ws/orchestrator/{session_id}``.
ORCHESTRATOR: dict[str, Schema] = {
    "agent_status": _told("agent_status", "An agent started or completed", _STEP),
    "progress": _told("progress", "An agent is so far", _STEP),
    "complete": _told("complete", "The workflow's result; the server closes with 1000 after it", _STEP),
    "error": _told("error", "What went wrong, in words for users", {"error": TEXT, "details": TEXT}),
    "heartbeat": _told("heartbeat", "Every 30 seconds", {"message": _const("ping")}),
}


def _studio(kind: str, about: str, required: Mapping[str, Schema], optional: Mapping[str, Schema]) -> Schema:
    return shape(about, {"type": _const(kind), "payload": shape(about, required, optional)})


_JOB = {"job_id": UUID, "project_id": WHOLE, "ts": TIME}
#: The messages of ``/ws`` without a subprotocol.
STUDIO: dict[str, Schema] = {
    "job_status": _studio(
        "job_status",
        "A job's status, model, worker or attempt changed",
        {**_JOB, "seq": WHOLE, "event": TEXT, "status": TEXT, "attempt": WHOLE},
        {
            "role": _or_null(TEXT),
            "model": _or_null(TEXT),
            "worker_id": _or_null(TEXT),
            "title": TEXT,
            "root_job_id": UUID,
            "subject": _or_null(TEXT),
        },
    ),
    "subject_stage_status": _studio(
        "subject_stage_status",
        "A stage of a subject changed",
        {**_JOB, "seq": WHOLE, "stage": TEXT, "status": TEXT},
        {"subject": _or_null(TEXT), "attempt": _or_null(WHOLE)},
    ),
    "job_progress": _studio(
        "job_progress",
        "How far a job is",
        {**_JOB, "attempt": WHOLE, "i": WHOLE, "percent": NUMBER},
        {"step": _or_null(TEXT), "agent": TEXT, "data": OBJECT},
    ),
    "job_log": _studio(
        "job_log", "A log line of a job", {**_JOB, "attempt": WHOLE, "i": WHOLE, "level": TEXT, "line": TEXT}, {}
    ),
}


def _says(op: str, about: str, members: Mapping[str, Schema]) -> Schema:
    return shape(about, {"op": _const(op), **members})


_PLACE = {"id": TEXT, "seq": WHOLE}
#: What the server says on ``aura.v1`` besides frames.
NATIVE: dict[str, Schema] = {
    "welcome": _says("welcome", "The first message", {"epoch": TEXT, "seq": WHOLE}),
    "subscribed": _says("subscribed", "A subscription begins after seq", {**_PLACE, "recovered": TRUTH}),
    "live": _says("live", "Catch-up ended", _PLACE),
    "replayed": _says("replayed", "The window ended", _PLACE),
    "unsubscribed": _says("unsubscribed", "The subscription ended", _PLACE),
    "reset": _says(
        "reset", "The cursor cannot be honoured: it goes on after seq", {**_PLACE, "epoch": TEXT, "reason": TEXT}
    ),
    "pong": _says("pong", "The answer to ping", {}),
    "error": _says("error", "What was refused, and why", {"id": _or_null(TEXT), "code": TEXT, "detail": TEXT}),
}
#: An event on ``aura.v1``. One WebSocket message is one of these, or an array of them.
FRAME: Schema = shape(
    "An event of the log at its sequence, in a replay with the replay's id; without one an output record or a heartbeat",
    {"subject": TEXT, "event": OBJECT},
    {"seq": WHOLE, "id": TEXT},
)
RESET: Schema = shape(
    "The cursor cannot be honoured: the feed goes on after seq",
    {"type": _const("reset"), "epoch": TEXT, "reason": TEXT, "seq": WHOLE},
)
