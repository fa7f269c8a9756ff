"""``GET /jobs/{id}/explain``: the read models' rows, all of one moment, as the values that ``domain.policy.explain`` takes."""

from __future__ import annotations

from typing import Any

from aura.clock import Clock
from aura.domain import policy
from aura.domain.job_state import JobStatus
from aura.domain.roles import RoleModels
from aura.errors import NotFound
from aura.projections.queries import Queries, Situation

_SINCE = {"QUEUED": "queued_at", "ASSIGNED": "assigned_at", "IN_PROGRESS": "claimed_at"}
_ENDED = ("COMPLETED", "FAILED", "CANCELLED")
Reason = dict[str, Any]


class Explainer:
    """Implements :data:`aura.gateway.ports.Explain`. ``roles`` is configuration's word on who runs which role."""

    def __init__(self, queries: Queries, clock: Clock, roles: RoleModels) -> None:
        self._queries = queries
        self._clock = clock
        self._roles = roles

    async def __call__(self, job_id: str) -> dict[str, Any] | None:
        """``{job_id, status, seq, as_of, reasons: [{code, text, …}]}``; ``as_of`` is the sequence all of it was read at. ``None``
        when there is no such job."""
        try:
            found = await self._queries.situation(job_id)
        except NotFound:
            return None
        row = found.job
        if row["status"] in _ENDED:
            reasons = ended(found)
        else:
            deps = {
                wanted: policy.DependencyView(JobStatus(one["status"]), one["seq"])
                for wanted, one in found.dependencies.items()
            }
            reasons = policy.explain(self._job(found), models(found), deps, self._clock.now())
        return {"job_id": job_id, "status": row["status"], "seq": row["seq"], "as_of": found.seq, "reasons": reasons}

    def _job(self, found: Situation) -> policy.JobView:
        row = found.job
        return policy.JobView(
            status=JobStatus(row["status"]),
            role=row["role"],
            roles=self._roles,
            model=row["assigned_model"],
            not_before=row["not_before"],
            attempt=row["attempt"] or 0,
            worker=row["worker"],
            concurrency_key=row["concurrency_key"],
            key_holder=found.key_holder["id"] if found.key_holder is not None else None,
            since=row.get(_SINCE.get(row["status"], "finished_at")),
            seq=row["seq"],
        )


def ended(found: Situation) -> list[Reason]:
    """Why a job is over, and what becomes of its content."""
    row = found.job
    status, code, why = row["status"], row["error_code"], row["status_reason"]
    text = f"the job is {status}"
    if status == "FAILED":
        text += f": {code or 'rejected'} in attempt {row['attempt']} ({row['spent']} of {row['max_attempts']} spent)"
    if status != "COMPLETED" and why and why != code:
        text += f": {why}"
    if status == "FAILED" and row["purge"] == "none":
        text += f"; its error text is at /jobs/{row['id']}/result"
    facts = {"error_code": code if status == "FAILED" else None, "reason": why, "attempt": row["attempt"]}
    reasons = [_reason("ended", text, **facts, since=row["finished_at"], seq=row["seq"])]
    if status == "CANCELLED" and why == "dependency_failed":
        reasons += [
            _reason("dependency_failed", f"dependency {wanted} is {one['status']}", job_id=wanted, seq=one["seq"])
            for wanted, one in found.dependencies.items()
            if policy.dependency(JobStatus(one["status"])) is policy.Dependency.FAILED
        ]
    return [*reasons, _kept(row)]


def _kept(row: dict[str, Any]) -> Reason:
    until = row["retention_until"]
    if row["purge"] == "purged":
        return _reason("purged", "its content and output were erased for good")
    if row["purge"] == "requested":
        return _reason("purge_requested", "its content and output are being erased")
    if row["held"]:
        return _reason("held", "its content is on legal hold: it cannot be purged", retention_until=until)
    if until is None:
        return _reason("retained", "its content is kept")
    return _reason("retained", f"its content is kept at least until {until}", retention_until=until)


def _reason(code: str, text: str, **facts: object) -> Reason:
    return {
        "code": code,
        "text": text,
        **{name: value for name, value in facts.items() if value is not None and value != ""},
    }


def models(found: Situation) -> dict[str, policy.ModelView]:
    """Every model that is known from the log, from heartbeats, or from jobs."""
    facts = {row["model"]: row for row in found.models}
    live = {row["model_name"]: row for row in found.health}
    return {
        name: _model(name, facts.get(name, {}), live.get(name), found.counts.get(name, {}))
        for name in {*facts, *live, *found.counts}
    }


def _model(name: str, fact: dict[str, Any], live: dict[str, Any] | None, counts: dict[str, int]) -> policy.ModelView:
    status = fact.get("status")
    online = live is not None and status != "offline"
    return policy.ModelView(
        name=name,
        roles=tuple(fact.get("roles") or ()),
        seen=live is not None or status in ("online", "degraded", "offline"),
        degraded=status == "degraded",
        paused=bool(fact.get("paused")),
        slots=int(live["slots"] or 0) if online and live is not None else 0,
        busy=counts.get("IN_PROGRESS", 0),
        unclaimed=counts.get("ASSIGNED", 0),
        succeeded=counts.get("COMPLETED", 0),
        failed=counts.get("FAILED", 0),
        since=fact.get("updated_at"),
        seq=fact.get("seq"),
    )
