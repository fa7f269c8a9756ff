"""What each endpoint serves: from the query and the client's view to something that runs until the client leaves.

``prepare`` functions check everything that can be refused, before a handshake is accepted where the principal is known by then; what
they return makes the client for an outlet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from aura.errors import NotFound, Unavailable
from aura.events import subjects
from aura.gateway.api.forms import JobLiveQuery, LiveQuery, SessionLiveQuery
from aura.gateway.context import Gateway
from aura.gateway.live import relay_studio
from aura.gateway.live.dialects import events
from aura.gateway.live.fanout.group import Group
from aura.gateway.live.fanout.outlet import Ending, Outlet
from aura.gateway.live.follow import follow_log
from aura.gateway.live.follow_job import follow_job
from aura.gateway.live.follow_native import NativeClient
from aura.gateway.live.follow_session import follow_session
from aura.gateway.live.visibility import Visibility
from aura.gateway.ports import Stop


class Client(Protocol):
    """One client being served."""

    async def run(self) -> None:
        """Until its outlet is closed, or the hub alone has to do with it; cancelled when the client leaves."""

    async def left(self) -> None:
        """It has left, and :meth:`run` has ended."""

    async def receive(self, message: str | bytes) -> None:
        """It said something."""


Leave = Callable[[], Awaitable[None]]
Make = Callable[[Outlet], Client]
Prepare = Callable[[Visibility], Awaitable[Make]]


class _Listener:
    """A client of a read-only feed: what it says is ignored. What serves it says how it leaves, if there is more to that than being
    cancelled: ten thousand clients that only listen to the hub need no task each to wait for that."""

    __slots__ = ("_leave", "_outlet", "_serve")

    def __init__(self, serve: Callable[[Outlet], Awaitable[Leave | None]], outlet: Outlet) -> None:
        self._serve = serve
        self._outlet = outlet
        self._leave: Leave | None = None

    async def run(self) -> None:
        self._leave = await self._serve(self._outlet)

    async def left(self) -> None:
        if self._leave is not None:
            await self._leave()

    async def receive(self, message: str | bytes) -> None:
        """Nothing to say to it."""


def _listening(serve: Callable[[Outlet], Awaitable[Leave | None]]) -> Make:
    return lambda outlet: _Listener(serve, outlet)


def _leaving(gateway: Gateway, group: Group, outlet: Outlet, stop: Stop | None) -> Leave:
    async def leave() -> None:
        gateway.hub.leave(group, outlet)
        if stop is not None:
            await stop()

    return leave


def of_events(gateway: Gateway, asked: LiveQuery) -> Prepare:
    """``/ws/events``, ``/sse/events``."""
    cursor = events.cursor_of(asked)

    async def prepare(visible: Visibility) -> Make:
        patterns = events.patterns_of(asked, visible)
        lines = any(pattern.startswith("aura.output.") for pattern in patterns)

        async def serve(outlet: Outlet) -> Leave | None:
            stop = await gateway.taps.follow_logs() if lines else None
            group = None
            try:
                group = await follow_log(gateway, outlet, cursor, patterns)
            except Unavailable:
                outlet.end(Ending.GOING_AWAY, "try again")
            finally:
                if group is None and stop is not None:
                    await stop()
            return _leaving(gateway, group, outlet, stop) if group is not None else None

        return _listening(serve)

    return prepare


def of_job(gateway: Gateway, job_id: str, asked: JobLiveQuery) -> Prepare:
    """``/ws/job/{job_id}``, ``/sse/job/{job_id}``."""

    async def prepare(visible: Visibility) -> Make:
        head = await gateway.ctx.commands.jobs.head(subjects.check_job_id(job_id))
        if not visible.job(head.project, job_id):
            visible.refused(f"/ws/job/{job_id}")
            raise NotFound("job", job_id)
        return _listening(lambda outlet: follow_job(gateway, outlet, head.project, job_id, asked))

    return prepare


def of_session(gateway: Gateway, session_id: str, asked: SessionLiveQuery) -> Prepare:
    """``/ws/orchestrator/{session_id}``, ``/sse/orchestrator/{session_id}``."""
    subjects.check_name(session_id, "session_id")

    async def prepare(visible: Visibility) -> Make:
        return _listening(lambda outlet: follow_session(gateway, outlet, session_id, asked, visible))

    return prepare


def of_studio(gateway: Gateway) -> Prepare:
    """``/ws`` without a subprotocol, ``/sse/studio``."""

    async def prepare(visible: Visibility) -> Make:
        patterns = relay_studio.patterns_of(visible.principal.projects)

        async def serve(outlet: Outlet) -> Leave | None:
            try:
                stop = await gateway.studio.follow()
            except Unavailable:
                outlet.end(Ending.GOING_AWAY, "try again")
                return None
            return _leaving(gateway, gateway.hub.join(patterns, outlet), outlet, stop)

        return _listening(serve)

    return prepare


def of_native(gateway: Gateway) -> Prepare:
    """``/ws`` with ``aura.v1``."""

    async def prepare(visible: Visibility) -> Make:
        return lambda outlet: NativeClient(gateway, outlet, visible)

    return prepare
