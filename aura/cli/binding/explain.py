"""``GET /jobs/{id}/explain``: the read models' rows as the values that ``domain.policy.explain`` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aura.clock import Clock
from aura.domain import policy
from aura.domain.job_state import JobStatus
from aura.errors import NotFound
from aura.projections.queries import Queries

_SINCE = {"QUEUED": "queued_at", "ASSIGNED": "assigned_at", "IN_PROGRESS": "claimed_at"}


class Explainer:
    """Implements :data:`aura.gateway.ports.Explain`. ``model_for`` is configuration's answer for a role."""

    def __init__(self, queries: Queries, clock: Clock, model_for: Callable[[str], str]) -> None:
        self._queries = queries
        self._clock = clock
        self._model_for = model_for

    async def __call__(self, job_id: str) -> dict[str, Any] | None:
        """``{job_id, status, seq, reasons: [{code, text, …}]}``; ``None`` when there is no such job."""
        try:
            row = await self._queries.get_job(job_id)
        except NotFound:
            return None
        deps = await self._queries.job_statuses(list(row.get("depends_on") or ()))
        known = {
            wanted: policy.DependencyView(JobStatus(found["status"]), found["seq"]) for wanted, found in deps.items()
        }
        reasons = policy.explain(await self._job(row), await self._models(), known, self._clock.now())
        return {"job_id": job_id, "status": row["status"], "seq": row["seq"], "reasons": reasons}

    async def _job(self, row: dict[str, Any]) -> policy.JobView:
        return policy.JobView(
            status=JobStatus(row["status"]),
            role=row["role"],
            mapped_model=self._model_for(row["role"]),
            model=row["assigned_model"],
            not_before=row["not_before"],
            attempt=row["attempt"] or 0,
            worker=row["worker"],
            concurrency_key=row["concurrency_key"],
            since=row.get(_SINCE.get(row["status"], "finished_at")),
            seq=row["seq"],
        )

    async def _models(self) -> dict[str, policy.ModelView]:
        facts = {row["model"]: row for row in await self._queries.models()}
        live = {row["model_name"]: row for row in await self._queries.models_health()}
        counts = (await self._queries.stats())["models"]
        return {
            name: _model(name, facts.get(name, {}), live.get(name), counts.get(name, {}).get("counts", {}))
            for name in {*facts, *live, *counts}
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
