"""The command handler against the in-memory log: conflicts, stale heads, idempotency (G2, G6, G8)."""

import asyncio
from typing import Any

import orjson
import pytest

from aura.clock import ManualClock
from aura.commands.handler import Caller, JobHandler, KeyUse
from aura.commands.heads import fold_job, step
from aura.domain import job_commands as c
from aura.domain import job_state
from aura.domain.job import evolve
from aura.domain.job_state import JobState, JobStatus
from aura.errors import Conflict, Fenced, KeyReused, NotFound
from aura.events import envelope, subjects
from aura.events.catalogue import AssignReason, JobCreated
from aura.ids import SystemIds
from aura.log.memory import MemoryEventStore
from aura.log.store import Append

JOB = "0199c0de-0000-7000-8000-000000000001"
CALLER = Caller("anonymous", "corr", "cause")
ASSIGN = c.AssignJob(model="m", reason=AssignReason(policy="manual"), override=True)
CLAIM = c.ClaimJob(worker_id="w1", lease_ttl_s=10, fallback_model="m")
COMPLETE = c.CompleteJob(success=True, retention_s=60, attempt=1)


class Bench:
    """A log with one created job, and handlers that share it as processes would."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryEventStore(self.clock)
        self.here = self.handler()

    def handler(self) -> JobHandler:
        return JobHandler(self.store, self.clock, SystemIds())

    async def create(self, job_id: str = JOB) -> None:
        created = JobCreated(root_job_id=JOB, index=0, count=1, title="t", task_type="task", role="Employee")
        append = self.here.seal(1, job_id, created, evolve(None, created), CALLER, expected_seq=0)
        await self.store.append(append)

    async def types(self) -> list[str]:
        return [event.decode()["type"] async for batch in self.store.read() for event in batch]


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.create()
    return made


async def test_a_job_is_walked_from_queued_to_completed(bench: Bench) -> None:
    for command, status in [
        (ASSIGN, JobStatus.ASSIGNED),
        (CLAIM, JobStatus.IN_PROGRESS),
        (COMPLETE, JobStatus.COMPLETED),
    ]:
        outcome = await bench.here.execute(JOB, command, CALLER)
        assert outcome.head.state.status is status
    assert await bench.types() == ["job.created", "job.assigned", "job.claimed", "job.completed"]


async def test_an_unknown_job_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.here.execute(JOB.replace("1", "2"), CLAIM, CALLER)


async def test_a_refusal_on_a_stale_head_is_decided_again(bench: Bench) -> None:
    """G8: another process completed the job; our cache still says IN_PROGRESS, and the other way round."""
    other = bench.handler()
    await bench.here.execute(JOB, ASSIGN, CALLER)
    with pytest.raises(Conflict):
        await bench.here.execute(JOB, COMPLETE, CALLER)
    await other.execute(JOB, CLAIM, CALLER)
    done = await bench.here.execute(JOB, COMPLETE, CALLER)
    assert done.head.state.status is JobStatus.COMPLETED
    with pytest.raises(Fenced):
        await other.execute(JOB, c.ReleaseJob(attempt=1), CALLER)


async def test_of_many_claims_one_wins(bench: Bench) -> None:
    """G6: at most one lease, whoever asks and however many processes answer."""
    await bench.here.execute(JOB, ASSIGN, CALLER)
    handlers = [bench.handler() for _ in range(8)]
    claims = [handler.execute(JOB, CLAIM, CALLER) for handler in handlers for _ in range(4)]
    results = await asyncio.gather(*claims, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(result, Conflict) for result in results if isinstance(result, BaseException))
    assert (await bench.types()).count("job.claimed") == 1


async def test_cancel_and_complete_race_has_one_winner(bench: Bench) -> None:
    """G8: both processes believe that they are first."""
    one, two = bench.handler(), bench.handler()
    await one.execute(JOB, ASSIGN, CALLER)
    await one.execute(JOB, CLAIM, CALLER)
    await two.head(JOB)
    cancel = c.CancelJob(by="user:ada", retention_s=60)
    results = await asyncio.gather(
        one.execute(JOB, cancel, CALLER), two.execute(JOB, COMPLETE, CALLER), return_exceptions=True
    )
    terminal = [t for t in await bench.types() if t in ("job.cancelled", "job.completed")]
    assert len(terminal) == 1, results


async def test_a_repeated_key_gives_the_first_answer_and_no_second_event(bench: Bench) -> None:
    """G2: the same key and body → the same sequence; another body → KeyReused."""
    await bench.here.execute(JOB, ASSIGN, CALLER)
    key = KeyUse("aaaaaaaaaaa", "bbbbbbbbbbb")
    first = await bench.here.execute(JOB, CLAIM, CALLER, key)
    await bench.here.execute(JOB, COMPLETE, CALLER)
    again = await bench.handler().execute(JOB, CLAIM, CALLER, key)
    assert (again.seq, again.repeated) == (first.seq, True)
    with pytest.raises(KeyReused):
        await bench.handler().execute(JOB, CLAIM, CALLER, KeyUse("aaaaaaaaaaa", "ccccccccccc"))
    assert (await bench.types()).count("job.claimed") == 1


async def test_the_carried_state_is_the_fold(bench: Bench) -> None:
    """The fold is the truth; the state in each event must equal it, keys included."""
    for index, command in enumerate((ASSIGN, CLAIM, COMPLETE)):
        await bench.here.execute(JOB, command, CALLER, KeyUse(f"key{index:08}", "b" * 11))
    async for batch in bench.store.read():
        for event in batch:
            folded = await fold_job(bench.store, _where(), JOB, to_seq=event.seq)
            carried = job_state.from_json(event.decode()["state"])
            assert carried is not None
            assert job_state.placed(carried, event.seq) == folded.state


async def test_the_fold_of_events_of_an_older_form_is_what_they_carry(bench: Bench) -> None:
    """They carry the trace as 32 characters, whole hashes and whole holders; keys that did not fit then are not remembered now."""
    await bench.here.execute(JOB, ASSIGN, CALLER)
    for number in range(4):
        await bench.here.execute(JOB, c.ReprioritizeJob("user:a", number), CALLER, KeyUse(f"{number}" * 11, "b" * 11))
    old: list[tuple[int, dict[str, Any]]] = []
    keys: list[str] = []
    async for batch in bench.store.read():
        for recorded in batch:
            flat = recorded.decode()
            carried = flat["state"]
            if "trace" in carried:
                carried["trace"] = job_state.trace_of(carried["trace"])
            if "keys" in carried:
                keys = [
                    *[key.replace(".0", f".{recorded.seq - 1}") for key in keys],
                    f"{flat['priority']}" * 11 + ".bbbbbbbbbbb.0",
                ]
                carried["keys"] = keys = keys[-2:]
            old.append((recorded.seq, flat))
    state: JobState | None = None
    for seq, flat in old:
        event, flat = envelope.unseal(orjson.dumps(flat))
        state = step(state, event, flat, seq)
        carried = job_state.from_json(flat["state"])
        assert carried is not None
        assert job_state.placed(carried, seq) == state
    assert state is not None
    assert [state.key_seen(f"{number}" * 11) is not None for number in range(4)] == [False, False, True, True]


async def test_a_state_of_another_version_is_folded(bench: Bench) -> None:
    """N and N + 1 side by side: who does not know the carried state reads the history."""
    await bench.here.execute(JOB, ASSIGN, CALLER)
    last = await bench.store.last(f"aura.job.1.{JOB}.>")
    assert last is not None
    claimed = await bench.handler().execute(JOB, CLAIM, CALLER)
    recorded = await bench.store.get(claimed.seq)
    assert recorded is not None
    newer = recorded.body.replace(b'"state":{"v":1', b'"state":{"v":2')
    newer = newer.replace(b"job.claimed", b"job.stage_changed").replace(
        b'"worker_id":"w1"', b'"stage":"s","status":"done"'
    )
    stage = Append(f"aura.job.1.{JOB}.stage_changed", f"aura.job.1.{JOB}.>", claimed.seq, "stage-event", newer)
    await bench.store.append(stage)
    head = await bench.handler().head(JOB)
    assert head.state.status is JobStatus.IN_PROGRESS
    assert head.seq == claimed.seq + 1


def _where() -> subjects.Subject:
    return subjects.parse(f"aura.job.1.{JOB}.created")
