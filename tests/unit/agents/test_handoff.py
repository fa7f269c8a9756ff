"""Agents in a real worker over a link without a network: what the session is told, and what users never read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aura.agents import AgentContext, AgentError, AgentHandoff, Workflow, WorkflowContext, workflow_handler
from aura.agents.loading import load_workflows
from aura.agents.workflow import GIVE_BACK_S, TRIES
from aura.errors import ConfigError, Fenced, InvalidRequest, Retryable
from aura.worker import Worker
from tests.support.worker_link import MemoryLink

JOB = "0199c000-0000-7000-8000-000000000001"
SECRET = "/root/secret.pem: password=hunter2"
Run = Callable[[AgentHandoff, WorkflowContext], Awaitable[Mapping[str, Any]]]


class SessionLink(MemoryLink):
    """The scripted link, with a session behind it."""

    session_id: str | None = "s1"

    async def call(self, name: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        answer = await super().call(name, body, key)
        return {"session_id": self.session_id, "status": "RUNNING", **answer} if name == "session" else answer

    def told(self) -> list[tuple[str, str | None]]:
        return [(body["event"], body.get("agent")) for body in self.sent("session")]

    def progress(self) -> list[dict[str, Any]]:
        return [record for kind, record in self.outputs[JOB, 1].records if kind == "progress"]


@asynccontextmanager
async def ran(handoff: AgentHandoff, run: Run, *, link: SessionLink | None = None) -> AsyncIterator[SessionLink]:
    """A worker that has run one workflow to its report."""
    link = link or SessionLink()

    async def body(context: WorkflowContext) -> Mapping[str, Any]:
        return await run(handoff, context)

    handler = workflow_handler([Workflow("w", handoff, body)])
    async with asyncio.timeout(30), Worker("agents", handler, link=link, worker_id="a", grace_s=0) as worker:
        link.offer(JOB, {"workflow": "w", "input": {"n": 20}})
        reports = [asyncio.create_task(link.wait_for(name)) for name in ("complete", "fail")]
        await asyncio.wait(reports, return_when=asyncio.FIRST_COMPLETED)
        for task in reports:
            task.cancel()
        await asyncio.gather(*reports, return_exceptions=True)
        del worker
        yield link


async def test_an_agent_that_finishes_is_told_from_start_to_end() -> None:
    handoff = AgentHandoff()

    @handoff.agent("double")
    async def double(context: AgentContext) -> dict[str, Any]:
        await context.progress(50, "doubling", {"of": context.input["n"]})
        return {"n": context.input["n"] * 2}

    @handoff.agent("add")
    async def add(context: AgentContext) -> dict[str, Any]:
        return {"n": context.results["double"]["n"] + 2}

    async def run(handoff: AgentHandoff, context: WorkflowContext) -> Mapping[str, Any]:
        await handoff.call("double", context, timeout=5)
        return await handoff.call("add", context, timeout=5)

    async with ran(handoff, run) as link:
        assert link.sent("complete")[0]["details"] == {"n": 42}
        assert link.told() == [
            ("started", None),
            ("agent_started", "double"),
            ("agent_completed", "double"),
            ("agent_started", "add"),
            ("agent_completed", "add"),
        ]
        started, _, completed, *_ = link.sent("session")
        assert started["workflow"] == "w"
        assert (completed["session_id"], completed["attempt"], completed["output"]) == ("s1", 1, {"n": 40})
        assert completed["duration_ms"] >= 0
        (record,) = link.progress()
        assert (record["percent"], record["step"], record["agent"], record["data"]) == (
            50,
            "doubling",
            "double",
            {"of": 20},
        )
        keys = link.keys("session")
        assert len(set(keys)) == len(keys), "every step has its own idempotency key"


async def test_a_job_without_a_session_runs_and_tells_nobody_of_agents() -> None:
    handoff = AgentHandoff()

    @handoff.agent("one")
    async def one(context: AgentContext) -> None:
        await context.progress(100, "done")

    link = SessionLink()
    link.session_id = None
    async with ran(handoff, lambda handoff, context: handoff.call("one", context), link=link):
        assert link.told() == [("started", None)]
        assert link.progress()[0]["agent"] == "one"
        assert link.sent("complete")


async def test_what_an_agent_says_to_users_reaches_them() -> None:
    handoff = AgentHandoff()

    @handoff.agent("picky")
    async def picky(_context: AgentContext) -> None:
        raise AgentError("The strategy names no product.\n\x1b[31m" + "x" * 300, error_code="no product!")

    async with ran(handoff, lambda handoff, context: handoff.call("picky", context)) as link:
        failed = link.sent("session")[-1]
        assert failed["event"] == "agent_failed"
        assert failed["error_code"] == "no_product_"
        assert failed["message"].startswith("The strategy names no product.")
        assert len(failed["message"]) <= 200
        assert failed["message"].isprintable()
        report = link.sent("fail")[0]
        assert (report["error_code"], report["retryable"]) == ("no_product_", False)


@pytest.mark.parametrize("error", [RuntimeError(SECRET), KeyError(SECRET), TimeoutError(SECRET), OSError(2, SECRET)])
async def test_what_an_agent_raises_otherwise_stays_inside(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    handoff = AgentHandoff()

    @handoff.agent("broken")
    async def broken(_context: AgentContext) -> None:
        raise error

    async with ran(handoff, lambda handoff, context: handoff.call("broken", context)) as link:
        failed = link.sent("session")[-1]
        assert (failed["event"], failed["error_code"]) == ("agent_failed", "agent_failed")
        assert failed["message"] == "The agent broken could not finish its work."
        assert "hunter2" not in str(link.calls)


async def test_a_workflow_that_raises_tells_users_nothing_of_it() -> None:
    async def run(_handoff: AgentHandoff, _context: WorkflowContext) -> Mapping[str, Any]:
        raise ValueError(SECRET)

    async with ran(AgentHandoff(), run) as link:
        report = link.sent("fail")[0]
        assert (report["error_code"], report["retryable"]) == ("workflow_failed", False)
        assert "hunter2" not in str(link.calls)


async def test_retryable_is_tried_again_and_says_no_more_than_that() -> None:
    handoff = AgentHandoff()

    @handoff.agent("flaky")
    async def flaky(_context: AgentContext) -> None:
        raise Retryable(SECRET, error_code="busy")

    async with ran(handoff, lambda handoff, context: handoff.call("flaky", context)) as link:
        report = link.sent("fail")[0]
        assert (report["error_code"], report["retryable"]) == ("busy", True)
        assert "hunter2" not in str(link.calls)


async def test_an_agent_that_takes_too_long_is_stopped() -> None:
    handoff = AgentHandoff()
    stopped = asyncio.Event()

    @handoff.agent("slow")
    async def slow(_context: AgentContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with ran(handoff, lambda handoff, context: handoff.call("slow", context, timeout=0.01)) as link:
        assert stopped.is_set()
        failed = link.sent("session")[-1]
        assert (failed["event"], failed["error_code"]) == ("agent_failed", "agent_timeout")
        assert failed["message"] == "The agent slow took longer than 0.01 seconds."


async def test_an_unknown_agent_is_named_with_those_that_are_known() -> None:
    handoff = AgentHandoff()

    async def agent(_context: AgentContext) -> None: ...

    handoff.register("one", agent)
    handoff.register("two", agent)
    async with ran(handoff, lambda handoff, context: handoff.call("three", context)) as link:
        assert link.told() == [("started", None)]
        report = link.sent("fail")[0]
        assert report["error_code"] == "unknown_agent"
        assert report["reason"] == "There is no agent 'three'; known agents: one, two."
    with pytest.raises(ConfigError, match="two agents"):
        handoff.register("one", agent)
    with pytest.raises(InvalidRequest):
        handoff.register("no spaces", agent)


async def test_an_unknown_workflow_is_given_back_for_another_worker_and_in_the_end_fails() -> None:
    handler = workflow_handler([Workflow("w", AgentHandoff(), lambda context: asyncio.sleep(0, {}))])
    link = SessionLink()
    async with asyncio.timeout(30), Worker("agents", handler, link=link, worker_id="a", grace_s=0):
        for times in range(1, TRIES):
            link.offer(JOB, {"workflow": "other", "input": None})
            released = await link.wait_for("release", times)
            assert released[-1]["delay_s"] == GIVE_BACK_S
        link.offer(JOB, {"workflow": "other", "input": None})
        report = (await link.wait_for("fail"))[0]
        assert (report["error_code"], report["retryable"]) == ("unknown_workflow", False)
        assert "known workflows: w" in report["reason"]


async def test_an_attempt_that_is_not_ours_any_more_says_nothing_more() -> None:
    handoff = AgentHandoff()

    @handoff.agent("late")
    async def late(context: AgentContext) -> None:
        await context.progress(1, "still here")

    link = SessionLink()
    link.faults["session"].extend([Fenced("attempt 1 is not the current one")])
    handler = workflow_handler([Workflow("w", handoff, lambda context: handoff.call("late", context))])
    async with asyncio.timeout(30), Worker("agents", handler, link=link, worker_id="a", grace_s=0) as worker:
        link.offer(JOB, {"workflow": "w", "input": {}})
        await link.wait_for("session")
        while worker.in_flight:
            await asyncio.wait(set(worker._tasks))
            await asyncio.sleep(0)
        assert link.told() == [("started", None)]
        assert not link.sent("complete")
        assert not link.sent("fail")


async def test_progress_data_has_a_bound() -> None:
    handoff = AgentHandoff()
    refused: list[str | None] = []

    @handoff.agent("chatty")
    async def chatty(context: AgentContext) -> None:
        for data in ({"text": "x" * 5_000}, {"text": object()}):
            try:
                await context.progress(1, "much", data)
            except InvalidRequest as error:
                refused.append(error.field)

    async with ran(handoff, lambda handoff, context: handoff.call("chatty", context)) as link:
        assert refused == ["data", "data"]
        assert link.sent("complete")


def test_workflows_are_loaded_by_name() -> None:
    (workflow,) = load_workflows(["shop=examples.retail.workflow:workflow"])
    assert (workflow.name, workflow.handoff.names) == ("shop", ["demand_forecaster", "planner", "strategy_analyst"])
    for bad in (
        "retail",
        "a=b",
        "a=nowhere.at.all:x",
        "a=examples.retail.workflow:nothing",
        "a=examples.retail.workflow:run",
    ):
        with pytest.raises(ConfigError):
            load_workflows([bad])
    with pytest.raises(ConfigError, match="two workflows"):
        workflow_handler([workflow, workflow])
