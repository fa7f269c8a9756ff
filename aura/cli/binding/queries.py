"""The gateway's ``Queries`` port on ``projections.queries``: what is missing is ``None`` there and ``NotFound`` here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aura.errors import InvalidRequest, NotFound
from aura.gateway.ports import JobFilter, Page, Row
from aura.log.store import EventStore
from aura.projections.queries import Queries


class ReadModels:
    """Implements :class:`aura.gateway.ports.Queries`."""

    def __init__(self, queries: Queries, store: EventStore) -> None:
        self._queries = queries
        self._store = store

    async def resolve(self, time: str) -> int:
        return await self._queries.resolve(time)

    async def list_jobs(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, as_of: int | None = None
    ) -> Page:
        found = await self._queries.list_jobs(
            status=where.status or None,
            projects=where.projects,
            role=where.role,
            model=where.model,
            q=where.q,
            limit=limit,
            cursor=cursor,
            as_of=as_of,
        )
        return Page(found.rows, found.next_cursor)

    async def get_job(self, job_id: str, *, as_of: int | None = None) -> Row | None:
        return await _or_none(lambda: self._queries.get_job(job_id, as_of=as_of))

    async def list_prds(self, *, projects: tuple[int, ...] | None, limit: int, cursor: str | None = None) -> Page:
        found = await self._queries.list_prds(projects=projects, limit=limit, cursor=cursor)
        return Page(found.rows, found.next_cursor)

    async def get_prd(self, root_job_id: str, *, as_of: int | None = None) -> Row | None:
        if as_of is not None:
            raise InvalidRequest("a PRD is only known as of now; ask for its jobs as of then", field="as_of")
        return await _or_none(lambda: self._queries.get_prd(root_job_id))

    async def list_archives(self, *, projects: tuple[int, ...] | None, limit: int, cursor: str | None = None) -> Page:
        found = await self._queries.list_archives(projects=projects, limit=limit, cursor=cursor)
        return Page(found.rows, found.next_cursor)

    async def get_archive(self, job_id: str) -> Row | None:
        return await _or_none(lambda: self._queries.get_archive(job_id))

    async def list_sessions(
        self,
        *,
        status: tuple[str, ...] = (),
        projects: tuple[int, ...] | None,
        limit: int,
        cursor: str | None = None,
    ) -> Page:
        found = await self._queries.list_sessions(status=status, projects=projects, limit=limit, cursor=cursor)
        return Page(found.rows, found.next_cursor)

    async def get_session(self, session_id: str, *, projects: tuple[int, ...] | None = None) -> Row | None:
        return await _or_none(lambda: self._queries.get_session(session_id, projects=projects))

    async def models_health(self, *, window_s: float) -> Sequence[Row]:
        return await self._queries.models_health(window_s=window_s)

    async def model_health(self, model: str) -> Row | None:
        return await _or_none(lambda: self._queries.model_health(model))

    async def stats(self, *, projects: tuple[int, ...] | None = None, as_of: int | None = None) -> Row:
        return await self._queries.stats(projects=projects, as_of=as_of)

    async def grid(self, project_id: int) -> Row:
        return await self._queries.subjects(project_id)

    async def projections_status(self) -> Sequence[Row]:
        identity = await self._store.identity()
        return await self._queries.projections(log_seq=identity.last_seq)

    async def wait_for(self, min_seq: int, timeout_s: float) -> bool:
        return await self._queries.wait_for(min_seq, timeout_s)


async def _or_none(ask: Callable[[], Awaitable[dict[str, Any]]]) -> Row | None:
    try:
        return await ask()
    except NotFound:
        return None
