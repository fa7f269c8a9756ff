"""The planner alone: what one assignment costs while 1,000, 10,000 or 100,000 jobs are queued.

Pure, so nothing but the planner is timed: a pool of 64 slots is kept full; in each step a job ends, the planner applies what the log
would say and plans, and its assignment is applied. The events are made outside the clock.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson

from aura.domain.roles import RoleModels
from aura.log.store import Recorded
from aura.scheduler.planner import Planner
from aura.scheduler.rows import Fate, JobDecision
from bench import parts
from bench.bench import Bench, Scenario
from bench.figures import Figure, Target
from bench.samples import median

_WALL = datetime(2026, 1, 1, tzinfo=UTC)
_SLOTS = 64
_MODEL = "employee_ollama"


class _Log:
    """The log that the planner follows: turns its decisions into events."""

    def __init__(self, planner: Planner, jobs: int) -> None:
        self.planner = planner
        self.seq = 0
        self.spent_s = 0.0
        for append in parts.created(jobs):
            self.tell(append.subject, append.body)

    def tell(self, subject: str, body: bytes) -> None:
        self.seq += 1
        recorded = Recorded(self.seq, subject, self.seq, body)
        began = time.perf_counter()
        self.planner.apply(recorded, float(self.seq) / 1e6)
        self.spent_s += time.perf_counter() - began

    def moved(self, job: JobDecision, event: str, status: str, number: int) -> None:
        head = job.head
        state: dict[str, Any] = {"v": 1, "status": status, "role": "Employee", "n": number, "model": _MODEL}
        if number >= 3:
            state |= {"attempt": 1, "worker": "w", "lease_ttl_s": 300.0}
        own: dict[str, Any] = {"attempt": 1, "worker_id": "w", "lease_ttl_s": 300.0, "reason": {"policy": "role"}}
        body = {"id": "x", "type": f"job.{event.partition('.')[0]}", "v": 1, **own, "state": state}
        self.tell(f"aura.job.{head.project}.{head.job_id}.{event}", orjson.dumps(body))

    def plan(self) -> list[JobDecision]:
        began = time.perf_counter()
        found = self.planner.plan(_WALL, float(self.seq) / 1e6)
        self.spent_s += time.perf_counter() - began
        return [one for one in found if isinstance(one, JobDecision)]

    def settle(self, decision: JobDecision) -> None:
        began = time.perf_counter()
        self.planner.settle(decision, Fate.COMMITTED, float(self.seq) / 1e6)
        self.spent_s += time.perf_counter() - began


def rate(queued: int, steps: int) -> float:
    """Assignments per second of the planner's own time, and everything it has to apply for one."""
    planner = Planner(RoleModels(_MODEL), 86_400.0)
    log = _Log(planner, queued + steps)
    planner.lead(1, _WALL, 0.0)
    report = {"model": _MODEL, "worker_id": "w", "slots": _SLOTS, "interval_s": 3600, "payload": {"status": "ok"}}
    planner.apply_heartbeat(report, _WALL, 0.0)
    running: list[JobDecision] = []
    assigned = 0
    log.spent_s = 0.0
    while assigned < steps:
        for decision in log.plan():
            log.settle(decision)
            log.moved(decision, f"assigned.{_MODEL}", "ASSIGNED", 2)
            log.moved(decision, "claimed", "IN_PROGRESS", 3)
            running.append(decision)
            assigned += 1
        log.moved(running.pop(0), "completed", "COMPLETED", 4)
    return assigned / log.spent_s


async def run(bench: Bench) -> None:
    """See the module docstring."""
    steps, rounds = bench.pick(5_000, 2_000), bench.pick(5, 3)
    sizes = (1_000, 10_000, 100_000)
    samples: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(rounds + 1):
        for size in sizes:
            found = rate(size, steps)
            if number:
                samples[size].append(found)
    base = median(samples[1_000])
    bench.report(Figure("1,000 queued", base, "assign/s", samples=samples[1_000]))
    flat = Target(ratio_at_least=0.8)
    for size in sizes[1:]:
        name = f"{size:,} queued"
        value = median(samples[size])
        bench.report(Figure(name, value, "assign/s", base, "1,000 queued", flat, samples=samples[size]))


SCENARIO = Scenario("planner", "assignments a second by length of the queue, pure", run)
