"""What the read models say, as gauges: asked for when somebody scrapes, at most every :data:`KEEP_S` seconds whoever asks.

Every gateway tells the same figures, so dashboards take ``max``, not ``sum``. While the read models do not answer the gauges of the last
answer are left out and ``aura_read_models_up`` is 0: a stale figure is worse than none.
"""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from aura.clock import Clock
from aura.errors import AuraError
from aura.gateway.limits import HEALTH_WINDOW_S
from aura.gateway.ports import Queries

#: How long an answer is good for, in seconds, and how long the read models may take for one.
KEEP_S = 2.0
ASK_S = 2.0
#: Models told one by one; whoever has more looks at ``GET /stats``.
MAX_MODELS = 200
_STAGES = {"wait_s": "wait", "work_s": "work", "total_s": "total"}


class StateMetrics:
    """See the module docstring. One per application."""

    def __init__(self, queries: Queries, clock: Clock) -> None:
        self._queries = queries
        self._clock = clock
        self._lock = asyncio.Lock()
        self._text = b""
        self._asked_s = -KEEP_S

    async def exposition(self) -> bytes:
        """The text format."""
        async with self._lock:
            if self._clock.monotonic_s() - self._asked_s >= KEEP_S:
                self._text = await self._ask()
                self._asked_s = self._clock.monotonic_s()
            return self._text

    async def _ask(self) -> bytes:
        registry = CollectorRegistry()
        up = Gauge("aura_read_models_up", "Whether the read models answered", registry=registry)
        try:
            async with asyncio.timeout(ASK_S):
                stats, projections, models = await asyncio.gather(
                    self._queries.stats(),
                    self._queries.projections_status(),
                    self._queries.models_health(window_s=HEALTH_WINDOW_S),
                )
        except (AuraError, TimeoutError):
            return generate_latest(registry)
        up.set(1)
        _jobs(registry, stats)
        _projections(registry, projections)
        _models(registry, stats, models)
        return generate_latest(registry)


def _jobs(registry: CollectorRegistry, stats: dict[str, Any]) -> None:
    jobs = Gauge("aura_jobs", "Jobs by status", ["status"], registry=registry)
    for status, n in stats["counts"].items():
        jobs.labels(status).set(n)
    ended = Gauge("aura_jobs_last_hour", "Jobs of the last hour by outcome", ["outcome"], registry=registry)
    for outcome, n in stats["throughput"]["last_hour"].items():
        ended.labels(outcome).set(n)
    latency = Gauge(
        "aura_job_seconds",
        "Newest finished jobs: waiting for a claim, being worked on, both",
        ["stage", "quantile"],
        registry=registry,
    )
    for name, stage in _STAGES.items():
        for quantile, seconds in ((stats["latency"] or {}).get(name) or {}).items():
            latency.labels(stage, f"0.{quantile[1:]}").set(seconds)


def _projections(registry: CollectorRegistry, rows: Any) -> None:
    events = Gauge("aura_projection_lag_events", "Events not projected yet", ["projection"], registry=registry)
    seconds = Gauge(
        "aura_projection_lag_seconds", "Age of the checkpoint while behind", ["projection"], registry=registry
    )
    aside = Gauge("aura_projection_quarantined", "Entities kept aside as poison", ["projection"], registry=registry)
    for row in rows:
        if row.get("lag_events") is not None:
            events.labels(row["name"]).set(row["lag_events"])
        seconds.labels(row["name"]).set(row.get("lag_s") or 0)
        aside.labels(row["name"]).set(row.get("quarantined") or 0)


def _models(registry: CollectorRegistry, stats: dict[str, Any], rows: Any) -> None:
    rate = Gauge("aura_model_success_ratio", "Completed jobs by ended ones", ["model"], registry=registry)
    queued = Gauge("aura_model_jobs", "Open jobs of a model by status", ["model", "status"], registry=registry)
    for model, found in list(stats["models"].items())[:MAX_MODELS]:
        if found["success_rate"] is not None:
            rate.labels(model).set(found["success_rate"])
        for status in ("ASSIGNED", "IN_PROGRESS"):
            queued.labels(model, status).set(found["counts"].get(status, 0))
    up = Gauge("aura_model_up", "1 while a model's workers report good health", ["model"], registry=registry)
    for row in list(rows)[:MAX_MODELS]:
        up.labels(row["model_name"]).set(1 if row.get("status") == "ok" else 0)
