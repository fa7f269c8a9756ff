"""A workflow as a worker's handler: one job, one session, agents one after another.

The payload is ``{"workflow": name, "input": {…}}``. The handler tells the session that this attempt has begun (a retried job starts its
session again, with no agents), runs the workflow and returns its result, which is the job's and thereby the session's. A failure in
words for users (``AgentError``) fails the job with that text; anything else is logged here and becomes a generic sentence, so that the
stored error text never holds internals. ``Retryable`` is tried again while attempts remain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from aura.agents.context import Job, WorkflowContext
from aura.agents.handoff import AgentHandoff
from aura.errors import AgentError, ConfigError, Fatal, Refused, Retryable
from aura.events.subjects import check_name

log = structlog.get_logger("aura.agents")

#: A pool may have workers with different workflows: one that does not have a job's gives it back so often, for another one to take.
TRIES = 8
GIVE_BACK_S = 0.3
UNFINISHED = "The workflow could not be finished."


@dataclass(frozen=True, slots=True)
class Workflow:
    """``run`` calls agents of ``handoff`` and returns the result (a JSON object, at most 1 MiB)."""

    name: str
    handoff: AgentHandoff
    run: Callable[[WorkflowContext], Awaitable[Mapping[str, Any]]]


def workflow_handler(workflows: Iterable[Workflow]) -> Callable[[Job], Awaitable[dict[str, Any]]]:
    """The handler of a worker that runs these. Raises ``ConfigError`` when two have the same name."""
    known: dict[str, Workflow] = {}
    for workflow in workflows:
        if check_name(workflow.name, "workflow") in known:
            raise ConfigError(f"two workflows are called {workflow.name}")
        known[workflow.name] = workflow

    async def handle(job: Job) -> dict[str, Any]:
        payload = job.payload if isinstance(job.payload, dict) else {}
        name, given = payload.get("workflow"), payload.get("input")
        workflow = known.get(name) if isinstance(name, str) else None
        if workflow is None and job.attempt < TRIES:
            await job.snooze(GIVE_BACK_S)
        told = await job.session("started", **({"workflow": workflow.name} if workflow is not None else {}))
        if workflow is None:
            names = ", ".join(sorted(known)) or "none"
            raise Fatal(f"There is no such workflow here; known workflows: {names}.", error_code="unknown_workflow")
        context = WorkflowContext(job, told.get("session_id"), given if isinstance(given, dict) else {"input": given})
        return await _run(workflow, context)

    return handle


async def _run(workflow: Workflow, context: WorkflowContext) -> dict[str, Any]:
    where = {"workflow": workflow.name, "job_id": context.job.job_id}
    try:
        return dict(await workflow.run(context))
    except AgentError:
        raise
    except Retryable as error:
        raise Retryable(UNFINISHED, error_code=error.error_code) from error
    except Refused as error:
        log.error("workflow.refused", code=error.code, why=error.detail, **where)
        raise Fatal(UNFINISHED, error_code=error.code) from error
    except Exception as error:  # a workflow may raise anything; users read none of it
        log.error("workflow.failed", exc_info=error, **where)
        raise Fatal(UNFINISHED, error_code="workflow_failed") from error
