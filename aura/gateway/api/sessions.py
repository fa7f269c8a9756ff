"""Sessions of agent workflows over HTTP: the list, one with what it handed in, and cancelling.

A session's name is unique within its project only. Without ``project_id`` the newest of that name is meant, among the caller's projects.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from aura.commands.results import reported
from aura.domain.job_state import Purge
from aura.errors import NotFound, Unavailable
from aura.events import subjects
from aura.events.catalogue import ContentRef
from aura.gateway.access.scoping import asked_projects, check_project
from aura.gateway.api.commands import arguments, caller_of, json, principal_of
from aura.gateway.api.forms import SessionQuery, SessionsQuery, query
from aura.gateway.api.reads import SETTLE_S, fresh, page, tagged
from aura.gateway.context import Gateway
from aura.gateway.ports import Page, Row

#: What an agent handed in is shown with the session up to this size, in bytes.
MAX_SHOWN = 64 * 1024
#: Where the content lies is nobody's business outside.
_INTERNAL = ("output_part", "output_digest")


async def sessions(gateway: Gateway, request: Request) -> Response:
    """``GET /sessions``."""
    asked = query(SessionsQuery, request)
    await fresh(gateway, asked)
    found = await gateway.ctx.queries.list_sessions(
        status=tuple(status.value for status in asked.status),
        projects=asked_projects(principal_of(request), asked.project_id),
        limit=asked.limit,
        cursor=asked.cursor,
    )
    return page(request, Page([_listed(row) for row in found.rows], found.next_cursor))


async def session(gateway: Gateway, request: Request) -> Response:
    """``GET /sessions/{id}``: with the result and what its agents handed in, unless they are erased."""
    session_id = subjects.check_name(request.path_params["session_id"], "session_id")
    asked = query(SessionQuery, request)
    await fresh(gateway, asked)
    principal = principal_of(request)
    projects = asked_projects(principal, asked.project_id)
    row = await _projected(gateway, session_id, projects)
    if row is None:
        raise NotFound("session", session_id)
    shown = _listed(row)
    if principal.may("jobs.content", row["project_id"]):
        shown |= await _content(gateway, row)
    return tagged(request, shown, row["seq"])


async def cancel(gateway: Gateway, request: Request) -> Response:
    """``POST /sessions/{id}/cancel``: its job is cancelled too."""
    params = await arguments(gateway, request)
    check_project(principal_of(request), params.get("project_id"))
    params["session_id"] = subjects.check_name(request.path_params["session_id"], "session_id")
    return json(await gateway.ctx.commands.call("cancel_session", params, caller_of(gateway, request)))


async def _projected(gateway: Gateway, session_id: str, projects: tuple[int, ...] | None) -> Row | None:
    """The read model's row, which gets a moment to catch up with the session's last event; one that is missing although the log has the
    session is waited for, and then it is 503, never a false 404."""
    queries, limits = gateway.ctx.queries, gateway.limits
    row = await queries.get_session(session_id, projects=projects)
    seq = 0
    for project in ("*",) if projects is None else projects:
        last = await gateway.ctx.store.last(f"aura.session.{project}.{session_id}.>")
        seq = max(seq, 0 if last is None else last.seq)
    if seq == 0 or (row is not None and row["seq"] >= seq):
        return row
    if not await queries.wait_for(seq, limits.min_seq_wait_s if row is None else SETTLE_S):
        if row is None:
            raise Unavailable("the read model has not reached this session yet", retry_after_s=1)
        return row
    return await queries.get_session(session_id, projects=projects)


def _listed(row: Row) -> Row:
    agents = [{name: value for name, value in agent.items() if name not in _INTERNAL} for agent in row["agents"]]
    return {**row, "id": row["session_id"], "agents": agents}


async def _content(gateway: Gateway, row: Row) -> dict[str, Any]:
    """``result`` and the agents with their ``output``, as far as there are any. Raises ``BrokenSeal``, ``Unavailable``."""
    head = await gateway.ctx.commands.jobs.head(row["job_id"], consistent=True)
    erased = head.state.purge is not Purge.NONE
    details = None
    if row["status"] == "COMPLETED" and not erased:
        details = (await reported(gateway.ctx.store, gateway.ctx.content, head)).details
    agents = []
    for agent, shown in zip(row["agents"], _listed(row)["agents"], strict=True):
        size = agent["output_bytes"]
        if size is not None and size <= MAX_SHOWN and not erased:
            ref = ContentRef(bytes=size, digest=agent["output_digest"], part=agent["output_part"])
            found = await gateway.ctx.content.get(row["project_id"], row["job_id"], "result", ref)
            shown["output"] = orjson.loads(found.plaintext) if found is not None else None
        agents.append(shown)
    return {"result": orjson.loads(details) if details is not None else None, "agents": agents}
