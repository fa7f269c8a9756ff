"""Heartbeats for live clients, rebuilt field by field: a worker's message never reaches a browser as it was sent.

Who speaks is taken from the subject (the credential pins it); the body only fills the fields that EVENTS.md names. There is no way to
say another ``type``, a ``seq``, or somebody else's name. What is not a heartbeat (over 16 KiB, not UTF-8 JSON, not an object, too deep)
is dropped: the next one comes in seconds.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from aura.clock import Clock, rfc3339
from aura.events import subjects
from aura.gateway.live.fanout.frames import Note

#: A larger report is not shown.
MAX_BYTES = 16 * 1024
_MAX_LEASES = 1_000
_MAX_NUMBER = 2**53
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)


def note_of(subject: str, body: bytes, clock: Clock) -> Note | None:
    """The heartbeat on ``health.aura.<model>.<worker>`` as clients see it; ``None`` for what is none."""
    tokens = subject.split(".")
    if len(tokens) != 4 or not all(subjects.NAME.match(name) for name in tokens[2:]) or len(body) > MAX_BYTES:
        return None
    try:
        sent = orjson.loads(body)
        if not isinstance(sent, dict):
            return None
        return Note(orjson.dumps(_shown(tokens[2], tokens[3], sent, clock)))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None


def _shown(model: str, worker: str, sent: dict[str, Any], clock: Clock) -> dict[str, Any]:
    payload, leases, ts = sent.get("payload"), sent.get("in_flight"), sent.get("ts")
    return {
        "type": "model.heartbeat",
        "model": model,
        "worker_id": worker,
        "payload": payload if isinstance(payload, dict) else {},
        "slots": _number(sent.get("slots"), whole=True),
        "interval_s": _number(sent.get("interval_s")),
        "in_flight": _leases(leases) if isinstance(leases, list) else [],
        "ts": ts if isinstance(ts, str) and _TIME.match(ts) else rfc3339(clock.now()),
    }


def _number(value: object, *, whole: bool = False) -> int | float | None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        return None
    return value if 0 <= value <= _MAX_NUMBER else None


def _leases(sent: list[Any]) -> list[dict[str, Any]]:
    return [
        {"job_id": lease["job_id"], "attempt": lease["attempt"]}
        for lease in sent[:_MAX_LEASES]
        if isinstance(lease, dict)
        and isinstance(lease.get("job_id"), str)
        and subjects.UUID.match(lease["job_id"])
        and _number(lease.get("attempt"), whole=True)
    ]
