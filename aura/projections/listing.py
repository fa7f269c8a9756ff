"""Lists of jobs: any combination of filters, newest first, bounded work whatever the data (≤ 20 ms at a million jobs).

How a page is found, cheapest first:

======================================  =================================================================================
no filter, or only a project            the index on ``created_seq`` (``jobs_newest``)
status, role, model in any combination  at most :data:`MAX_KINDS` ordered index ranges, merged (``jobs_by_kind``)
… matching more kinds than that         the newest :data:`WINDOW` jobs are looked at (``jobs_scan``)
``q``, few jobs match the other filters all of those are looked at (``jobs_by_kind`` with the text)
``q``                                   the newest :data:`WINDOW` jobs, then the trigram index bucket by bucket
======================================  =================================================================================

A search that has done its share of work ends the page early, with a cursor that goes on from where it stopped: such a page may
hold fewer jobs than asked for, even none, and is not the last one as long as it has a cursor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aura.clock import Clock
from aura.domain.job_state import JobStatus
from aura.errors import InvalidRequest
from aura.events import subjects
from aura.projections import cursors
from aura.projections.projection import BLOCK_BITS

MAX_LIMIT = 1_000
MAX_QUERY = 200
#: Most index ranges merged, and most rows taken from all of them together.
MAX_KINDS = 64
MAX_MERGED = 40_000
#: How many jobs one scan looks at, and one as-of scan (each costs an index look-up more).
WINDOW = 4_000
AS_OF_WINDOW = 1_000
#: Buckets per search statement, and when to stop and give a cursor instead.
BUCKETS = 32
BUDGET_S = 0.008
#: Before the first page.
NEWEST = 2**62

#: Runs a named query and returns its rows.
Run = Callable[[str, dict[str, Any]], Awaitable[list[dict[str, Any]]]]


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

    def __init__(self, run: Run, clock: Clock, *, searchable: Callable[[], Awaitable[bool]]) -> None:
        self._run = run
        self._clock = clock
        self._searchable = searchable

    async def page(self, wanted: JobFilter, *, limit: int, cursor: str | None, as_of: int | None = None) -> Page:
        """One page. Raises ``InvalidRequest``, ``Unavailable``."""
        check_limit(limit)
        question = [*wanted.question, as_of]
        before = NEWEST if cursor is None else cursors.decode(cursor, question)
        if as_of is not None:
            rows, place = await self._scan("jobs_as_of", wanted, before, limit, AS_OF_WINDOW, {"as_of": as_of, "id": None})
        else:
            rows, place = await self._find(wanted, before, limit)
        return Page(rows, None if place is None else cursors.encode(place, question))

    async def _find(self, wanted: JobFilter, before: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """Rows, and the place before which to go on (``None``: nothing is left)."""
        params = wanted.params
        if not (wanted.status or wanted.role or wanted.model or wanted.q):
            return self._full(await self._run("jobs_newest", params | {"before": before, "limit": limit}), limit)
        of_project = "" if wanted.project_id is None else "_of_project"
        counted = (await self._run(f"count_kinds{of_project}", params))[0]
        if counted["kinds"] == 0:
            return [], None
        # The counts are of now and the page may be read a moment later: a little room for what is created meanwhile.
        few = counted["jobs"] <= WINDOW // 2
        if counted["kinds"] <= MAX_KINDS and counted["kinds"] * limit <= MAX_MERGED and (few or not wanted.q):
            taken = WINDOW if wanted.q else limit
            rows = await self._run(f"jobs_by_kind{of_project}", params | {"before": before, "limit": taken})
            if wanted.q:
                return rows[:limit], rows[limit - 1]["created_seq"] if len(rows) > limit else None
            return self._full(rows, limit)
        return await self._search(wanted, before, limit)

    @staticmethod
    def _full(rows: list[dict[str, Any]], limit: int) -> tuple[list[dict[str, Any]], int | None]:
        return rows, rows[-1]["created_seq"] if len(rows) == limit else None

    async def _search(self, wanted: JobFilter, before: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        began = self._clock.monotonic_s()
        rows, place = await self._scan("jobs_scan", wanted, before, limit, WINDOW, {})
        while place is not None and len(rows) < limit and self._clock.monotonic_s() - began < BUDGET_S:
            if wanted.q and len(wanted.q) >= 3 and await self._searchable():
                more, place = await self._buckets(wanted, place, limit - len(rows))
            else:
                more, place = await self._scan("jobs_scan", wanted, place, limit - len(rows), WINDOW, {})
            rows += more
        return rows, place

    async def _scan(
        self, query: str, wanted: JobFilter, before: int, limit: int, window: int, more: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], int | None]:
        params = wanted.params | {"before": before, "limit": limit, "window": window} | more
        rows = await self._run(query, params)
        scanned, scanned_to = rows[0]["scanned"], rows[0]["scanned_to"]
        found = [row for row in rows if row["id"] is not None]
        for row in found:
            del row["scanned"], row["scanned_to"]
        if len(found) == limit:
            return found, found[-1]["created_seq"]
        return found, scanned_to if scanned == window else None

    async def _buckets(self, wanted: JobFilter, before: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        first = max(before - 1, 0) >> BLOCK_BITS
        last = max(first - BUCKETS + 1, 0)
        params = wanted.params | {"before": before, "limit": limit, "bucket": first, "last_bucket": last}
        hits = await self._run("jobs_search", params)
        rows = await self._run("jobs_by_id", {"ids": [hit["id"] for hit in hits]}) if hits else []
        if len(hits) == limit:
            return rows, min(hit["created_seq"] for hit in hits)
        return rows, None if last == 0 else last << BLOCK_BITS
