"""What the composition root puts around the command service: the log's switch, the director's commands, resumed purges, no rich."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest

from aura.cli.binding import erasure
from aura.cli.binding.explain import ended
from aura.cli.binding.log_health import UNSTORED_S, GuardedCommands, LogHealth, compare, guarded
from aura.clock import ManualClock
from aura.commands.endpoints import CommandEndpoints
from aura.commands.handler import Caller
from aura.commands.purge import Purger
from aura.domain import job_commands as c
from aura.domain.job_state import Purge
from aura.errors import AuraError, LogRegression, Overloaded, Unavailable
from aura.log.identity import digest
from aura.projections.queries import Situation
from tests.support.gateway import CALLER, World, make_world

JOB = "0199c0de-0000-7000-8000-000000000000"


class ReadModels:
    """The queries that these parts ask."""

    def __init__(
        self, purging: Sequence[str] = (), reached: int = 10**9, checkpoints: Sequence[dict[str, Any]] = ()
    ) -> None:
        self.ids, self.reached, self.rows = sorted(purging), reached, list(checkpoints)
        self.pages = 0

    async def wait_for(self, min_seq: int, timeout_s: float) -> bool:
        return min_seq <= self.reached

    async def purging(self, *, after: str | None = None, limit: int = 1_000) -> list[dict[str, Any]]:
        self.pages += 1
        return [{"id": job_id} for job_id in self.ids if after is None or job_id > after][:limit]

    async def checkpoints(self) -> list[dict[str, Any]]:
        return self.rows


# ---------------------------------------------------------------- the log's switch


def _commands(world: World) -> tuple[GuardedCommands, LogHealth]:
    health = LogHealth(world.clock)
    return GuardedCommands(world.commands, health), health


async def test_a_lost_log_refuses_every_command_over_http_and_nats_G5() -> None:
    world = make_world()
    commands, health = _commands(world)
    handle = guarded(CommandEndpoints(world.commands, _no_pool, world.ctx.ids).handle, health)
    body = {"title": "t", "tasks": [{}]}
    assert (await commands.call("submit", body, CALLER))["seq"] == 1
    assert (await handle("cmd.aura.admin.submit", {}, orjson.dumps(body)))[0] == 200
    reasons: list[str] = []
    health.on_lost(reasons.append)
    health.ended(AuraError("the consumer failed"))
    assert (reasons, await health.ready()) == ([], None)
    health.ended(LogRegression("shorter"))
    health.ended(LogRegression("again"))
    assert (reasons, await health.ready()) == (["shorter"], "shorter")
    with pytest.raises(LogRegression, match="shorter"):
        await commands.call("submit", body, CALLER)
    for subject in ("cmd.aura.admin.submit", "cmd.aura.worker.w.claim", "cmd.aura.worker.w.batch"):
        status, answer = await handle(subject, {}, b"{}")
        assert (status, orjson.loads(answer)["code"]) == (503, "log_regression")
    assert await world.last_seq() == 2
    late: list[str] = []
    health.on_lost(late.append)
    assert late == ["shorter"]


async def _no_pool(model: str) -> None:
    """No pools."""


@pytest.mark.parametrize("name", ["purge", "release_hold"])
async def test_the_directors_commands_are_refused_over_nats(name: str) -> None:
    asked: list[str] = []

    async def handle(subject: str, _headers: Mapping[str, str], _body: bytes) -> tuple[int, bytes]:
        asked.append(subject)
        return 200, b"{}"

    answer = guarded(handle, LogHealth(ManualClock()))
    status, body = await answer(f"cmd.aura.admin.{name}", {}, b"{}")
    assert (status, orjson.loads(body)["code"], asked) == (403, "forbidden", [])
    assert (await answer("cmd.aura.admin.hold", {}, b"{}"))[0] == 200


@pytest.mark.parametrize(
    ("changes", "fits"),
    [({}, True), ({"epoch": "another"}, False), ({"seq": 9}, False), ({"sha256": "00" * 32}, False)],
)
async def test_at_start_the_log_is_compared_with_what_the_read_models_were_built_from_G5(
    changes: Any, fits: bool
) -> None:
    world = make_world()
    await world.commands.call("submit", {"title": "t", "tasks": [{}]}, CALLER)
    first = await world.store.get(1)
    assert first is not None
    row = {"name": "jobs", "epoch": "memory", "seq": 1, "sha256": digest(first.body).hex()} | changes
    health = LogHealth(world.clock)
    await compare(world.store, ReadModels(checkpoints=[row]), health)  # type: ignore[arg-type]
    assert (health.failure is None) is fits


async def test_readiness_tells_that_commands_cannot_be_stored_until_one_is_or_nobody_tries_G1() -> None:
    clock = ManualClock()
    health = LogHealth(clock)
    broken: list[AuraError] = [Overloaded("busy")]

    class Service:
        async def call(self, *_args: object) -> dict[str, Any]:
            if broken:
                raise broken[0]
            return {}

    commands = GuardedCommands(Service(), health)  # type: ignore[arg-type]

    async def call() -> None:
        try:
            await commands.call("x", {}, CALLER)
        except Unavailable:
            pass

    await call()
    assert await health.storing() is None, "overload says nothing about the log"
    broken[:] = [Unavailable("no space")]
    await call()
    assert await health.storing() == "no space"
    clock.advance(UNSTORED_S + 1)
    assert await health.storing() is None
    await call()
    broken.clear()
    await call()
    assert await health.storing() is None


async def test_a_hub_that_is_lost_before_it_begins_never_begins_G5() -> None:
    world = make_world()
    world.hub.lost("another log")
    try:
        await world.service.start()
        assert world.hub.failure == "another log"
    finally:
        await world.service.stop()


# ---------------------------------------------------------------- purges


async def _requested(world: World) -> str:
    """A job whose purge was requested and interrupted."""
    [job_id] = (await world.commands.call("submit", {"title": "t", "tasks": [{}]}, CALLER))["job_ids"]
    await world.commands.call("cancel", {"job_id": job_id}, CALLER)
    request = c.RequestPurge(by="director:x", scope_digest="sha256:00")
    await world.commands.jobs.execute(job_id, request, Caller("director:x", "r", "r"))
    return job_id


async def test_resuming_purges_pages_and_one_failure_does_not_block_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(retention_s=0.0)
    monkeypatch.setattr(erasure, "PAGE", 2)
    ids = [await _requested(world) for _ in range(5)]
    erase = world.content.erase
    stuck = sorted(ids)[0]

    async def erase_or_fail(project: int, job_id: str) -> Any:
        if job_id == stuck:
            raise Unavailable("content does not answer")
        return await erase(project, job_id)

    world.content.erase = erase_or_fail  # type: ignore[method-assign]
    queries = ReadModels([*ids, JOB])  # one that no log knows any more fails as well
    finished = await _resume(world, world.commands.purger, queries)
    assert (finished, queries.pages) == (4, 4)
    for job_id in ids:
        purge = (await world.commands.jobs.head(job_id, consistent=True)).state.purge
        assert purge is (Purge.REQUESTED if job_id == stuck else Purge.PURGED)
    world.content.erase = erase  # type: ignore[method-assign]
    assert await _resume(world, world.commands.purger, queries) == 1


async def _resume(world: World, purger: Purger, queries: ReadModels, health: LogHealth | None = None) -> int:
    check = (health or LogHealth(world.clock)).check
    return await erasure.resume(purger, world.store, queries, world.ctx.ids, check)  # type: ignore[arg-type]


async def test_purges_wait_for_the_projector_and_stop_on_another_log() -> None:
    world = make_world(retention_s=0.0)
    job_id = await _requested(world)
    with pytest.raises(Unavailable):
        await _resume(world, world.commands.purger, ReadModels([job_id], reached=1))
    health = LogHealth(world.clock)
    health.ended(LogRegression("another"))
    with pytest.raises(LogRegression):
        await _resume(world, world.commands.purger, ReadModels([job_id]), health)
    assert (await world.commands.jobs.head(job_id, consistent=True)).state.purge is Purge.REQUESTED


# ---------------------------------------------------------------- explain, and what is imported


@pytest.mark.parametrize(
    ("changes", "codes", "says"),
    [
        ({"status": "FAILED", "error_code": "exit_1"}, ["ended", "retained"], "exit_1 in attempt 2 (2 of 3 spent)"),
        ({"status": "FAILED", "error_code": None, "status_reason": "wrong"}, ["ended", "retained"], "rejected in attempt 2"),
        ({"status": "CANCELLED", "status_reason": "no need"}, ["ended", "retained"], "CANCELLED: no need"),
        (
            {"status": "CANCELLED", "status_reason": "dependency_failed", "purge": "purged"},
            ["ended", "dependency_failed", "purged"], "dependency_failed",
        ),
        ({"status": "COMPLETED", "held": True}, ["ended", "held"], "COMPLETED"),
        ({"status": "COMPLETED", "purge": "requested"}, ["ended", "purge_requested"], "COMPLETED"),
    ],
)  # fmt: skip
def test_an_ended_job_says_why_and_what_becomes_of_its_content(
    changes: dict[str, Any], codes: list[str], says: str
) -> None:
    row = {
        "id": JOB, "error_code": "", "status_reason": None, "attempt": 2, "spent": 2, "max_attempts": 3,
        "finished_at": "2026-01-01T00:00:00Z", "seq": 9, "purge": "none", "held": False, "retention_until": "2026-02-01T00:00:00Z",
    } | changes  # fmt: skip
    reasons = ended(Situation(9, row, {JOB: {"status": "FAILED", "seq": 4}}, None, [], [], {}))
    assert [reason["code"] for reason in reasons] == codes
    assert says in reasons[0]["text"]


def test_services_start_without_rich_and_commands_can_still_use_it() -> None:
    code = (
        "import sys, aura.cli.services as s; s.structlog_without_rich(); import aura.cli.logs, aura.cli.compose;"
        "import aura.gateway.server, aura.cli.binding.next_job; assert 'structlog' in sys.modules and 'rich' not in sys.modules;"
        "import rich.console"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
