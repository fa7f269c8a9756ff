"""Everything that reads the read models. Async, bounded, read-only; the only part of ``projections`` that the gateway imports.

Rows are plain dicts as API.md shows them (instants RFC 3339 text, ids text). Every query has a ``statement_timeout`` and a
limit. What Postgres cannot answer raises ``Unavailable``; what is not there ``NotFound``; what is malformed ``InvalidRequest``.

``as_of`` is a sequence, or an RFC 3339 time, which means the greatest sequence stored at or before it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection, OperationalError
from psycopg.errors import QueryCanceled
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from aura.clock import Clock, parse_rfc3339
from aura.errors import InvalidRequest, NotFound, Unavailable
from aura.events import subjects
from aura.projections import cursors, shapes, sql
from aura.projections.connection import adapt, parameters, unavailable
from aura.projections.listing import NEWEST, SCAN_COLUMNS, Listing, Page, check_limit, checked
from aura.projections.several import Found, merged
from aura.projections.situation import Situation, read_situation
from aura.projections.snapshot import Snapshot, open_snapshot
from aura.projections.waiting import Progress

__all__ = ["Page", "Queries", "Situation", "Snapshot"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONNECT_S = 5.0
#: A search uses a bitmap (the trigram index has nothing else). All other queries walk an index in order and stop at a limit: a
#: bitmap would first collect every match, and correlated filters make the planner believe that there are few.
_SEARCH_SETTINGS = "SET LOCAL enable_bitmapscan = on; SET LOCAL enable_seqscan = off; SET LOCAL statement_timeout = "
AsOf = int | str


class Queries:
    """Reads over a pool of connections. ``conninfo`` should be the read-only role's; the sessions are read-only in any case."""

    def __init__(
        self, conninfo: str, *, clock: Clock, max_connections: int = 6, statement_timeout_s: float = 5.0
    ) -> None:
        self._clock = clock
        self._pool: AsyncConnectionPool[AsyncConnection[dict[str, Any]]] = AsyncConnectionPool(
            conninfo,
            kwargs=parameters("aura-queries", read_only=True, statement_timeout_s=statement_timeout_s, bitmaps=False)
            # Plans depend on the values (a rare status and a common one want different ones), so none is kept.
            | {"prepare_threshold": None},
            configure=_configure,
            min_size=1,
            max_size=max_connections,
            open=False,
            timeout=_CONNECT_S,
            reconnect_timeout=30.0,
            name="aura-queries",
        )
        self._progress = Progress(self.checkpoint)
        self._has_trigrams: bool | None = None
        self._listing = Listing(self._run, self._try, clock, searchable=self._searchable)

    async def start(self) -> None:
        """Open the pool; does not wait for Postgres (queries say ``Unavailable`` until it answers)."""
        await self._pool.open(wait=False)

    async def stop(self) -> None:
        """Close everything. Safe twice."""
        await self._progress.stop()
        await self._pool.close()

    async def _run(self, name: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows. A connection that a restart of Postgres has cut is noticed when it is used: then another one is asked, each once."""
        with unavailable():
            try:
                for left in range(self._pool.max_size, -1, -1):
                    async with self._pool.connection() as connection:
                        try:
                            return await (await connection.execute(sql.text(f"queries/{name}"), params)).fetchall()
                        except OperationalError:
                            if not left or not connection.broken:
                                raise
            except PoolTimeout as error:
                raise Unavailable("no connection to the read models is free") from error
        raise Unavailable("no connection to the read models holds")

    async def _try(self, name: str, params: dict[str, Any], within_s: float) -> list[dict[str, Any]] | None:
        """As :meth:`_run`, by bitmap, for so long at most; ``None`` if that was not enough."""
        with unavailable():
            try:
                async with self._pool.connection() as connection, connection.transaction():
                    await connection.execute(f"{_SEARCH_SETTINGS}{max(1, int(within_s * 1000))}")
                    return await (await connection.execute(sql.text(f"queries/{name}"), params)).fetchall()
            except QueryCanceled:
                return None
            except PoolTimeout as error:
                raise Unavailable("no connection to the read models is free") from error

    async def _one(self, name: str, params: dict[str, Any], kind: str, key: str) -> dict[str, Any]:
        rows = await self._run(name, params)
        if not rows:
            raise NotFound(kind, key)
        return rows[0]

    async def _searchable(self) -> bool:
        if self._has_trigrams is None:
            self._has_trigrams = (await self._run("searchable"))[0]["yes"]
        return bool(self._has_trigrams)

    # --- how far

    async def checkpoint(self) -> int:
        """The sequence that every projection of the log has reached."""
        rows = await self._run("checkpoint")
        return rows[0]["seq"] or 0

    async def checkpoints(self) -> list[dict[str, Any]]:
        """``{name, epoch, seq, sha256}`` of every projection of the log that has begun: which log, how far, and its event there."""
        return await self._run("checkpoints")

    async def wait_for(self, min_seq: int, timeout_s: float = 5.0) -> bool:
        """Wait until the read models have ``min_seq``; ``False`` if they have not within ``timeout_s``."""
        return await self._progress.wait_for(min_seq, timeout_s)

    async def projections(self, *, log_seq: int | None = None) -> list[dict[str, Any]]:
        """``{name, version, seq, lag_events, lag_s, verified_seq, verified_at, quarantined, …}`` per projection.

        ``log_seq`` is the log's last sequence; without it, and for ``health``, lag in events is not known.
        """
        return [shapes.projection(row, log_seq) for row in await self._run("projections")]

    async def quarantined(self, *, limit: int = 100) -> list[dict[str, Any]]:
        """Entities kept aside: ``{projection, kind, entity, seq, last_seq, events, reason, raised_at, …}``."""
        return await self._run("quarantined", {"limit": check_limit(limit)})

    async def resolve(self, as_of: AsOf) -> int:
        """The sequence that ``as_of`` means. Raises ``InvalidRequest``, and ``Unavailable`` while it is not projected."""
        if isinstance(as_of, int) or (as_of.isascii() and as_of.isdigit()):
            seq = int(as_of)
            if not 0 <= seq < 2**62:
                raise InvalidRequest("as_of is not a sequence", field="as_of")
            if not await self.wait_for(seq):
                raise Unavailable(f"the read models have not reached {seq}")
            return seq
        try:
            since = parse_rfc3339(as_of) - _EPOCH
        except (ValueError, OverflowError) as error:
            raise InvalidRequest("as_of must be a sequence or an RFC 3339 time", field="as_of") from error
        rows = await self._run("seq_at", {"ns": since // timedelta(microseconds=1) * 1_000})
        return rows[0]["seq"] or 0

    # --- jobs

    async def list_jobs(
        self,
        *,
        status: str | Sequence[str] | None = None,
        project_id: int | None = None,
        role: str | None = None,
        model: str | None = None,
        q: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        as_of: AsOf | None = None,
        projects: Sequence[int] | None = None,
    ) -> Page:
        """Jobs newest first (``listing.py`` tells how a page may be short and still have a next one), of one project, of several, or
        of all."""
        project_id, several = _projects(project_id, projects)
        wanted = checked(status=status, project_id=project_id, role=role, model=model, q=q)
        at = None if as_of is None else await self.resolve(as_of)
        return await self._listing.page(wanted, limit=limit, cursor=cursor, as_of=at, projects=several)

    async def get_job(self, job_id: str, *, as_of: AsOf | None = None) -> dict[str, Any]:
        """One job. Raises ``NotFound``."""
        key = _uuid("job", job_id)
        if as_of is None:
            return await self._one("jobs_by_id", {"ids": [key]}, "job", job_id)
        empty = checked().params
        params = empty | {"before": NEWEST, "limit": 1, "window": 1, "id": key, "as_of": await self.resolve(as_of)}
        row = (await self._run("jobs_as_of", params))[0]
        if row["id"] is None:
            raise NotFound("job", job_id)
        return {name: value for name, value in row.items() if name not in SCAN_COLUMNS}

    async def job_statuses(self, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """id → ``{status, seq}`` of those that exist, for at most 1,000 ids."""
        ids = [_uuid("job", job_id) for job_id in job_ids[:1_000]]
        return {row["id"]: row for row in await self._run("job_statuses", {"ids": ids})}

    async def job_events(
        self, job_id: str, *, after: int = 0, limit: int = 1_000, as_of: AsOf | None = None
    ) -> list[dict[str, Any]]:
        """``{seq, type, ts, actor, state, stored_at}`` of the job's events in order. Their bytes are in the log, at ``seq``."""
        until = NEWEST if as_of is None else await self.resolve(as_of)
        params = {"id": _uuid("job", job_id), "after": after, "until": until, "limit": check_limit(limit)}
        return await self._run("job_events", params)

    # --- PRDs

    async def list_prds(
        self,
        *,
        project_id: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
        projects: Sequence[int] | None = None,
    ) -> Page:
        """PRDs newest first: ``{root_job_id, project_id, title, count, status, progress, counts, created_at}``."""
        page = await self._paged("prds", {"root": None}, "first_seq", limit, cursor, _projects(project_id, projects))
        return Page([shapes.prd(row) for row in page.rows], page.next_cursor)

    async def get_prd(self, root_job_id: str) -> dict[str, Any]:
        """One PRD with its ``jobs``, in its order. Raises ``NotFound``."""
        root = _uuid("prd", root_job_id)
        params = {"before": NEWEST, "project_id": None, "root": root, "limit": 1}
        prd = shapes.prd(await self._one("prds", params, "prd", root_job_id))
        prd["jobs"] = await self._run("prd_jobs", {"root": root})
        return prd

    async def subjects(self, project_id: int) -> dict[str, Any]:
        """The grid: ``{"stages": [...], "subjects": [{"subject", "stages": {stage: status}, "status", "jobs"}]}``."""
        rows = await self._run("subjects", {"project_id": subjects.check_project(project_id), "limit": 5_000})
        return shapes.grid(rows)

    # --- archives

    async def list_archives(
        self,
        *,
        project_id: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
        projects: Sequence[int] | None = None,
    ) -> Page:
        """``{id, project_id, final_status, archived_at, retention_until, held, purge, …}`` newest first."""
        return await self._paged("archives", {"id": None}, "closed_seq", limit, cursor, _projects(project_id, projects))

    async def _paged(
        self,
        query: str,
        fixed: dict[str, Any],
        place_of: str,
        limit: int,
        cursor: str | None,
        projects: tuple[int | None, Sequence[int] | None],
        filtered: Sequence[str] | None = None,
    ) -> Page:
        """A page of a list that is ordered by ``place_of``: of one project, of several, or of all. ``filtered``: what else a cursor
        belongs to."""
        project_id, several = projects
        question = [query, project_id, *([] if several is None else [list(several)]), *(filtered or ())]
        before = NEWEST if cursor is None else cursors.decode(cursor, question)
        params = fixed | {"before": before, "limit": check_limit(limit)}

        async def of(project: int | None) -> Found:
            rows = await self._run(query, params | {"project_id": project})
            return rows, rows[-1][place_of] if len(rows) == limit else None

        rows, place = await of(project_id) if several is None else await merged(several, of, place_of, limit)
        return Page(rows, None if place is None else cursors.encode(place, question))

    async def get_archive(self, job_id: str) -> dict[str, Any]:
        """One archived job. Raises ``NotFound``."""
        params = {"before": NEWEST, "project_id": None, "id": _uuid("archive", job_id), "limit": 1}
        return await self._one("archives", params, "archive", job_id)

    async def purging(self, *, after: str | None = None, limit: int = 1_000) -> list[dict[str, Any]]:
        """``{id, project_id, seq}`` of jobs whose purge was requested and is not recorded yet, by id, after ``after``."""
        return await self._run("purging", {"after": after, "limit": check_limit(limit)})

    # --- sessions

    async def list_sessions(
        self,
        *,
        status: Sequence[str] | None = None,
        limit: int = 100,
        cursor: str | None = None,
        projects: Sequence[int] | None = None,
    ) -> Page:
        """``{session_id, project_id, workflow, status, job_id, agents: […], started_at, ended_at, duration_ms, …}`` newest first."""
        statuses = sorted(status) if status else None
        fixed = {"id": None, "statuses": statuses}
        place = _projects(None, projects)
        return await self._paged("sessions", fixed, "started_seq", limit, cursor, place, statuses)

    async def get_session(self, session_id: str, *, projects: Sequence[int] | None = None) -> dict[str, Any]:
        """The newest session of that name, of some projects or of all. Raises ``NotFound``."""
        fixed = {"id": subjects.check_name(session_id, "session_id"), "statuses": None}
        page = await self._paged("sessions", fixed, "started_seq", 1, None, _projects(None, projects))
        if not page.rows:
            raise NotFound("session", session_id)
        return page.rows[0]

    async def running_sessions(self, *, after: int = 0, limit: int = 1_000) -> list[dict[str, Any]]:
        """``{project_id, session_id, job_id, started_seq}`` of those that have not ended, oldest first, after a place."""
        return await self._run("sessions_running", {"after": after, "limit": check_limit(limit)})

    # --- models

    async def models(self, *, as_of: AsOf | None = None) -> list[dict[str, Any]]:
        """Logged facts of every model: ``{model, status, slots, roles, paused, …}``."""
        if as_of is not None:
            return await self._run("models_as_of", {"as_of": await self.resolve(as_of)})
        return await self._run("models")

    async def models_health(self, *, window_s: float = 300.0) -> list[dict[str, Any]]:
        """Models heard of within the window: ``{model_name, payload, reported_at, status, worker_id, workers, slots, …}``."""
        return await self._run("models_health", {"window_s": window_s})

    async def model_health(self, model: str, *, limit: int = 100) -> dict[str, Any]:
        """``{model_name, payload, reported_at, status, history: [heartbeat …]}``, newest first. Raises ``NotFound``."""
        params = {"model": subjects.check_name(model, "model"), "limit": check_limit(limit)}
        history = await self._run("model_heartbeats", params)
        facts = next((row for row in await self._run("models") if row["model"] == model), None)
        if not history and facts is None:
            raise NotFound("model", model)
        return shapes.model_health(model, history, facts)

    # --- statistics

    async def stats(
        self, *, project_id: int | None = None, as_of: AsOf | None = None, projects: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Counts by status, throughput of the last hour, latency percentiles in seconds, success rate per model.

        Latencies are those of the newest 2,000 finished jobs and are left out as of the past.
        """
        if project_id is not None:
            projects = [subjects.check_project(project_id)]
        params: dict[str, Any] = {"projects": list(projects) if projects is not None else None}
        latencies = None
        if as_of is None:
            until = self._clock.now()
            counts = await self._run("counts", params)
            latencies = (await self._run("latencies", params))[0]
        else:
            seq = await self.resolve(as_of)
            counts = await self._run("counts_as_of", params | {"as_of": seq})
            at = await self._run("stored_at", {"seq": seq})
            until = _EPOCH + timedelta(microseconds=(at[0]["stored_ns"] if at else 0) // 1_000)
        throughput = await self._run("throughput", params | {"until": until})
        return shapes.stats(counts, throughput, latencies)

    # --- one job, everything about it

    async def situation(self, job_id: str) -> Situation:
        """What ``explain`` looks at, all of one moment (``situation.py``). Raises ``NotFound``."""
        key = _uuid("job", job_id)
        with unavailable():
            try:
                async with self._pool.connection() as connection:
                    return await read_situation(connection, key)
            except PoolTimeout as error:
                raise Unavailable("no connection to the read models is free") from error

    # --- the scheduler's start

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """Every open job and model at one checkpoint (``snapshot.py``). Raises ``Unavailable``."""
        with unavailable():
            try:
                async with self._pool.connection() as connection, open_snapshot(connection) as snapshot:
                    yield snapshot
            except PoolTimeout as error:
                raise Unavailable("no connection to the read models is free") from error


async def _configure(connection: AsyncConnection[dict[str, Any]]) -> None:
    adapt(connection)


def _uuid(kind: str, text: str) -> str:
    """An id as the log writes it; anything else is not there."""
    if not subjects.UUID.match(text):
        raise NotFound(kind, text[:80])
    return text


def _projects(project_id: int | None, projects: Sequence[int] | None) -> tuple[int | None, Sequence[int] | None]:
    """One project (``None``: all of them), or several."""
    if projects is not None and len(projects) == 1:
        return projects[0], None
    return project_id, projects
