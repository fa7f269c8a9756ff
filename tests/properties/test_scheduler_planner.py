"""The incremental planner against one that starts afresh: whatever happened, both know the same and neither has missed anything.

After every step the incremental planner runs until it has nothing left to decide. Then a planner that loads a snapshot of the log
and hears the same heartbeats must find nothing to assign either, and all counts must be those of the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aura.domain import job_commands as c
from aura.domain import model as m
from aura.domain import policy
from aura.errors import Refused
from aura.events.catalogue import AssignReason
from aura.scheduler.planner import Planner
from aura.scheduler.rows import JobDecision
from aura.scheduler.snapshot import FoldedSnapshot
from tests.support.scheduling import RETENTION_S, ROLES, Bench

T = TypeVar("T")
JOBS = st.integers(0, 11)


def now(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never really waits (the in-memory log answers at once)."""
    try:
        coro.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


class PlannerMachine(RuleBasedStateMachine):
    """Jobs, workers and operators at random; the planner under test follows incrementally."""

    @initialize()
    def begin(self) -> None:
        self.bench = Bench()
        self.jobs = 0
        self.workers: dict[tuple[str, str], dict[str, Any]] = {}
        now(self.bench.lead())

    def job(self, number: int) -> int:
        return number % self.jobs + 1

    def ask(self, number: int, command: c.JobCommand) -> None:
        if self.jobs:
            try:
                now(self.bench.ask(self.job(number), command))
            except Refused:
                pass

    @rule(
        size=st.integers(1, 3),
        priority=st.integers(0, 9),
        project=st.integers(1, 2),
        key=st.sampled_from([None, "k", "l"]),
        role=st.sampled_from(["Employee", "Validator", "Either"]),
        chained=st.booleans(),
        run_in=st.sampled_from([None, None, 5.0]),
        queue_timeout=st.sampled_from([None, None, 20.0]),
    )
    def submit(
        self,
        size: int,
        priority: int,
        project: int,
        key: str | None,
        role: str,
        chained: bool,
        run_in: float | None,
        queue_timeout: float | None,
    ) -> None:
        """A PRD: dependencies are always among jobs that are created together."""
        if self.jobs + size > 12:
            return
        first = self.jobs + 1
        for number in range(first, first + size):
            facts = {"priority": priority, "concurrency_key": key, "role": role, "queue_timeout_s": queue_timeout}
            depends_on = range(first, number) if chained else ()
            now(self.bench.submit(number, project=project, run_in=run_in, depends_on=depends_on, **facts))
        self.jobs += size

    @rule(number=JOBS, ttl=st.sampled_from([5.0, 100.0]))
    def claim(self, number: int, ttl: float) -> None:
        self.ask(number, c.ClaimJob("w", ttl, "alpha", offered=True))

    @rule(number=JOBS, command=st.sampled_from([
        c.CompleteJob(True, 60), c.CompleteJob(True, 60), c.CompleteJob(False, 60), c.FailJob("x", True, 60, 3), c.ReleaseJob(),
        c.CancelJob("user:a", 60), c.RetryJob("user:a"), c.AcceptJob("user:a"), c.RejectJob("user:a", 60), c.ReprioritizeJob("user:a", 1),
        c.ReprioritizeJob("user:a", 8), c.AssignJob("beta", AssignReason(policy="manual"), override=True), c.ChangeStage("s", "done"),
    ]))  # fmt: skip
    def operate(self, number: int, command: c.JobCommand) -> None:
        self.ask(number, command)

    @rule(model=st.sampled_from(["alpha", "beta"]), command=st.sampled_from([
        m.RegisterModel(2, ("Either",)), m.RegisterModel(2), m.PauseModel("user:a"), m.ResumeModel("user:a"),
    ]))  # fmt: skip
    def operate_model(self, model: str, command: m.ModelCommand) -> None:
        try:
            now(self.bench.model(model, command))
        except Refused:
            pass

    @rule(
        model=st.sampled_from(["alpha", "beta"]),
        worker=st.sampled_from("vw"),
        slots=st.integers(1, 3),
        status=st.sampled_from(["ok", "ok", "tired", "draining", "offline"]),
    )
    def beat(self, model: str, worker: str, slots: int, status: str) -> None:
        self.bench.beat(model, worker, slots, status)
        self.workers[(model, worker)] = {"slots": slots, "status": status, "at": self.bench.now}

    @rule(seconds=st.sampled_from([1.0, 4.0, 12.0, 40.0]))
    def advance(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    @invariant()
    def nothing_is_missed_and_the_counts_are_those_of_the_log(self) -> None:
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        for _ in range(60):
            decisions = now(bench.round())
            for d in decisions:
                self.judge(d)
            if not decisions:
                break
        else:
            raise AssertionError(f"never at rest: {bench.commands(decisions)}")
        fresh = self.fresh()
        self.compare(fresh)
        # How long a job has waited is an estimate for whoever was not there, so queue timeouts may differ.
        found = [d for d in fresh.plan(bench.clock.now(), bench.now) if isinstance(d, JobDecision)]
        assert [type(d.command).__name__ for d in found if not isinstance(d.command, c.FailWaitingJob)] == []

    def judge(self, decision: Any) -> None:
        """No pool is given more than it may hold."""
        if (
            isinstance(decision, JobDecision)
            and isinstance(decision.command, c.AssignJob)
            and not decision.command.reoffer
        ):
            pool = self.bench.planner.agenda.pool(decision.command.model)
            assert pool.unclaimed <= max(1, pool.free) if pool.slots else pool.unclaimed <= policy.NEVER_SEEN_LIMIT

    def fresh(self) -> Planner:
        bench = self.bench
        fresh = Planner(ROLES, RETENTION_S)
        fresh.load(now(FoldedSnapshot(bench.store).load()), bench.now)
        for (model, worker), beat in self.workers.items():
            payload = {"status": beat["status"]}
            report = {
                "model": model,
                "worker_id": worker,
                "slots": beat["slots"],
                "interval_s": 10.0,
                "payload": payload,
            }
            fresh.apply_heartbeat(report, bench.clock.now(), bench.now, age_s=bench.now - beat["at"])
            fresh.agenda.pool(model).heard = True
        fresh.lead(9, bench.clock.now(), bench.now)
        for pool in fresh.agenda.pools.values():  # the old leader has waited long enough already
            if pool.grace:
                pool.grace = False
                pool.recount()
                fresh.agenda.pool_changed(pool)
        return fresh

    def compare(self, fresh: Planner) -> None:
        mine = self.bench.planner
        assert set(mine.rows) == set(fresh.rows)
        for job_id, row in mine.rows.items():
            other = fresh.rows[job_id]
            for name in ("seq", "state", "order", "key", "timeout_s", "queue_timeout_s", "project"):
                assert getattr(row, name) == getattr(other, name), (name, job_id)
            assert (row.unmet or set()) == (other.unmet or set())
            assert row.pending is None
        for name, pool in mine.agenda.pools.items():
            other_pool = fresh.agenda.pool(name)
            assert (pool.slots, pool.busy, set(pool.assigned)) == (
                other_pool.slots,
                other_pool.busy,
                set(other_pool.assigned),
            ), name
            assert pool.reserved == 0
        held: Counter[tuple[int, str]] = Counter(
            row.key for row in mine.rows.values() if row.key and row.state.status != "QUEUED"
        )
        assert held == {key: len(holders) for key, holders in mine.agenda.keys._holders.items()}


TestPlannerMachine = PlannerMachine.TestCase
TestPlannerMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, phases=PHASES)
