"""The monitoring studio's messages, ``{"type","payload"}``: ``job_status``, ``subject_stage_status``, ``job_progress``, ``job_log``. Pure.

Live only: whoever connects asks the HTTP API for what is, and is told here what changes. A job's events do not repeat its subject, so
whoever translates a stage must say which subject it is of (``relay_studio`` remembers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Events after which a job's status, model, worker or attempt may be another.
_NO_STATUS = frozenset({"job.stage_changed", "job.reprioritized", "job.late_result_rejected"})

Message = dict[str, Any]


def _message(kind: str, payload: dict[str, Any]) -> Message:
    return {"type": kind, "payload": payload}


def needs_subject(flat: Mapping[str, Any]) -> bool:
    """Whether :func:`of_event` wants to know the job's subject."""
    return flat.get("type") == "job.stage_changed"


def of_event(flat: Mapping[str, Any], subject: str | None) -> list[Message]:
    """What one event of a job (with its ``seq``) says. ``subject`` is the job's."""
    kind = flat.get("type")
    common = {name: flat.get(name) for name in ("job_id", "project_id", "ts", "seq")}
    if kind == "job.stage_changed":
        stage = {"subject": subject, "stage": flat.get("stage"), "status": flat.get("status")}
        return [_message("subject_stage_status", {**common, **stage, "attempt": flat.get("attempt")})]
    state = flat.get("state")
    if not isinstance(kind, str) or kind in _NO_STATUS or not kind.startswith("job.") or not isinstance(state, Mapping):
        return []
    status: dict[str, Any] = {
        **common,
        "event": kind,
        "status": state.get("status"),
        "role": state.get("role"),
        "model": state.get("model"),
        "worker_id": state.get("worker"),
        "attempt": state.get("attempt", 0),
    }
    if kind != "job.created":
        return [_message("job_status", status)]
    status |= {name: flat.get(name) for name in ("title", "root_job_id", "subject")}
    stages = flat.get("stages") if subject is not None else None
    return [
        _message("job_status", status),
        *(
            _message(
                "subject_stage_status",
                {**common, "subject": subject, "stage": stage, "status": "not_run", "attempt": None},
            )
            for stage in (stages if isinstance(stages, list) else [])
        ),
    ]


def of_record(flat: Mapping[str, Any]) -> Message | None:
    """What a record of output says (as ``taps.flat_record`` makes it)."""
    match flat.get("type"):
        case "job.progress":
            kind = "job_progress"
        case "job.log":
            kind = "job_log"
        case _:
            return None
    return _message(kind, {name: value for name, value in flat.items() if name not in ("type", "cursor")})
