"""``docs/reference/metrics.md`` lists every metric with its type and labels, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from aura.clock import SystemClock
from aura.gateway.api.state_metrics import StateMetrics
from aura.gateway.metrics import Metrics

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
_ROW = re.compile(r"^\| `(aura_\w+)` \| (\w+) \| ((?:`\w+`(?:, )?)*) ?\| (.+) \|$", re.MULTILINE)
Known = set[tuple[str, str, tuple[str, ...]]]


class Everything:
    """Read models that have something to say about everything."""

    async def stats(self) -> dict[str, Any]:
        return {
            "counts": {"QUEUED": 1},
            "throughput": {"last_hour": {"completed": 1}},
            "latency": {name: {"p50": 1.0} for name in ("wait_s", "work_s", "total_s")},
            "models": {"m": {"success_rate": 1.0, "counts": {"ASSIGNED": 1}}},
        }

    async def projections_status(self) -> list[dict[str, Any]]:
        return [{"name": "core", "lag_events": 1, "lag_s": 1.0, "quarantined": 0}]

    async def models_health(self, *, window_s: float) -> list[dict[str, Any]]:
        return [{"model_name": "m", "status": "ok"}]


def _registered(registry: CollectorRegistry) -> Known:
    found = set()
    for collector in set(registry._names_to_collectors.values()):
        metric: Any = collector
        name = metric._name + ("_total" if metric._type == "counter" else "")
        found.add((name, metric._type, tuple(sorted(metric._labelnames))))
    return found


def _told(families: Iterable[Any]) -> Known:
    return {
        (family.name, family.type, tuple(sorted({name for sample in family.samples for name in sample.labels})))
        for family in families
    }


@pytest.fixture
async def known() -> Known:
    state = StateMetrics(Everything(), SystemClock())  # type: ignore[arg-type]
    text = (await state.exposition()).decode()
    return _registered(Metrics().registry) | _told(text_string_to_metric_families(text))


async def test_every_metric_is_in_the_reference_with_its_type_and_labels(known: Known) -> None:
    rows = _ROW.findall(PAGE.read_text())
    documented = {(name, kind, tuple(sorted(re.findall(r"`(\w+)`", labels)))) for name, kind, labels, _ in rows}
    assert documented - known == set(), "described and not there"
    assert known - documented == set(), "there and not described"
    assert len(rows) == len(documented) == PAGE.read_text().count("\n| `aura_"), "a row that is not one, or twice"


def test_the_live_guide_names_no_other_metric(known: Known) -> None:
    live = (PAGE.parent / "live.md").read_text()
    names = {name for name, _, _ in known}
    assert set(re.findall(r"`(aura_(?:live|hub)_\w+)", live)) <= names
