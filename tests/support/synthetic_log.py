"""A big log, quickly: the bytes of real events as templates, without deciders or validation. For benches and sizing tests.

``events(n)`` gives 4 events for each of ``n`` jobs (created, assigned, claimed, then completed / failed / …), a window of jobs
open at any time, spread over projects, roles and titles; a share of the jobs stays open.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import orjson

from aura.ids import derived
from aura.log.store import Recorded

ROLES = {"Employee": "employee_ollama", "Validator": "validator_service", "Auditor": "auditor_service"}
WORDS = (
    "build",
    "test",
    "lint",
    "chart",
    "deploy",
    "review",
    "parse",
    "index",
    "train",
    "render",
    "count",
    "merge",
    "sync",
    "scan",
    "draft",
    "plan",
    "fetch",
    "score",
    "check",
    "trace",
)
_START = datetime(2026, 1, 1, tzinfo=UTC)
_START_NS = int(_START.timestamp()) * 1_000_000_000


def _uuid7(n: int, rng: random.Random) -> str:
    value = ((1767225600000 + n) << 80) | (7 << 76) | (rng.getrandbits(12) << 64) | (2 << 62) | rng.getrandbits(62)
    h = f"{value:032x}"
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def events(
    jobs: int, *, projects: int = 20, window: int = 400, seed: int = 7, first_seq: int = 1
) -> Iterator[Recorded]:
    """Recorded events in order; about ``4 * jobs`` of them."""
    rng = random.Random(seed)
    seq = first_seq - 1
    open_jobs: list[list[str | int]] = []
    made = 0
    while made < jobs or open_jobs:
        seq += 1
        at = _START + timedelta(milliseconds=seq)
        ts = at.isoformat(timespec="microseconds")[:-6] + "Z"
        ns = _START_NS + seq * 1_000_000
        if made < jobs and len(open_jobs) < window:
            role = rng.choices(tuple(ROLES), (70, 20, 10))[0]
            job: list[str | int] = [_uuid7(made, rng), int(rng.paretovariate(1.2)) % projects + 1, role, 0]
            yield _created(seq, ns, ts, job, made, rng)
            open_jobs.append(job)
            made += 1
            continue
        place = rng.randrange(len(open_jobs))
        job = open_jobs[place]
        job[3] = int(job[3]) + 1
        if job[3] == 1 and rng.random() < 0.002:
            job[3] = 4  # cancelled while queued
        yield _moved(seq, ns, ts, job, rng)
        if int(job[3]) >= 3 or rng.random() < 0.003:
            open_jobs[place] = open_jobs[-1]
            open_jobs.pop()


def _recorded(
    seq: int,
    ns: int,
    ts: str,
    job: list[str | int],
    event: str,
    own: dict[str, object],
    state: dict[str, object],
    token: str = "",
) -> Recorded:
    body = {
        "id": f"0199c000-0000-7000-8000-{seq:012x}",
        "type": f"job.{event}",
        "v": 1,
        "ts": ts,
        "actor": "anonymous",
        "correlation_id": "0199c000-0000-7000-8000-000000000001",
        "causation_id": "0199c000-0000-7000-8000-000000000001",
        "project_id": job[1],
        "job_id": job[0],
        **own,
        "state": {"v": 1, **state},
    }
    return Recorded(seq, f"aura.job.{job[1]}.{job[0]}.{event}{token}", ns, orjson.dumps(body))


def _created(seq: int, ns: int, ts: str, job: list[str | int], n: int, rng: random.Random) -> Recorded:
    title = f"{rng.choice(WORDS)} the {rng.choice(WORDS)} of {rng.choice(WORDS)} {n}"
    own: dict[str, object] = {
        "root_job_id": derived("root", n // 10),
        "index": n % 10,
        "count": 10,
        "title": title,
        "prd_title": f"plan {n // 10}",
        "task_type": "code",
        "role": job[2],
        "priority": 5,
        "labels": {},
        "stages": [],
        "depends_on": [],
        "max_attempts": 3,
        "input": {"bytes": 120, "digest": "sha256:" + "0" * 64},
    }
    return _recorded(seq, ns, ts, job, "created", own, {"status": "QUEUED", "role": job[2], "n": 1})


def _moved(seq: int, ns: int, ts: str, job: list[str | int], rng: random.Random) -> Recorded:
    model = ROLES[str(job[2])]
    base: dict[str, object] = {"role": job[2], "model": model, "n": int(job[3]) + 1}
    if job[3] == 1:
        own: dict[str, object] = {
            "assigned_model": model,
            "term": 1,
            "reason": {"policy": "priority", "score": 1.0, "rejected": []},
        }
        return _recorded(seq, ns, ts, job, "assigned", own, {"status": "ASSIGNED", **base}, "." + model)
    working = base | {"attempt": 1, "worker": f"worker-{int(job[1]) % 8}"}
    if job[3] == 2:
        own = {"worker_id": working["worker"], "attempt": 1, "lease_ttl_s": 10.0}
        return _recorded(seq, ns, ts, job, "claimed", own, {"status": "IN_PROGRESS", "lease_ttl_s": 10.0, **working})
    until = "2026-02-01T00:00:00.000000Z"
    closed = {"retention_until": until}
    if job[3] == 4:
        own = {"by": "director:1", "reason": "no longer wanted", **closed}
        return _recorded(seq, ns, ts, job, "cancelled", own, {"status": "CANCELLED", "role": job[2], "n": 2, **closed})
    if rng.random() < 0.03:
        own = {"attempt": 1, "error_code": "boom", "retryable": False, "output": {"count": 3}, **closed}
        return _recorded(seq, ns, ts, job, "failed", own, {"status": "FAILED", "spent": 1, **working, **closed})
    own = {
        "attempt": 1,
        "success": True,
        "result": {"bytes": 90, "digest": "sha256:" + "1" * 64},
        "output": {"count": 12},
        **closed,
    }
    return _recorded(seq, ns, ts, job, "completed", own, {"status": "COMPLETED", **working, **closed})
