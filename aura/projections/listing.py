"""Lists of jobs: any combination of filters, newest first, bounded work whatever the data (≤ 20 ms at a million jobs).

How a page is found:

* No filter, or only a project: the index on ``created_seq`` (``jobs_newest``).
* Status, role and model in any combination: the matching kinds (``jobs.kind_of``) are ordered index ranges, merged (``jobs_by_kind``).
* The same, matching more than :data:`MAX_KINDS` kinds: the newest :data:`WINDOW` jobs are looked at (``jobs_scan``).
* With a text: the newest jobs that match the rest are looked at (frequent texts are found there); if that does not fill the page,
  the trigram index gets :data:`SEARCH_S` (rare texts are found there); if it does not manage, more of the newest are looked at.

A search that has done its share of work ends the page early, with a cursor that goes on from where it stopped: such a page may
hold fewer jobs than asked for, even none, and is not the last one as long as it has a cursor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aura.clock import Clock
from aura.domain.job_state import JobStatus
from aura.errors import InvalidRequest
from aura.events import subjects
from aura.projections import cursors
from aura.projections.several import Found, merged

MAX_LIMIT = 1_000
MAX_QUERY = 200
#: Most index ranges merged, and most rows taken from all of them together.
MAX_KINDS = 64
MAX_MERGED = 20_000
#: How many jobs one scan looks at: neighbours; jobs found by kind or as of the past (each costs a look-up elsewhere).
WINDOW = 2_000
KIND_WINDOW = 1_000
AS_OF_WINDOW = 1_000
#: What the trigram index may take, and when to stop looking and give a cursor instead.
SEARCH_S = 0.005
BUDGET_S = 0.008
#: How far a scan came, on each of its rows.
SCAN_COLUMNS = ("scanned", "scanned_to", "hits", "hits_to")
#: Before the first page.
NEWEST = 2**62

#: Runs a named query and returns its rows; tries one for some seconds and returns ``None`` if that is not enough.
Run = Callable[[str, dict[str, Any]], Awaitable[list[dict[str, Any]]]]
Try = Callable[[str, dict[str, Any], float], Awaitable[list[dict[str, Any]] | None]]


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and the cursor of the next page (``None``: this was the last)."""

    rows: list[dict[str, Any]]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What is asked for. ``status`` is one or several of ``JobStatus``; ``q`` a part of the title, in any case."""

    status: tuple[str, ...] = ()
    project_id: int | None = None
    role: str | None = None
    model: str | None = None
    q: str | None = None

    @property
    def params(self) -> dict[str, Any]:
        """As the SQL files name them."""
        escaped = None
        if self.q:
            escaped = "%" + self.q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        return {
            "status": list(self.status) or None,
            "project_id": self.project_id,
            "role": self.role,
            "model": self.model,
            "pattern": escaped,
        }

    @property
    def question(self) -> list[Any]:
        """What a cursor is bound to."""
        return [sorted(self.status), self.project_id, self.role, self.model, self.q]


def checked(
    *,
    status: str | Sequence[str] | None = None,
    project_id: int | None = None,
    role: str | None = None,
    model: str | None = None,
    q: str | None = None,
) -> JobFilter:
    """A filter from outside. ``status`` may be comma-separated. Raises ``InvalidRequest`` naming the field."""
    wanted = (status.split(",") if isinstance(status, str) else list(status)) if status else []
    known = {one.value for one in JobStatus}
    for one in wanted:
        if one not in known:
            raise InvalidRequest(f"status must be among {', '.join(sorted(known))}", field="status")
    if project_id is not None:
        subjects.check_project(project_id)
    if model is not None:
        subjects.check_name(model, "model")
    for name, text in (("role", role), ("q", q)):
        if text is not None and (len(text) > MAX_QUERY or "\0" in text):
            raise InvalidRequest(f"{name} must be at most {MAX_QUERY} characters without NUL", field=name)
    return JobFilter(tuple(wanted), project_id, role, model, q or None)


def check_limit(limit: int) -> int:
    """1 to 1,000. Raises ``InvalidRequest``."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"limit must be from 1 to {MAX_LIMIT}", field="limit")
    return limit


class Listing:
    """Finds pages. ``searchable`` says whether the trigram index exists."""

    def __init__(self, run: Run, attempt: Try, clock: Clock, *, searchable: Callable[[], Awaitable[bool]]) -> None:
        self._run = run
        self._try = attempt
        self._clock = clock
        self._searchable = searchable

    async def page(
        self,
        wanted: JobFilter,
        *,
        limit: int,
        cursor: str | None,
        as_of: int | None = None,
        projects: Sequence[int] | None = None,
    ) -> Page:
        """One page; of several ``projects`` if they are named instead of one in the filter. Raises ``InvalidRequest``, ``Unavailable``."""
        check_limit(limit)
        question = [*wanted.question, as_of, *([] if projects is None else [list(projects)])]
        before = NEWEST if cursor is None else cursors.decode(cursor, question)
        if projects is None:
            rows, place = await self._find(wanted, before, limit, as_of)
        else:
            rows, place = await merged(
                projects,
                lambda one: self._find(replace(wanted, project_id=one), before, limit, as_of),
                "created_seq",
                limit,
            )
        return Page(rows, None if place is None else cursors.encode(place, question))

    async def _find(self, wanted: JobFilter, before: int, limit: int, as_of: int | None) -> Found:
        """Rows, and the place before which to go on (``None``: nothing is left)."""
        params = wanted.params
        if as_of is not None:
            more = {"as_of": as_of, "id": None}
            return await self._scan("jobs_as_of", params | more, before, limit, AS_OF_WINDOW)
        if not (wanted.status or wanted.role or wanted.model):
            if not wanted.q:
                return _full(await self._run("jobs_newest", params | {"before": before, "limit": limit}), limit)
            return await self._search("jobs_scan", WINDOW, wanted, before, limit)
        of_project = "" if wanted.project_id is None else "_of_project"
        kinds = (await self._run(f"count_kinds{of_project}", params))[0]["kinds"]
        if kinds == 0:
            return [], None
        if kinds > MAX_KINDS or kinds * limit > MAX_MERGED:
            return await self._search("jobs_scan", WINDOW, wanted, before, limit)
        by_kind = f"jobs_by_kind{of_project}"
        if not wanted.q:
            return await self._scan(by_kind, params, before, limit, limit)
        window = min(KIND_WINDOW, MAX_MERGED // kinds)
        return await self._search(by_kind, window, wanted, before, limit)

    async def _search(self, scan: str, window: int, wanted: JobFilter, before: int, limit: int) -> Found:
        began = self._clock.monotonic_s()
        rows, place = await self._scan(scan, wanted.params, before, limit, window)
        if place is not None and len(rows) < limit and wanted.q and len(wanted.q) >= 3 and await self._searchable():
            params = wanted.params | {"before": place, "limit": limit - len(rows)}
            hits = await self._try("jobs_search", params, SEARCH_S)
            if hits is not None:
                found = await self._run("jobs_by_id", {"ids": [hit["id"] for hit in hits]}) if hits else []
                return _full(rows + found, limit)
        while place is not None and len(rows) < limit and self._clock.monotonic_s() - began < BUDGET_S:
            more, place = await self._scan(scan, wanted.params, place, limit - len(rows), window)
            rows += more
        return rows, place

    async def _scan(self, query: str, params: dict[str, Any], before: int, limit: int, window: int) -> Found:
        rows = await self._run(query, params | {"before": before, "limit": limit, "window": window})
        told = {name: rows[0][name] for name in SCAN_COLUMNS}
        found = [row for row in rows if row["id"] is not None]
        for row in found:
            for name in SCAN_COLUMNS:
                del row[name]
        if told["hits"] == limit:
            return found, told["hits_to"]
        return found, told["scanned_to"] if told["scanned"] == window else None


def _full(rows: list[dict[str, Any]], limit: int) -> Found:
    return rows, rows[-1]["created_seq"] if len(rows) == limit else None
