"""Reads of the read models: filters, pages, ``min_seq``, ``as_of``, ``ETag``, ``Link``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from aura.errors import InvalidRequest, NotFound, Unavailable
from aura.events import subjects
from aura.gateway.access.scoping import asked_projects, visible
from aura.gateway.api.commands import json, principal_of
from aura.gateway.api.forms import Fresh, FreshOnly, JobsQuery, PageQuery, query
from aura.gateway.context import Gateway
from aura.gateway.limits import HEALTH_WINDOW_S
from aura.gateway.ports import JobFilter, Page, Row

#: How long a read of one job lets the read model catch up with the job's last event.
SETTLE_S = 0.2


async def fresh(gateway: Gateway, asked: Fresh | FreshOnly) -> int | None:
    """Wait for ``min_seq``, resolve ``as_of``. Raises ``Unavailable`` when the read model is still behind."""
    if asked.min_seq is not None:
        await logged(gateway, asked)
        if not await gateway.ctx.queries.wait_for(asked.min_seq, gateway.limits.min_seq_wait_s):
            raise Unavailable("the read model has not reached min_seq yet", retry_after_s=1)
    if isinstance(asked, Fresh) and asked.as_of is not None:
        return await moment(gateway, asked.as_of)
    return None


async def logged(gateway: Gateway, asked: Fresh | FreshOnly) -> None:
    """The same for what is read from the log itself: wait until the log has ``min_seq``. Raises ``InvalidRequest``."""
    min_seq, pause_s = asked.min_seq or 0, 0.01
    until_s = gateway.ctx.clock.monotonic_s() + gateway.limits.min_seq_wait_s
    while min_seq > gateway.hub.head and min_seq > (await gateway.ctx.store.identity()).last_seq:
        if gateway.ctx.clock.monotonic_s() + pause_s > until_s:
            raise InvalidRequest("min_seq is ahead of the log", field="min_seq")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.2)


async def moment(gateway: Gateway, text: str) -> int:
    """``as_of`` as a sequence, and the read model has it. Raises ``InvalidRequest``, ``Unavailable``."""
    last = (await gateway.ctx.store.identity()).last_seq
    if text.isascii() and text.isdigit():
        seq = int(text) if len(text) < 20 else last + 1
        if seq > last:
            raise InvalidRequest("as_of is ahead of the log", field="as_of")
        await _reached(gateway, seq)
        return seq
    text = text.replace(" ", "+")
    seq = await gateway.ctx.queries.resolve(text)
    if seq < last:
        # The answer is final once the read model has an event after it, and that one is later than the time.
        await _reached(gateway, seq + 1)
        if await gateway.ctx.queries.resolve(text) != seq:
            await _reached(gateway, last)
            seq = await gateway.ctx.queries.resolve(text)
    return seq


async def _reached(gateway: Gateway, seq: int) -> None:
    if not await gateway.ctx.queries.wait_for(seq, gateway.limits.min_seq_wait_s):
        raise Unavailable("the read model has not reached as_of yet", retry_after_s=1)


def page(request: Request, found: Page) -> Response:
    """A page, with the next one's address in ``Link``."""
    headers = {}
    if found.next_cursor is not None:
        pairs = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        target = f"{request.scope['path']}?{urlencode([*pairs, ('cursor', found.next_cursor)])}"
        headers["link"] = f'<{target}>; rel="next"'
    return json(list(found.rows), headers=headers)


def tagged(request: Request, row: Row, seq: object) -> Response:
    """An answer with an entity tag made of the sequence; 304 when the client has it."""
    if not isinstance(seq, int):
        return json(row)
    tag = f'"v{seq}"'
    sent = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag in sent:
        return Response(status_code=304, headers={"etag": tag})
    return json(row, headers={"etag": tag})


async def jobs(gateway: Gateway, request: Request) -> Response:
    """``GET /jobs``."""
    asked = query(JobsQuery, request)
    as_of = await fresh(gateway, asked)
    projects = asked_projects(principal_of(request), asked.project_id)
    where = JobFilter(tuple(asked.status), projects, asked.role, asked.model, asked.q)
    found = await gateway.ctx.queries.list_jobs(where, limit=asked.limit, cursor=asked.cursor, as_of=as_of)
    return page(request, found)


async def job(gateway: Gateway, request: Request) -> Response:
    """``GET /jobs/{id}``: a job, or a root job derived from its jobs."""
    job_id = subjects.check_job_id(request.path_params["job_id"])
    as_of = await fresh(gateway, query(Fresh, request))
    if as_of is not None:
        return _found(request, await gateway.ctx.queries.get_job(job_id, as_of=as_of), "job", job_id, with_tag=False)
    row = await _projected(gateway, job_id, gateway.ctx.queries.get_job)
    if row is not None:
        return tagged(request, row, row.get("seq"))
    prd = visible(principal_of(request), await gateway.ctx.queries.get_prd(job_id))
    if prd is None:
        raise NotFound("job", job_id)
    return tagged(request, {"id": job_id, "is_root": True, **prd}, prd.get("seq"))


async def _projected(gateway: Gateway, job_id: str, ask: Callable[[str], Awaitable[Row | None]]) -> Row | None:
    """A read model's row of a job that may be younger than the read model.

    A row older than the job's last event gets a moment (:data:`SETTLE_S`) to catch up, so that who just gave a command sees its
    effect; one that is missing although the log has the job is waited for, and then it is 503, never a false 404.
    """
    row = await ask(job_id)
    try:
        head = await gateway.ctx.commands.jobs.head(job_id)
    except NotFound:
        return row
    if row is None:
        if not await gateway.ctx.queries.wait_for(head.seq, gateway.limits.min_seq_wait_s):
            raise Unavailable("the read model has not reached this job yet", retry_after_s=1)
        return await ask(job_id)
    if int(row.get("seq", head.seq)) < head.seq and await gateway.ctx.queries.wait_for(head.seq, SETTLE_S):
        return await ask(job_id)
    return row


async def name_the_prd(gateway: Gateway, request: Request, error: NotFound) -> None:
    """Who takes a root job's id for a job's is told so: a root job has no events, output or lease of its own."""
    job_id = request.path_params.get("job_id")
    if error.kind != "job" or not isinstance(job_id, str):
        return
    try:
        if visible(principal_of(request), await gateway.ctx.queries.get_prd(job_id)) is not None:
            error.detail = "no such job: this is the root_job_id of a PRD, whose jobs GET /prds/{root_job_id} names"
    except (Unavailable, NotFound):
        return


async def prds(gateway: Gateway, request: Request) -> Response:
    """``GET /prds``."""
    asked = query(PageQuery, request)
    await fresh(gateway, asked)
    projects = asked_projects(principal_of(request), asked.project_id)
    found = await gateway.ctx.queries.list_prds(projects=projects, limit=asked.limit, cursor=asked.cursor)
    return page(request, found)


async def prd(gateway: Gateway, request: Request) -> Response:
    """``GET /prds/{root_job_id}``."""
    root = subjects.check_job_id(request.path_params["root_job_id"], "root_job_id")
    await fresh(gateway, query(FreshOnly, request))
    return _found(request, visible(principal_of(request), await gateway.ctx.queries.get_prd(root)), "prd", root)


def _found(request: Request, row: Row | None, kind: str, key: str, *, with_tag: bool = True) -> Response:
    if row is None:
        raise NotFound(kind, key)
    return tagged(request, row, row.get("seq") if with_tag else None)


async def archives(gateway: Gateway, request: Request) -> Response:
    """``GET /archives``."""
    asked = query(PageQuery, request)
    await fresh(gateway, asked)
    projects = asked_projects(principal_of(request), asked.project_id)
    found = await gateway.ctx.queries.list_archives(projects=projects, limit=asked.limit, cursor=asked.cursor)
    return page(request, found)


async def archive(gateway: Gateway, request: Request) -> Response:
    """``GET /archives/{id}``."""
    job_id = subjects.check_job_id(request.path_params["job_id"])
    await fresh(gateway, query(FreshOnly, request))
    return _found(request, await _projected(gateway, job_id, gateway.ctx.queries.get_archive), "archive", job_id)


async def models_health(gateway: Gateway, request: Request) -> Response:
    """``GET /models/health``."""
    await fresh(gateway, query(FreshOnly, request))
    return json(list(await gateway.ctx.queries.models_health(window_s=HEALTH_WINDOW_S)))


async def model_health(gateway: Gateway, request: Request) -> Response:
    """``GET /models/{name}/health``."""
    model = subjects.check_name(request.path_params["name"], "model")
    await fresh(gateway, query(FreshOnly, request))
    row = await gateway.ctx.queries.model_health(model)
    if row is None:
        raise NotFound("model", model)
    if principal_of(request).projects is not None:  # what its workers have in hand may be of any project
        row = {**row, "history": [{**one, "in_flight": []} for one in row.get("history", ())]}
    return json(row)


async def stats(gateway: Gateway, request: Request) -> Response:
    """``GET /stats``."""
    as_of = await fresh(gateway, query(Fresh, request))
    return json(await gateway.ctx.queries.stats(projects=asked_projects(principal_of(request), None), as_of=as_of))


async def grid(gateway: Gateway, request: Request) -> Response:
    """``GET /projects/{id}/subjects``."""
    text: Any = request.path_params["project_id"]
    project = subjects.check_project(int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None)
    await fresh(gateway, query(FreshOnly, request))
    return json(await gateway.ctx.queries.grid(project))


async def projections(gateway: Gateway, request: Request) -> Response:
    """``GET /projections``."""
    await fresh(gateway, query(FreshOnly, request))
    return json(list(await gateway.ctx.queries.projections_status()))


async def explain(gateway: Gateway, request: Request) -> Response:
    """``GET /jobs/{id}/explain``."""
    job_id = subjects.check_job_id(request.path_params["job_id"])
    await fresh(gateway, query(FreshOnly, request))
    row = await _projected(gateway, job_id, gateway.ctx.explain)
    if row is None:
        raise NotFound("job", job_id)
    return json(row)
