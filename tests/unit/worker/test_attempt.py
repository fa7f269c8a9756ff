"""The life of an attempt and of a worker, over a link without a network (``tests/support/worker_link.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aura.errors import ConfigError, Conflict, Fenced, InvalidRequest, NotFound, TooLarge, Unavailable
from aura.worker import Fatal, JobContext, Retryable, Submitted, Worker
from tests.support.worker_link import MemoryLink, Offer

JOB = "0199c000-0000-7000-8000-000000000001"
OTHER = "0199c000-0000-7000-8000-000000000002"


async def nothing(job: JobContext) -> None:
    """A job that does nothing."""


@asynccontextmanager
async def working(
    handler: Callable[[JobContext], Awaitable[Any]], **options: Any
) -> AsyncIterator[tuple[MemoryLink, Worker]]:
    link = MemoryLink()
    async with (
        asyncio.timeout(30),
        Worker("m", handler, link=link, worker_id="w", **{"grace_s": 0, **options}) as worker,
    ):
        yield link, worker


async def down_to(worker: Worker, in_flight: int) -> None:
    """Wait until at most that many attempts are not settled."""
    while worker.in_flight > in_flight:
        await asyncio.wait(set(worker._tasks), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)


class Gate:
    """A handler that says when it began and ends when told."""

    def __init__(self) -> None:
        self.began, self.open = asyncio.Event(), asyncio.Event()
        self.job: JobContext | None = None
        self.cancelled = False

    async def __call__(self, job: JobContext) -> dict[str, Any]:
        self.job = job
        self.began.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return {"done": True}


async def test_a_job_is_claimed_acked_handled_and_completed() -> None:
    async def handle(job: JobContext) -> dict[str, Any]:
        await job.stream("hello ")
        await job.stream(str(job.payload["name"]), final=True)
        await job.log("said hello", "SUCCESS")
        await job.progress(150, "all")
        await job.stage("greet", "done")
        return {"greeted": job.payload["name"]}

    async with working(handle) as (link, _):
        offer = link.offer(JOB, {"name": "Ada"})
        [done] = await link.wait_for("complete")
        assert offer.settled == "ack"
        assert link.sent("claim") == [{"job_id": JOB, "lease_ttl_s": 10.0, "model": "m", "offered": True}]
        assert link.sent("stage") == [{"stage": "greet", "status": "done", "job_id": JOB, "attempt": 1}]
        assert done == {"success": True, "details": {"greeted": "Ada"}, "job_id": JOB, "attempt": 1, "output_count": 4}
        output = link.outputs[JOB, 1]
        assert output.text() == "hello Ada"
        assert output.records[-1] == ("progress", {"percent": 100.0, "step": "all"})


async def test_a_refused_claim_is_acked_and_runs_nothing() -> None:
    async def handle(job: JobContext) -> None:
        raise AssertionError("must not run")

    async with working(handle) as (link, worker):
        for error in (Conflict("taken", status="IN_PROGRESS"), NotFound("job", JOB)):
            link.faults["claim"].append(error)
            offer = link.offer(JOB)
            await link.wait_for("claim", len(link.calls))
            await down_to(worker, 0)
            assert offer.settled == "ack"
        assert link.sent("complete") == link.sent("fail") == []


async def test_claims_and_reports_repeat_with_the_same_key_until_the_outcome_is_known_g2() -> None:
    async with working(nothing) as (link, _):
        link.faults["claim"].extend([Unavailable("gone"), Unavailable("gone")])
        link.faults["complete"].append(Unavailable("gone"))
        offer = link.offer(JOB)
        await link.wait_for("complete", 2)
        assert len(set(link.keys("claim"))) == 1
        assert str(link.keys("claim")[0]).startswith(f"{offer.seq}-")
        assert len(set(link.keys("complete"))) == 1
        assert link.attempts[JOB] == 1


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (Retryable("later", error_code="busy"), "busy", True),
        (Fatal("never"), "worker_fatal", False),
        (ValueError("wrong"), "ValueError", True),
        (SystemExit(3), "SystemExit", True),
        (Fatal("odd", error_code="no good / code"), "no_good___code", False),
    ],
)
async def test_whatever_a_handler_raises_is_a_failure_of_its_job_only(
    error: BaseException, code: str, retryable: bool
) -> None:
    async def handle(job: JobContext) -> None:
        if job.payload:
            raise error

    async with working(handle) as (link, _):
        link.offer(JOB, "fail")
        [failed] = await link.wait_for("fail")
        assert (failed["error_code"], failed["retryable"]) == (code, retryable)
        assert str(error.args[0]) in failed["reason"]
        link.offer(OTHER)
        await link.wait_for("complete")


async def test_a_handler_that_cancels_itself_fails_its_job() -> None:
    async def handle(job: JobContext) -> None:
        raise asyncio.CancelledError

    async with working(handle) as (link, _):
        link.offer(JOB)
        [failed] = await link.wait_for("fail")
        assert failed["error_code"] == "CancelledError"


@pytest.mark.parametrize(
    ("refusal", "code"), [(TooLarge("big", limit=1), "too_large"), (InvalidRequest("odd"), "invalid_request")]
)
async def test_a_result_that_cannot_be_stored_fails_the_job(refusal: Any, code: str) -> None:
    async with working(nothing) as (link, _):
        link.faults["complete"].append(refusal)
        link.offer(JOB)
        [failed] = await link.wait_for("fail")
        assert (failed["error_code"], failed["retryable"]) == (code, False)


async def test_a_result_that_is_not_json_fails_the_job() -> None:
    async def handle(job: JobContext) -> Any:
        return {"what": object()}

    async with working(handle) as (link, _):
        link.offer(JOB)
        [failed] = await link.wait_for("fail")
        assert failed["error_code"] == "result_not_json"


async def test_snooze_releases_and_submitted_waits_for_a_verdict() -> None:
    async def handle(job: JobContext) -> Any:
        try:
            if job.payload == "later":
                await job.snooze(30)
        except Exception:  # noqa: BLE001 - user code does this; it must not swallow the snooze
            raise AssertionError from None
        return Submitted({"draft": 1})

    async with working(handle) as (link, _):
        link.offer(JOB, "later")
        [released] = await link.wait_for("release")
        assert released == {"delay_s": 30, "job_id": JOB, "attempt": 1}
        link.offer(OTHER)
        [done] = await link.wait_for("complete")
        assert (done["success"], done["details"]) == (False, {"draft": 1})


@pytest.mark.parametrize(("how", "attempt"), [("cancelled", None), ("lease_expired", 1)])
async def test_an_ended_job_stops_its_handler_and_nothing_more_is_written_g6(how: str, attempt: int | None) -> None:
    gate = Gate()
    async with working(gate) as (link, worker):
        link.offer(JOB)
        await gate.began.wait()
        assert gate.job is not None
        signal = gate.job.cancelled
        link.end(JOB, how, attempt)
        await down_to(worker, 0)
        assert gate.cancelled
        assert signal.is_set()
        await gate.job.stream("too late")
        await gate.job.stage("too-late")
        assert link.outputs[JOB, 1].closed
        assert {name for name, *_ in link.calls} == {"hello", "claim"}


async def test_an_end_before_the_claim_is_answered_counts_only_if_it_is_newer() -> None:
    gate = Gate()
    async with working(gate, slots=2) as (link, worker):
        link.gates["claim"] = asyncio.Event()
        link.offer(JOB)
        await link.wait_for("claim")
        link.end(JOB)  # an older end: the job was retried and assigned again
        link.gates["claim"].set()
        await gate.began.wait()
        gate.open.set()
        await link.wait_for("complete")

        link.gates["claim"] = asyncio.Event()
        link.offer(OTHER)
        await link.wait_for("claim", 2)
        link._seq += 10
        link.end(OTHER)
        link._seq -= 11
        link.gates["claim"].set()
        await down_to(worker, 0)
        assert len(link.sent("complete")) == 1


async def test_heartbeats_name_all_leases_and_their_answers_stop_handlers() -> None:
    gates = {JOB: Gate(), OTHER: Gate()}

    async def handle(job: JobContext) -> Any:
        return await gates[job.job_id](job)

    async with working(handle, slots=2) as (link, worker):
        link.offer(JOB)
        link.offer(OTHER)
        await gates[JOB].began.wait()
        await gates[OTHER].began.wait()
        link.beats["fenced"] = [JOB]
        link.on_reconnect()  # beats at once
        [beat] = await link.wait_for("heartbeat")
        assert beat == {"in_flight": [{"job_id": JOB, "attempt": 1}, {"job_id": OTHER, "attempt": 1}]}
        await down_to(worker, 1)
        assert gates[JOB].cancelled
        assert not gates[OTHER].cancelled
        gates[OTHER].open.set()
        [done] = await link.wait_for("complete")
        assert done["job_id"] == OTHER


async def test_a_lease_lost_while_reporting_is_settled_by_the_answer() -> None:
    async with working(nothing) as (link, worker):
        link.gates["complete"] = asyncio.Event()
        link.offer(JOB)
        await link.wait_for("complete")
        link.end(JOB, "lease_expired", 1)
        link.faults["complete"].append(Fenced("older", attempt=1, current=2))
        link.gates["complete"].set()
        await down_to(worker, 0)
        assert len(link.sent("complete")) == 1


async def test_cancel_tasks_false_only_sets_the_event() -> None:
    seen = asyncio.Event()

    async def handle(job: JobContext) -> None:
        await job.cancelled.wait()
        seen.set()

    async with working(handle, cancel_tasks=False) as (link, worker):
        link.offer(JOB)
        await link.wait_for("claim")
        await asyncio.sleep(0)
        link.end(JOB)
        await seen.wait()
        await down_to(worker, 0)
        assert link.sent("complete") == []


async def test_draining_lets_handlers_finish_within_the_grace_and_releases_the_rest() -> None:
    quick, slow = Gate(), Gate()

    async def handle(job: JobContext) -> Any:
        return await (quick if job.job_id == JOB else slow)(job)

    async with working(handle, slots=3, grace_s=0.2) as (link, worker):
        link.offer(JOB)
        link.offer(OTHER)
        await quick.began.wait()
        await slow.began.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        late = link.offer(OTHER[:-1] + "3")
        quick.open.set()
        await stopping
        assert late.settled == "nak"
        assert [done["job_id"] for done in link.sent("complete")] == [JOB]
        assert link.sent("release") == [{"delay_s": 0, "job_id": OTHER, "attempt": 1}]
        assert link.taken[-1] == 0
        assert [(beat["slots"], beat["payload"]["status"]) for beat in link.health] == [
            (3, "ok"),
            (0, "draining"),
            (0, "stopped"),
        ]
        assert link.stopped
        await worker.stop()


async def test_a_claim_answered_while_draining_is_released_unstarted() -> None:
    async def handle(job: JobContext) -> None:
        raise AssertionError("must not run")

    async with working(handle, grace_s=1) as (link, worker):
        link.gates["claim"] = asyncio.Event()
        link.offer(JOB)
        await link.wait_for("claim")
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        link.gates["claim"].set()
        await stopping
        assert link.sent("release") == [{"job_id": JOB, "attempt": 1}]


async def test_a_result_that_is_ready_while_draining_counts() -> None:
    async def handle(job: JobContext) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"saved": True}
        raise AssertionError

    async with working(handle) as (link, worker):
        link.offer(JOB)
        await link.wait_for("claim")
        await asyncio.sleep(0)
        await worker.stop()
        [done] = link.sent("complete")
        assert done["details"] == {"saved": True}


async def test_slots_bound_what_is_taken_and_a_repeated_delivery_is_one_attempt() -> None:
    async with working(nothing, slots=3) as (link, worker):
        assert link.taken == [3]
        link.gates["claim"] = asyncio.Event()
        offer = link.offer(JOB)
        link.on_assigned(Offer(offer.seq, JOB))
        await link.wait_for("claim")
        link.gates["claim"].set()
        await link.wait_for("complete")
        await down_to(worker, 0)
        assert len(link.sent("claim")) == 1
        assert link.taken[-1] == 3


async def test_a_redelivery_after_a_lost_acknowledgement_is_acked_and_not_run_again_g6() -> None:
    gate = Gate()
    async with working(gate, slots=3) as (link, worker):
        offer = link.offer(JOB)
        await gate.began.wait()
        again = Offer(offer.seq, JOB)
        link.on_assigned(again)
        assert again.settled == "ack"
        gate.open.set()
        await link.wait_for("complete")
        await down_to(worker, 0)
        later = Offer(offer.seq, JOB)
        link.on_assigned(later)
        assert later.settled == "ack"
        assert len(link.sent("claim")) == 1


async def test_a_second_offer_of_a_running_job_leaves_its_attempt_alone() -> None:
    gate = Gate()
    async with working(gate, slots=3) as (link, worker):
        link.offer(JOB)
        await gate.began.wait()
        link.faults["claim"].append(Conflict("in progress", status="IN_PROGRESS"))
        second = link.offer(JOB)
        await link.wait_for("claim", 2)
        await down_to(worker, 1)
        assert second.settled == "ack"
        assert [attempt.number for attempt in worker.holding()] == [1]
        gate.open.set()
        await link.wait_for("complete")


async def test_a_newer_attempt_of_the_same_job_ends_the_older_one_g6() -> None:
    gates = {1: Gate(), 2: Gate()}

    async def handle(job: JobContext) -> Any:
        return await gates[job.attempt](job)

    async with working(handle, slots=3) as (link, worker):
        link.offer(JOB)
        await gates[1].began.wait()
        link.offer(JOB)
        await gates[2].began.wait()
        await down_to(worker, 1)
        assert gates[1].cancelled
        gates[2].open.set()
        [done] = await link.wait_for("complete")
        assert done["attempt"] == 2


async def test_long_text_is_split_and_odd_text_is_made_sound() -> None:
    async def handle(job: JobContext) -> None:
        await job.stream("x" * 200_000)
        await job.log("half a pair: \ud800")

    async with working(handle) as (link, _):
        link.offer(JOB)
        await link.wait_for("complete")
        output = link.outputs[JOB, 1]
        assert output.text() == "x" * 200_000
        assert output.count == 5
        assert output.lines() == ["half a pair: ?"]


async def test_hello_is_repeated_until_somebody_answers() -> None:
    link = MemoryLink()
    link.faults["hello"].append(Unavailable("nobody"))
    async with Worker("m", nothing, link=link, worker_id="w", slots=2, roles=["Employee"], grace_s=0):
        assert link.sent("hello") == [{"model": "m", "slots": 2, "roles": ["Employee"], "interval_s": 5.0}] * 2


def test_bad_options_are_refused_when_the_worker_is_made() -> None:
    def plain(job: JobContext) -> None: ...

    with pytest.raises(ConfigError, match="async"):
        Worker("m", plain, link=MemoryLink())  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="model"):
        Worker("a.b", nothing, link=MemoryLink())
    with pytest.raises(ConfigError, match="slots"):
        Worker("m", nothing, slots=0, link=MemoryLink())
    with pytest.raises(ConfigError, match="lease"):
        Worker("m", nothing, lease_ttl_s=1, link=MemoryLink())
