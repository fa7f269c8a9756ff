"""The command service as a caller sees it, on the in-memory log and content: intake, attempts, late results, purge."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from aura.clock import ManualClock
from aura.commands.endpoints import KEY_HEADER, CommandEndpoints
from aura.commands.handler import Caller
from aura.commands.service import CommandService, Policy, Ports
from aura.domain.job_state import Purge
from aura.domain.roles import RoleModels
from aura.errors import Conflict, Fenced, Forbidden, InvalidRequest, KeyReused, NotFound, TooLarge, Unavailable
from aura.ids import SystemIds
from aura.log.memory import MemoryEventStore
from aura.log.output_memory import memory_content_and_output

CALLER = Caller("anonymous", "corr", "cause")
CANARY = "canary-9f3b1c"


class Renewals:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, str]] = []

    async def renewed(self, job_id: str, attempt: int, worker_id: str) -> None:
        self.seen.append((job_id, attempt, worker_id))


class Health:
    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    async def report(self, model: str, worker_id: str, report: dict[str, Any]) -> None:
        self.reports.append(report)


class World:
    """A command service on stores that outlive it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryEventStore(self.clock)
        ids = SystemIds()
        self.content, self.output = memory_content_and_output(self.clock, ids, b"k" * 32)
        self.renewals, self.health, self.pools = Renewals(), Health(), list[str]()
        self.ports = Ports(
            self.store, self.content, self.output, self.renewals, self.health, self._pool, self.clock, ids
        )
        self.policy = Policy(roles=RoleModels("employee_ollama"), retention_s=60.0)
        self.service = self.fresh()

    def fresh(self) -> CommandService:
        """Another process: no cached heads."""
        return CommandService(self.ports, self.policy)

    async def _pool(self, model: str) -> None:
        self.pools.append(model)

    async def submit(self, *tasks: dict[str, Any], key: str | None = None, title: str = "PRD") -> dict[str, Any]:
        body = {"project_id": 1, "title": title, "tasks": list(tasks) or [{"payload": {"n": 1}}]}
        return await self.service.call("submit", body, replace(CALLER, idempotency_key=key))

    async def call(self, operation: str, job_id: str, key: str | None = None, **params: Any) -> dict[str, Any]:
        return await self.service.call(operation, {"job_id": job_id, **params}, replace(CALLER, idempotency_key=key))

    async def claimed(self) -> str:
        job_id: str = (await self.submit())["job_ids"][0]
        await self.call("claim", job_id, worker_id="w1")
        return job_id

    async def events(self) -> list[dict[str, Any]]:
        return [event.decode() async for batch in self.store.read() for event in batch]

    async def types(self) -> list[str]:
        return [event["type"] for event in await self.events()]


@pytest.fixture
def world() -> World:
    return World()


# ---------------------------------------------------------------- intake


async def test_a_prd_becomes_one_job_per_task_with_dependencies(world: World) -> None:
    answer = await world.submit({"name": "a"}, {"name": "b", "depends_on": ["a"]}, {"depends_on": [0, "b"]})
    events = await world.events()
    assert [event["job_id"] for event in events] == answer["job_ids"]
    assert events[1]["depends_on"] == [answer["job_ids"][0]]
    assert events[2]["depends_on"] == answer["job_ids"][:2]
    assert answer["seq"] == 3
    assert all(event["root_job_id"] == answer["root_job_id"] for event in events)


async def test_a_keyed_submission_is_stored_once_for_ever(world: World) -> None:
    """G2: the same key and body give the same answer, from any process and after the jobs are long done."""
    first = await world.submit({"payload": 1}, {"payload": 2}, key="k1")
    await world.call("cancel", first["job_ids"][0])
    world.service = world.fresh()
    assert await world.submit({"payload": 1}, {"payload": 2}, key="k1") == first
    with pytest.raises(KeyReused):
        await world.submit({"payload": 1}, {"payload": 3}, key="k1")
    with pytest.raises(KeyReused):
        await world.submit({"payload": 1}, key="k1")
    assert (await world.types()).count("job.created") == 2


async def test_concurrent_repeats_of_a_submission_agree(world: World) -> None:
    answers = await asyncio.gather(*(world.submit({"payload": 1}, {"payload": 2}, key="k") for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert len(await world.types()) == 2


async def test_a_retry_after_a_crash_between_content_and_log_works(world: World) -> None:
    """Inputs are written first; a crash before the log leaves them, and the retry under the same key uses them."""

    async def crash(point: str) -> None:
        if point == "append.before":
            raise Unavailable("the process died")

    healthy = world.store._switch
    world.store._switch = crash
    with pytest.raises(Unavailable):
        await world.submit({"payload": CANARY}, key="k")
    world.store._switch = healthy
    job_id = (await world.submit({"payload": CANARY}, key="k"))["job_ids"][0]
    assert (await world.call("claim", job_id, worker_id="w"))["payload"] == CANARY


@pytest.mark.parametrize(
    "tasks",
    [
        [],
        [{}] * 1_001,
        [{"depends_on": [0]}],
        [{"name": "a", "depends_on": ["b"]}, {"name": "b", "depends_on": ["a"]}],
        [{"depends_on": ["nobody"]}],
        [{"depends_on": [7]}],
        [{"depends_on": [-1]}],
        [{"name": "a"}, {"name": "a"}],
        [{"priority": 10}],
        [{"priority": -1}],
        [{"priority": True}],
        [{"priority": "5"}],
        [{"max_attempts": 2.5}],
        [{"timeout_s": True}],
        [{"title": "  "}],
        [{"stages": ["a", "a"]}],
        [{"max_attempts": 0}],
        [{"timeout_s": 0}],
        [{"timeout_s": float("inf")}],
        [{"run_at": "2026-01-01T00:00:00"}],
        [{"unknown_option": 1}],
        [{"labels": {f"k{i}": "v" for i in range(17)}}],
        ["not an object"],
    ],
)
async def test_bad_prds_bounce_and_leave_no_trace(world: World, tasks: list[Any]) -> None:
    with pytest.raises(InvalidRequest):
        await world.service.call("submit", {"project_id": 1, "title": "t", "tasks": tasks}, CALLER)
    assert await world.types() == []


@pytest.mark.parametrize(
    "bad", ["*", ">", "a.b", "$JS.API.STREAM.PURGE.X", " ", "a\tb", "a\r\nb", "\0", "\u202e", "x" * 5_000]
)
@pytest.mark.parametrize("field", ["role", "name", "subject", "concurrency_key", "session_id", "label", "stage"])
async def test_bad_names_bounce_and_leave_no_trace(world: World, field: str, bad: str) -> None:
    task: dict[str, Any] = {"label": {"labels": {bad: "v"}}, "stage": {"stages": [bad]}}.get(field, {field: bad})
    with pytest.raises(InvalidRequest) as refusal:
        await world.submit(task)
    assert bad not in refusal.value.detail or len(bad) < 3
    assert await world.types() == []


# ---------------------------------------------------------------- attempts


async def test_the_whole_life_of_a_job(world: World) -> None:
    job_id = (await world.submit({"payload": {"to": "you"}}))["job_ids"][0]
    await world.call("assign", job_id, assigned_model="employee_ollama")
    assert world.pools == ["employee_ollama"], "the pool exists before anything is assigned to it"
    claim = await world.call("claim", job_id, worker_id="w1", lease_ttl_s=20)
    assert (claim["attempt"], claim["payload"], claim["lease_ttl_s"]) == (1, {"to": "you"}, 20)
    beat = await world.call("heartbeat", job_id, attempt=1)
    assert beat["cancelled"] is False
    assert world.renewals.seen == [(job_id, 1, "w1")]
    for i in range(3):
        assert (await world.call("stream", job_id, chunk=f"{i}"))["i"] == i
    await world.call("log", job_id, line="done", level="SUCCESS")
    await world.call("progress", job_id, percent=100)
    done = await world.call("complete", job_id, success=True, details={"answer": CANARY})
    assert done == {"job_id": job_id, "status": "COMPLETED", "seq": 4}
    completed = (await world.events())[-1]
    assert completed["output"] == {"count": 5}
    assert completed["result"]["bytes"] > 0
    assert CANARY not in str(await world.events()), "content never enters an event"


async def test_every_keyed_command_repeats_its_answer(world: World) -> None:
    """G2 for commands on a job: claim, complete and the rest answer a repeat as the first time."""
    job_id = (await world.submit())["job_ids"][0]
    script: list[tuple[str, dict[str, Any]]] = [
        ("assign", {"assigned_model": "m"}),
        ("claim", {"worker_id": "w"}),
        ("stage", {"stage": "s", "status": "running"}),
        ("complete", {"success": False, "details": {"d": 1}}),
        ("reject", {"reason": "again"}),
        ("claim", {"worker_id": "w"}),
        ("fail", {"reason": "boom", "retryable": False}),
        ("retry", {"reason": "once more"}),
    ]
    answers = [await world.call(op, job_id, key=f"key-{n}", **params) for n, (op, params) in enumerate(script)]
    before = await world.types()
    world.service = world.fresh()
    for n, (op, params) in enumerate(script):
        assert await world.call(op, job_id, key=f"key-{n}", **params) == answers[n], op
    assert await world.types() == before
    with pytest.raises(KeyReused):
        await world.call("claim", job_id, key="key-1", worker_id="another")


async def test_a_late_result_is_recorded_once_and_refused(world: World) -> None:
    """G6: an expired attempt cannot complete, and what it tried is in the log."""
    job_id = await world.claimed()
    await world.call("release", job_id, attempt=1)
    await world.call("claim", job_id, worker_id="w2")
    for _ in range(3):
        with pytest.raises(Fenced) as refusal:
            await world.call("complete", job_id, success=True, attempt=1)
    assert (refusal.value.attempt, refusal.value.current) == (1, 2)
    assert (await world.types()).count("job.late_result_rejected") == 1
    for operation, params in [
        ("heartbeat", {}),
        ("stream", {"chunk": "x"}),
        ("stage", {"stage": "s", "status": "done"}),
    ]:
        with pytest.raises(Fenced):
            await world.call(operation, job_id, attempt=1, **params)
    assert (await world.call("complete", job_id, success=True, attempt=2))["status"] == "COMPLETED"


async def test_a_cancelled_job_says_so_on_heartbeat(world: World) -> None:
    job_id = await world.claimed()
    await world.call("cancel", job_id, reason="changed my mind")
    assert (await world.call("heartbeat", job_id, attempt=1))["cancelled"] is True
    with pytest.raises(Fenced):
        await world.call("complete", job_id, success=True, attempt=1)


async def test_a_claim_waits_for_dependencies_and_due_time(world: World) -> None:
    first, second, later = (
        await world.submit({"name": "a"}, {"depends_on": ["a"]}, {"run_at": "2026-01-01T01:00:00Z"})
    )["job_ids"]
    for job_id in (second, later):
        with pytest.raises(Conflict):
            await world.call("claim", job_id, worker_id="w")
    await world.call("claim", first, worker_id="w")
    await world.call("complete", first, success=True)
    await world.call("claim", second, worker_id="w")
    world.clock.advance(3_600)
    await world.call("claim", later, worker_id="w")


async def test_attempts_are_bounded(world: World) -> None:
    """G7: after max_attempts failures the job is FAILED, with back-off in between."""
    job_id = (await world.submit({"max_attempts": 2}))["job_ids"][0]
    await world.call("claim", job_id, worker_id="w")
    assert (await world.call("fail", job_id, reason="x"))["status"] == "QUEUED"
    with pytest.raises(Conflict):
        await world.call("claim", job_id, worker_id="w")
    world.clock.advance(5)
    await world.call("claim", job_id, worker_id="w")
    assert (await world.call("fail", job_id, reason="x"))["status"] == "FAILED"


async def test_output_and_details_are_bounded(world: World) -> None:
    job_id = await world.claimed()
    with pytest.raises(InvalidRequest):
        await world.call("stream", job_id, chunk="x" * (256 * 1024 + 1))
    with pytest.raises(TooLarge):
        await world.call("complete", job_id, success=True, details={"d": "x" * (1024 * 1024)})


# ---------------------------------------------------------------- archive


async def test_purge_erases_everything_and_leaves_a_tombstone(world: World) -> None:
    """G16, in memory: after the answer nothing of the content is left; the log says who erased it."""
    job_id = await world.claimed()
    with pytest.raises(NotFound):
        await world.call("purge", job_id)
    await world.call("stream", job_id, chunk=CANARY)
    await world.call("complete", job_id, success=True, details={"secret": CANARY})
    with pytest.raises(Forbidden):
        await world.call("purge", job_id)
    world.clock.advance(61)
    await world.call("hold", job_id, reason="litigation")
    with pytest.raises(Conflict):
        await world.call("purge", job_id)
    await world.call("release_hold", job_id)
    assert (await world.call("purge", job_id))["ok"] is True
    assert await world.content.get(1, job_id, "input") is None
    assert await world.content.get(1, job_id, "result") is None
    assert await world.content.data_key(1, job_id) is None
    assert (await world.types())[-2:] == ["archive.purge_requested", "archive.purged"]
    assert (await world.call("purge", job_id))["ok"] is True
    assert (await world.types()).count("archive.purged") == 1


@pytest.mark.parametrize("dies_at", range(1, 8))
async def test_a_purge_that_dies_anywhere_is_finished_by_resume(world: World, dies_at: int) -> None:
    """G16: the crash-point sweep; whatever step the process died at, the request stands and is carried through."""
    job_id = await world.claimed()
    await world.call("complete", job_id, success=True, details={"secret": CANARY})
    world.clock.advance(61)
    steps = 0
    healthy = world.store._switch

    async def die(_point: str) -> None:
        nonlocal steps
        steps += 1
        if steps == dies_at:
            raise Unavailable("the process died")

    world.store._switch = die
    try:
        await world.call("purge", job_id)
    except Unavailable:
        pass
    world.store._switch = healthy
    world.service = world.fresh()

    async def requested() -> AsyncIterator[str]:
        yield job_id

    await world.service.purger.resume(requested(), Caller("system:resume", "c", "c"))
    head = await world.service.jobs.head(job_id, consistent=True)
    if head.state.purge is Purge.NONE:
        assert "archive.purge_requested" not in await world.types()
    else:
        assert head.state.purge is Purge.PURGED
        assert (await world.types()).count("archive.purged") == 1
        assert await world.content.data_key(1, job_id) is None


# ---------------------------------------------------------------- models and NATS


async def test_the_first_heartbeat_registers_the_model(world: World) -> None:
    report = {"model": "m1", "uptime": 1, "mem_mb": 2048, "gpu_mem_mb": 8192, "status": "ok"}
    assert (await world.service.call("model_heartbeat", report, CALLER))["ok"] is True
    await world.service.call("model_heartbeat", report, CALLER)
    assert await world.types() == ["model.registered"]
    assert world.health.reports[0]["payload"] == {"status": "ok", "uptime": 1, "mem_mb": 2048, "gpu_mem_mb": 8192}
    with pytest.raises(InvalidRequest):
        await world.service.call("model_heartbeat", {"model": "a.b", "status": "ok"}, CALLER)


async def test_over_nats_a_worker_is_who_its_subject_says(world: World) -> None:
    endpoints = CommandEndpoints(world.service, world._pool, SystemIds())
    job_id = (await world.submit())["job_ids"][0]

    async def ask(subject: str, body: Any, **headers: str) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        status, answer = await endpoints.handle(subject, headers, raw)
        return status, orjson.loads(answer)

    assert (await ask("cmd.aura.worker.w1.hello", {"model": "m", "slots": 2}))[0] == 200
    status, claim = await ask("cmd.aura.worker.w1.claim", {"job_id": job_id}, **{KEY_HEADER: "offer-7"})
    assert (status, claim["worker"], len(claim["data_key"])) == (200, "w1", 44)
    assert (await ask("cmd.aura.worker.w1.claim", {"job_id": job_id}, **{KEY_HEADER: "offer-7"}))[1] == claim
    assert (await ask("cmd.aura.worker.w2.claim", {"job_id": job_id, "worker_id": "w1"}))[0] == 403
    for name, body in [
        ("complete", {"success": True}),
        ("fail", {}),
        ("release", {}),
        ("stage", {"stage": "s", "status": "done"}),
    ]:
        assert (await ask(f"cmd.aura.worker.w2.{name}", {"job_id": job_id, "attempt": 1, **body}))[0] == 403
    beat = {"in_flight": [{"job_id": job_id, "attempt": 1}]}
    assert (await ask("cmd.aura.worker.w1.heartbeat", beat))[1] == {"cancelled": [], "fenced": []}
    assert (await ask("cmd.aura.worker.w2.heartbeat", beat))[1] == {"cancelled": [], "fenced": [job_id]}
    assert (await ask("cmd.aura.worker.w1.complete", {"job_id": job_id, "success": True}))[1]["status"] == "COMPLETED"
    for subject, body, expected in [
        ("cmd.aura.worker.w1.nothing", {}, 404),
        ("cmd.aura.worker.a b.claim", {}, 422),
        ("cmd.aura.admin.nothing", {}, 404),
        ("cmd.aura.admin.cancel", b"{", 422),
        ("cmd.aura.admin.cancel", b"[]", 422),
        ("cmd.aura.admin.cancel", {"job_id": "*"}, 422),
        ("cmd.aura", {}, 404),
    ]:
        assert (await ask(subject, body))[0] == expected, subject
