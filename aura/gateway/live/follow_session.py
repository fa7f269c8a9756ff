"""Carries out the orchestrator dialect for one client: wait for the session, tell it from the start, say how it ended, close with 1000.

Which project's session it is (names are unique per project only) is decided as everywhere: the one that was started last of those that
the client may follow. One that nobody has started yet is waited for, as long as the client stays.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import structlog

from aura.clock import rfc3339
from aura.commands.results import reported
from aura.commands.session_names import newest_started, project_of
from aura.errors import AuraError
from aura.events import subjects
from aura.gateway.api.forms import SessionLiveQuery
from aura.gateway.context import Gateway
from aura.gateway.live.dialects.orchestrator import Orchestrator
from aura.gateway.live.fanout.frames import Frame
from aura.gateway.live.fanout.outlet import Ending, Outlet
from aura.gateway.live.follow_job import JobFollower, honoured
from aura.gateway.live.visibility import Visibility

log = structlog.get_logger("aura.gateway")


async def follow_session(
    gateway: Gateway, outlet: Outlet, session_id: str, asked: SessionLiveQuery, visible: Visibility
) -> None:
    """Until the session's end, or the outlet is closed; cancel it when the client leaves."""
    telling = Orchestrator(session_id, outlet.wire)
    beating = asyncio.get_running_loop().create_task(_beat(gateway, outlet, telling))
    try:
        project, job_id = await _started(gateway, session_id, asked.project_id, visible)
        start = await honoured(gateway, outlet, asked)
        also = (subjects.session_guard(project, session_id),)
        follower = JobFollower(gateway, outlet, project, job_id, telling, start, also)
        await follower.run()
        if telling.over and not outlet.closed:
            result = await _result(gateway, job_id) if telling.ending == "completed" else None
            outlet.write(telling.complete(result, follower.position))
            outlet.end(Ending.DONE, telling.ending or "")
    except AuraError as error:
        log.warning("session_feed.failed", session_id=session_id, error=error.detail)
        outlet.end(Ending.GOING_AWAY, "try again")
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def _beat(gateway: Gateway, outlet: Outlet, telling: Orchestrator) -> None:
    while not outlet.closed:
        await asyncio.sleep(gateway.limits.orchestrator_heartbeat_s)
        if outlet.buffered() <= gateway.limits.outbound_bytes:
            outlet.write(telling.heartbeat(rfc3339(gateway.ctx.clock.now())))


async def _started(gateway: Gateway, session_id: str, project: int | None, visible: Visibility) -> tuple[int, str]:
    """The session's project and job, as soon as it is started."""
    pattern = f"aura.session.{'*' if project is None else project}.{session_id}.started"
    found: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def sees(of_project: int) -> bool:
        return project in (None, of_project) and visible.session(of_project, session_id)

    def live(frame: Frame) -> None:
        of_project, job_id = project_of(frame.subject), _job_of(frame.text)
        if not found.done() and of_project is not None and job_id is not None and sees(of_project):
            found.set_result((of_project, job_id))

    unwatch = gateway.hub.watch((pattern,), live)
    try:
        newest = await newest_started(gateway.ctx.store, session_id, sees)
        job_id = _job_of(newest[1].body) if newest is not None else None
        if newest is not None and job_id is not None:
            return newest[0], job_id
        return await found
    finally:
        unwatch()


def _job_of(body: bytes) -> str | None:
    try:
        flat: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    job_id = flat.get("job_id") if isinstance(flat, dict) else None
    return job_id if isinstance(job_id, str) and subjects.UUID.match(job_id) else None


async def _result(gateway: Gateway, job_id: str) -> Any:
    """What the workflow's job handed in; ``None`` when it is erased. Raises ``Unavailable``."""
    head = await gateway.ctx.commands.jobs.head(job_id, consistent=True)
    details = (await reported(gateway.ctx.store, gateway.ctx.content, head)).details
    return orjson.loads(details) if details is not None else None
