"""Pages over several projects: each project's page is found by its own index range, then they are merged.

A project whose page goes on past its last row is known only down to there; what the others have below that waits for the next page. So
a merged page is exactly the newest rows of all of them, and its place is where the next one begins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Found = tuple[list[dict[str, Any]], int | None]
"""Rows, newest first, and the place before which to go on (``None``: nothing is left)."""


async def merged(projects: Sequence[int], ask: Callable[[int], Awaitable[Found]], place_of: str, limit: int) -> Found:
    """One page of all ``projects``; ``ask(project)`` finds each one's, ``place_of`` is the column that orders them."""
    rows: list[dict[str, Any]] = []
    frontier: int | None = None
    for project in projects:
        found, place = await ask(project)
        rows += found
        if place is not None:
            frontier = place if frontier is None else max(frontier, place)
    rows.sort(key=lambda row: -int(row[place_of]))
    known = rows if frontier is None else [row for row in rows if row[place_of] >= frontier]
    page = known[:limit]
    return page, page[-1][place_of] if len(page) < len(known) else frontier
