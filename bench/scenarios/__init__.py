"""The scenarios, one small file each. :data:`ALL` is their order: short ones first."""

from __future__ import annotations

from importlib import import_module

from bench.bench import Scenario

_NAMES = (
    "log_append",
    "command_service",
    "submit_to_start",
    "throughput",
    "projection_live",
    "projection_catch_up",
    "planner",
    "leader_start",
    "fan_out",
    "fan_out_idle",
    "fan_out_jobs",
    "fan_out_latency",
    "resume",
    "token_stream",
    "job_filters",
    "entity_size",
    "memory",
    "bytes_per_job",
    "start",
)


def load(names: list[str]) -> list[Scenario]:
    """The named scenarios, or all of them. Raises ``KeyError`` for an unknown name."""
    for name in names:
        if name not in _NAMES:
            raise KeyError(name)
    found: list[Scenario] = [import_module(f"bench.scenarios.{name}").SCENARIO for name in names or _NAMES]
    return found


def names() -> tuple[str, ...]:
    """All names."""
    return _NAMES
