"""From rows to the shapes of API.md. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

_STATUSES = ("QUEUED", "ASSIGNED", "IN_PROGRESS", "SUBMITTED", "COMPLETED", "FAILED", "CANCELLED")
_FAILED = ("FAILED", "CANCELLED")


def prd(row: dict[str, Any]) -> dict[str, Any]:
    """A PRD with what follows from its jobs. ``progress`` is the percentage of its jobs that are over.

    ``status``: QUEUED before anything began, IN_PROGRESS while a job is open, SUBMITTED while a verdict is missing, then
    COMPLETED if all are, FAILED if any failed, else CANCELLED.
    """
    counts = {status: row[status.lower()] for status in _STATUSES}
    known = sum(counts.values())
    still_open = counts["QUEUED"] + counts["ASSIGNED"] + counts["IN_PROGRESS"]
    ended = known - still_open - counts["SUBMITTED"]
    if still_open:
        status = "QUEUED" if counts["QUEUED"] == known else "IN_PROGRESS"
    elif counts["SUBMITTED"]:
        status = "SUBMITTED"
    elif counts["FAILED"]:
        status = "FAILED"
    else:
        status = "CANCELLED" if counts["CANCELLED"] else "COMPLETED"
    return {
        "id": row["root_job_id"],
        "root_job_id": row["root_job_id"],
        "project_id": row["project_id"],
        "title": row["title"],
        "count": row["count"],
        "status": status,
        "progress": round(100 * ended / max(row["count"], 1), 1),
        "counts": {name: n for name, n in counts.items() if n},
        "created_at": row["created_at"],
        "first_seq": row["first_seq"],
    }


def projection(row: dict[str, Any], log_seq: int | None) -> dict[str, Any]:
    """A projection's status with its lag."""
    lag = max(0, log_seq - row["seq"]) if log_seq is not None and row["name"] != "health" else None
    age = float(row.pop("age_s"))
    behind = bool(lag) and row["seq"] > 0
    return {**row, "lag_events": lag, "lag_s": round(max(age, 0.0), 3) if behind else 0.0}


def grid(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Subjects × stages; ``rows`` oldest first, so that the newest job that has a stage decides. A job without stages is one
    stage, named after its task type."""
    stages: dict[str, None] = {}
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault(
            row["subject"], {"subject": row["subject"], "stages": {}, "status": row["status"], "jobs": 0}
        )
        entry["jobs"] += 1
        entry["status"] = row["status"]
        if row["stages"] or row["stage_status"]:
            named = dict.fromkeys(row["stages"] or (), "not_run") | row["stage_status"]
        else:
            named = {row["task_type"]: _as_stage(row["status"])}
        entry["stages"].update(named)
        stages.update(dict.fromkeys(named))
    return {"stages": list(stages), "subjects": sorted(found.values(), key=lambda entry: str(entry["subject"]))}


def _as_stage(status: str) -> str:
    if status in ("QUEUED", "ASSIGNED"):
        return "not_run"
    if status in _FAILED:
        return "failed"
    return "done" if status == "COMPLETED" else "running"


def model_health(model: str, history: list[dict[str, Any]], facts: dict[str, Any] | None) -> dict[str, Any]:
    """One model: its newest heartbeat, its logged facts, its history."""
    newest = history[0] if history else {"payload": {}, "reported_at": None, "status": "unknown"}
    logged = facts or {}
    return {
        "model_name": model,
        "payload": newest["payload"],
        "reported_at": newest["reported_at"],
        "status": newest["status"],
        "logged_status": logged.get("status"),
        "paused": logged.get("paused", False),
        "slots": logged.get("slots"),
        "roles": logged.get("roles", []),
        "history": history,
    }


def stats(
    counts: list[dict[str, Any]], throughput: list[dict[str, Any]], latencies: dict[str, Any] | None
) -> dict[str, Any]:
    """``{counts, total, models, throughput, latency}``; latency percentiles in seconds."""
    by_status = dict.fromkeys(_STATUSES, 0)
    models: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_STATUSES, 0))
    for row in counts:
        by_status[row["status"]] += row["n"]
        if row["model"]:
            models[row["model"]][row["status"]] += row["n"]
    minutes: dict[str, dict[str, Any]] = {}
    for row in throughput:
        minutes.setdefault(row["minute"], {"minute": row["minute"]})[row["outcome"]] = row["n"]
    hour: dict[str, int] = defaultdict(int)
    for row in throughput:
        hour[row["outcome"]] += row["n"]
    return {
        "counts": by_status,
        "total": sum(by_status.values()),
        "models": {name: _success(found) for name, found in sorted(models.items())},
        "throughput": {"last_hour": dict(hour), "per_minute": list(minutes.values())},
        "latency": _latency(latencies) if latencies is not None else None,
    }


def _success(found: dict[str, int]) -> dict[str, Any]:
    ended = found["COMPLETED"] + found["FAILED"]
    rate = round(found["COMPLETED"] / ended, 4) if ended else None
    return {"counts": {name: n for name, n in found.items() if n}, "success_rate": rate}


def _latency(row: dict[str, Any]) -> dict[str, Any]:
    def named(values: list[float] | None) -> dict[str, float] | None:
        return None if values is None else {p: round(v, 6) for p, v in zip(("p50", "p95", "p99"), values, strict=True)}

    return {
        "jobs": row["jobs"],
        "wait_s": named(row["wait"]),
        "work_s": named(row["work"]),
        "total_s": named(row["total"]),
    }
