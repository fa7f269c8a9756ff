"""Projects: what a request names must be one of its principal's, or it is not there.

:func:`check` runs before the handler of every route, on the names in its path: a job, PRD or archive of another project is answered
like one that does not exist, before anything in the request could tell the difference. For a principal without limits nothing is
looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from aura.commands.session_names import newest_started
from aura.errors import Forbidden, NotFound
from aura.events import subjects
from aura.gateway.access.principal import Principal
from aura.gateway.ports import Commands, Row
from aura.log.store import EventStore

_KINDS = {"archives": "archive", "prds": "prd", "projects": "project", "sessions": "session"}


class Projects(Protocol):
    """Looks up whose something is."""

    async def of_job(self, job_id: str) -> int | None:
        """The job's project, from the log; ``None`` when there is no such job. Raises ``Unavailable``."""

    async def of_session(self, session_id: str, own: Iterable[int]) -> int | None:
        """The project of the session of that name, one of ``own`` if any of them has one; ``None`` when there is none yet. Raises
        ``Unavailable``."""


class LoggedProjects:
    """As the log has it: a job's head is usually in memory, so this costs nothing; a session is a short read."""

    def __init__(self, commands: Commands, store: EventStore) -> None:
        self._commands = commands
        self._store = store

    async def of_job(self, job_id: str) -> int | None:
        """See :class:`Projects`."""
        try:
            return (await self._commands.jobs.head(job_id)).project
        except NotFound:
            return None

    async def of_session(self, session_id: str, own: Iterable[int]) -> int | None:
        """See :class:`Projects`."""
        mine = frozenset(own)
        for sees in (mine.__contains__, lambda _project: True):
            newest = await newest_started(self._store, session_id, sees)
            if newest is not None:
                return newest[0]
        return None


def kind_of(path: str) -> str:
    """What a path is about, as ``NotFound`` names it."""
    return _KINDS.get(path.split("/", 2)[1] if "/" in path else "", "job")


async def check(projects: Projects, principal: Principal, path: str, named: Mapping[str, Any], *, reads: bool) -> None:
    """Raises ``NotFound`` for what is not the principal's, ``InvalidRequest`` for what cannot be a name.

    A read of something that the log does not know is left to its handler (it may be a root job, which has no events of its own and
    whose row says whose it is: :func:`visible`).
    """
    if principal.projects is None:
        return
    for name in ("job_id", "root_job_id"):
        if name in named:
            job_id = subjects.check_job_id(named[name], name)
            _own(principal, await projects.of_job(job_id), kind_of(path), job_id, unknown=reads)
    if "session_id" in named:
        session_id = subjects.check_name(named["session_id"], "session_id")
        _own(
            principal,
            await projects.of_session(session_id, sorted(principal.projects)),
            "session",
            session_id,
            unknown=reads,
        )
    if "project_id" in named:
        text = str(named["project_id"])
        project = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
        _own(principal, subjects.check_project(project), "project", text, unknown=False)


def _own(principal: Principal, project: int | None, kind: str, key: str, *, unknown: bool) -> None:
    if not unknown if project is None else not principal.sees(project):
        raise ForeignProject(kind, key) if project is not None else NotFound(kind, key)


class ForeignProject(NotFound):
    """It exists, and is another project's: to the caller the same as ``NotFound``."""


def visible(principal: Principal, row: Row | None) -> Row | None:
    """A row that says whose it is, if it is the principal's."""
    if row is None or principal.projects is None or principal.sees(int(row["project_id"])):
        return row
    return None


def check_project(principal: Principal, project: object) -> None:
    """A project that a command names. Raises ``Forbidden``; whether the project exists does not matter."""
    if principal.projects is not None and isinstance(project, int) and not principal.sees(project):
        raise Forbidden("this project is not one of yours")


def asked_projects(principal: Principal, asked: int | None) -> tuple[int, ...] | None:
    """Which projects a list is of: ``None`` = all, empty = there is nothing for this principal."""
    if principal.projects is None:
        return None if asked is None else (asked,)
    if asked is None:
        return tuple(sorted(principal.projects))
    return (asked,) if principal.sees(asked) else ()
