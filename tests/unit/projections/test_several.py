"""Pages over several projects are exactly what one list of all of them would give, page by page."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aura.projections.several import Found, merged

#: Sequence → project.
_LISTS = st.dictionaries(st.integers(1, 400), st.integers(1, 4), max_size=60)


@given(_LISTS, st.integers(1, 7), st.sets(st.integers(1, 5)), st.integers(1, 5))
async def test_merged_pages_have_every_row_once_in_order(
    lists: dict[int, int], limit: int, projects: set[int], window: int
) -> None:
    """Each project's page may also be short and go on (a scan that has looked at enough)."""
    wanted = sorted((seq for seq, project in lists.items() if project in projects), reverse=True)
    seen: list[int] = []
    before = 10**6
    while True:

        async def ask(project: int, before: int = before) -> Found:
            rows: list[dict[str, Any]] = [
                {"seq": seq} for seq in sorted(lists, reverse=True) if lists[seq] == project and seq < before
            ]
            part = rows[: min(limit, window)]
            return part, part[-1]["seq"] if part and len(part) == min(limit, window) else None

        rows, place = await merged(sorted(projects), ask, "seq", limit)
        assert len(rows) <= limit
        seen += [row["seq"] for row in rows]
        if place is None:
            break
        assert place < before, "a page gets further"
        before = place
    assert seen == wanted
