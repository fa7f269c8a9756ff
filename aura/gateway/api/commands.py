"""Commands over HTTP: collect the arguments, name the caller, call the command service.

Arguments come from the path and from one place besides: the body (an object, or for some a bare JSON string) or query
parameters; the same argument twice with different values is refused. Every answer carries the committed ``seq``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aura.commands import requests as r
from aura.commands.handler import Caller
from aura.errors import AuraError, InvalidRequest
from aura.events import subjects
from aura.gateway.access.principal import Principal
from aura.gateway.access.scoping import asked_projects, check, check_project
from aura.gateway.api import bodies, problems
from aura.gateway.api.endpoint import Handler
from aura.gateway.api.forms import BulkDryRun, Next
from aura.gateway.api.repeats import usable
from aura.gateway.api.waits import waited
from aura.gateway.context import Gateway
from aura.gateway.ports import JobFilter

NDJSON = "application/x-ndjson"
#: Commands of one bulk request that run at once.
_BULK_AT_ONCE = 16
MAX_BULK = 1_000


def json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), status, headers, "application/json")


def principal_of(request: Request) -> Principal:
    """Who asks, as the door let it in."""
    principal: Principal = request.scope["aura.principal"]
    return principal


def caller_of(gateway: Gateway, request: Request) -> Caller:
    """Who asks. The correlation id is the trace id, so a ``traceparent`` follows the request into the log."""
    key = request.headers.get("idempotency-key")
    if key is not None and not usable(key):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 printable characters", field="Idempotency-Key")
    principal = principal_of(request)
    return Caller(
        actor=principal.actor,
        correlation_id=request.scope["aura.trace_id"],
        causation_id=gateway.ctx.ids.uuid7(),
        idempotency_key=key,
        owner=principal.actor if "open" not in gateway.access.modes else None,
        projects=principal.projects,
    )


async def arguments(gateway: Gateway, request: Request, *, text_field: str | None = None) -> dict[str, Any]:
    """The request's arguments without those of the path. Raises ``InvalidRequest``."""
    body = await bodies.read_json(request, gateway.limits)
    found: dict[str, Any]
    if body is bodies.ABSENT or body is None:
        found = {}
    elif isinstance(body, dict):
        found = body
    elif isinstance(body, str) and text_field is not None:
        found = {text_field: body}
    else:
        expected = "a JSON object" if text_field is None else "a JSON object or string"
        raise InvalidRequest(f"the body must be {expected}")
    for name in request.path_params:
        if name in found or (name == "name" and "model" in found):
            raise InvalidRequest(f"{name} is given by the path")
    for name, value in request.query_params.multi_items():
        if text_field is None:
            raise InvalidRequest("this takes its arguments in the body", field="query")
        if name in found and found[name] != value:
            raise InvalidRequest("an argument was given twice", field=name if name.isidentifier() else None)
        found[name] = value
    return found


def job_command(operation: str, *, text_field: str | None = None) -> Handler:
    """A handler that runs ``operation`` on the job in the path."""

    async def handle(gateway: Gateway, request: Request) -> Response:
        job_id = subjects.check_job_id(request.path_params["job_id"])
        params = await arguments(gateway, request, text_field=text_field)
        params["job_id"] = job_id
        return json(await gateway.ctx.commands.call(operation, params, caller_of(gateway, request)))

    return handle


def model_command(operation: str) -> Handler:
    """A handler that runs ``operation`` on the model in the path."""

    async def handle(gateway: Gateway, request: Request) -> Response:
        model = subjects.check_name(request.path_params["name"], "model")
        params = await arguments(gateway, request)
        params["model"] = model
        return json(await gateway.ctx.commands.call(operation, params, caller_of(gateway, request)))

    return handle


async def submit(gateway: Gateway, request: Request) -> Response:
    """``POST /prds``."""
    params = await arguments(gateway, request)
    check_project(principal_of(request), params.get("project_id", 1))
    answer = await gateway.ctx.commands.call("submit", params, caller_of(gateway, request))
    return json(answer, 201, {"location": f"/prds/{answer['root_job_id']}"})


async def next_job(gateway: Gateway, request: Request) -> Response:
    """``POST /models/{name}/next``: waits for work, and stops waiting when the worker hangs up or its key is
    revoked, so that nothing is claimed for nobody."""
    model = subjects.check_name(request.path_params["name"], "model")
    asked = r.parse(Next, await arguments(gateway, request, text_field="worker_id"))
    caller = caller_of(gateway, request)

    async def give_back(claimed: dict[str, Any] | None) -> None:
        if claimed is not None:
            mine = {"job_id": claimed["job_id"], "attempt": claimed["attempt"]}
            await gateway.ctx.commands.call("release", mine, replace(caller, idempotency_key=None))

    work = gateway.ctx.next_job(model, asked.worker_id, asked.wait_s, asked.lease_ttl_s, caller)
    _, answer = await waited(gateway, request, work, give_back)
    return json(answer) if answer is not None else Response(status_code=204)


async def bulk(gateway: Gateway, request: Request) -> Response:
    """``POST /jobs/bulk``: a dry run names the ids, the second call acts and streams a line per job."""
    params = await arguments(gateway, request)
    if "dry_run" in params or "filter" in params:
        return json(await _select(gateway, r.parse(BulkDryRun, params), principal_of(request)))
    action = r.parse(r.Bulk, params)
    caller = caller_of(gateway, request)
    return StreamingResponse(_bulk_lines(gateway, action, caller, principal_of(request)), media_type=NDJSON)


async def _select(gateway: Gateway, asked: BulkDryRun, principal: Principal) -> dict[str, Any]:
    """The ids, read at one sequence: whatever the action does later, it does to these."""
    seq = gateway.hub.head
    await gateway.ctx.queries.wait_for(seq, gateway.limits.min_seq_wait_s)
    where = asked.filter
    projects = asked_projects(principal, where.project_id)
    wanted = JobFilter(tuple(where.status), projects, where.role, where.model, where.q)
    ids: list[str] = []
    cursor: str | None = None
    while len(ids) < MAX_BULK:
        page = await gateway.ctx.queries.list_jobs(
            wanted, limit=min(500, MAX_BULK - len(ids)), cursor=cursor, as_of=seq
        )
        ids += [row["id"] for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
    return {"action": asked.action, "ids": ids, "count": len(ids), "seq": seq, "more": cursor is not None}


async def _bulk_lines(gateway: Gateway, action: r.Bulk, caller: Caller, principal: Principal) -> AsyncIterator[bytes]:
    for start in range(0, len(action.ids), _BULK_AT_ONCE):
        part = action.ids[start : start + _BULK_AT_ONCE]
        for line in await asyncio.gather(*(_bulk_one(gateway, action, job_id, caller, principal) for job_id in part)):
            yield orjson.dumps(line) + b"\n"


async def _bulk_one(
    gateway: Gateway, action: r.Bulk, job_id: str, caller: Caller, principal: Principal
) -> dict[str, Any]:
    own = replace(caller, causation_id=gateway.ctx.ids.uuid7())
    try:
        await check(gateway.projects, principal, "/jobs/bulk", {"job_id": job_id}, reads=False)
        answer = await gateway.ctx.commands.call(action.action, {"job_id": job_id, "reason": action.reason}, own)
    except AuraError as error:
        return {"job_id": job_id, "ok": False, "problem": problems.embedded(error, caller.correlation_id)}
    return {"ok": True, **answer}
