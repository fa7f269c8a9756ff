"""``POST /run-workflow``: start an agent workflow as an ordinary job, wait for it, answer with what it found.

::

    asked ─▶ (known session) ────────────┐
      └ new ─▶ is a worker there? ─▶ job and session stored ─▶ waiting ─▶ 200 result · 202 still running · problem
                  └ none heard within a moment: 503

The session id makes it repeatable: the same request with it gets the same answer, however often and from whomever; another request is
409. An ``Idempotency-Key`` does so too (another request under it is 422), and makes the session id where none is given. Waiting is by the
log (a watch on the job), not by asking again and again. A client that goes away cancels nothing. What a failed workflow says is the
session's sentence for users (``commands/session_end.py``), never an error text.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import orjson
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from aura.commands import requests as r
from aura.commands import session_end
from aura.commands.handler import Caller
from aura.commands.heads import JobHead
from aura.commands.results import reported
from aura.domain import session as domain
from aura.errors import Unavailable
from aura.events import subjects
from aura.gateway.access.scoping import check_project
from aura.gateway.api import problems
from aura.gateway.api.commands import arguments, caller_of, json, principal_of
from aura.gateway.api.forms import Project
from aura.gateway.api.waits import waited
from aura.gateway.context import Gateway
from aura.ids import derived
from aura.setting_values import AGENTS_MODEL

MAX_WAIT_S = 120
#: How long the answer to a closed job waits for its session's last event, so that a read at its ``seq`` sees both.
SETTLE_S = 2.0
#: Also who does not want to wait is told of a workflow that has ended: so long a look takes at most.
LOOK_S = 0.25
#: A worker counts as there if it was heard of within this time; a missing one is waited for a moment (it may just be starting).
HEARD_S, MOMENT_S = 30.0, 5.0
NOBODY = (
    f"no worker runs agent workflows (pool {AGENTS_MODEL}): start one with "
    "`aura worker --workflows retail=examples.retail.workflow:workflow`"
)


class RunWorkflow(r.Request):
    """Run an agent workflow on a strategy in plain words. Without ``session_id`` a new one is made. ``wait_s``: how long to wait for the
    result before answering 202."""

    strategy_description: Annotated[str, Field(min_length=1, max_length=r.MAX_STRATEGY, pattern=r"\S")]
    session_id: r.Name | None = None
    project_id: Project = 1
    workflow: r.Name = "retail"
    wait_s: Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)] = 60


async def run(gateway: Gateway, request: Request) -> Response:
    """``POST /run-workflow``. Raises ``InvalidRequest``, ``Conflict``, ``Forbidden``, ``Unauthenticated``, ``Unavailable``."""
    asked = r.parse(RunWorkflow, await arguments(gateway, request, text_field="strategy_description"))
    r.stored_json(asked.strategy_description, "strategy_description")
    check_project(principal_of(request), asked.project_id)
    caller = caller_of(gateway, request)
    if asked.session_id is None and caller.idempotency_key is not None:
        made = derived("run-workflow", asked.project_id, caller.actor, caller.idempotency_key)
        asked = asked.model_copy(update={"session_id": made})
    _, answer = await waited(gateway, request, _answer(gateway, asked, caller, request))
    if answer is None:
        raise Unavailable("the gateway is stopping; ask again with the same session_id")
    return answer


async def _answer(gateway: Gateway, asked: RunWorkflow, caller: Caller, request: Request) -> Response:
    session_id = asked.session_id or gateway.ctx.ids.uuid7()
    project = asked.project_id
    session = subjects.session_guard(project, session_id)
    if asked.session_id is None or await gateway.ctx.store.last(session) is None:
        await _worker_is_there(gateway, min(MOMENT_S, max(1.0, asked.wait_s)))
    params = {
        "project_id": project,
        "session_id": session_id,
        "workflow": asked.workflow,
        "input": {"strategy_description": asked.strategy_description},
    }
    # Stored or not, never half: a client that leaves now does not interrupt it.
    made = await asyncio.shield(asyncio.ensure_future(gateway.ctx.commands.call("run_workflow", params, caller)))
    where = {"session_id": session_id, "job_id": made["job_id"]}
    try:
        async with asyncio.timeout(max(asked.wait_s, LOOK_S)):
            head, seq = await _ended(gateway, project, made["job_id"], session)
    except TimeoutError:
        return json({"status": "running", **where, "seq": made["seq"]}, 202, {"location": f"/sessions/{session_id}"})
    end = await session_end.ending(gateway.ctx.store, head, session_id)
    match end:
        case domain.CompleteSession():
            details = (await reported(gateway.ctx.store, gateway.ctx.content, head)).details
            found = orjson.loads(details) if details is not None else {}
            ours = {"status": "success", **where, "seq": seq}
            return json(ours | (found if isinstance(found, dict) else {"result": found}) | ours)
        case domain.FailSession(error_code, message):
            return _problem(request, 502, "workflow_failed", message, error_code=error_code, seq=seq, **where)
        case _:
            return _problem(request, 409, "workflow_cancelled", "The workflow was cancelled.", seq=seq, **where)


async def _ended(gateway: Gateway, project: int, job_id: str, session: str) -> tuple[JobHead, int]:
    """Wait until the job is closed, and a moment for its session: the job, and the sequence that shows both."""
    moved = asyncio.Event()
    stop = gateway.hub.watch((subjects.job_guard(project, job_id), session), lambda _frame: moved.set())
    try:
        while True:
            moved.clear()
            head = await gateway.ctx.commands.jobs.head(job_id, consistent=True)
            if head.state.status.closed:
                break
            await moved.wait()
        seq = head.seq
        try:
            async with asyncio.timeout(SETTLE_S):
                while True:
                    moved.clear()
                    last = await gateway.ctx.store.last(session, consistent=True)
                    if last is not None and subjects.parse(last.subject).type in _ENDS:
                        return head, max(seq, last.seq)
                    await moved.wait()
        except TimeoutError:
            return head, seq
    finally:
        stop()


_ENDS = frozenset({"session.completed", "session.failed", "session.cancelled"})


async def _worker_is_there(gateway: Gateway, moment_s: float) -> None:
    """Return when a worker of the pool was heard of lately, or is now. Raises ``Unavailable``."""
    heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def listen(subject: str, body: bytes) -> None:
        if subject.startswith(f"health.aura.{AGENTS_MODEL}.") and b'"stopped"' not in body and not heard.done():
            heard.set_result(None)

    stop = await gateway.ctx.health.watch(listen) if gateway.ctx.health is not None else None
    try:
        rows = await gateway.ctx.queries.models_health(window_s=HEARD_S)
        if any(row["model_name"] == AGENTS_MODEL and row.get("workers", 1) for row in rows):
            return
        async with asyncio.timeout(moment_s if stop is not None else 0):
            await heard
    except TimeoutError:
        raise Unavailable(NOBODY, retry_after_s=5) from None
    finally:
        if stop is not None:
            await stop()


def _problem(request: Request, status: int, code: str, detail: str, **extra: Any) -> Response:
    """How a workflow that was not finished is told."""
    body = problems.problem(
        status,
        code,
        detail,
        instance=problems.instance_of(request.scope),
        trace_id=request.scope.get("aura.trace_id", ""),
        **extra,
    )
    return Response(body, status, media_type=problems.MEDIA_TYPE)
