"""Which session a name means: names are unique per project only, and several projects may use the same one.

One rule for everybody (``GET /sessions/{id}``, its history, its cancellation, its live feed): of those that the caller may see, the one
that was started last, where a session that was retried counts from its first start.
"""

from __future__ import annotations

from collections.abc import Callable

from aura.events import subjects
from aura.log.store import EventStore, Recorded


async def newest_started(
    store: EventStore, session_id: str, sees: Callable[[int], bool]
) -> tuple[int, Recorded] | None:
    """Its project and its first ``session.started``; ``None`` when there is none in a project that ``sees`` allows. Raises
    ``Unavailable``."""
    first: dict[int, Recorded] = {}
    async for batch in store.read(subject=f"aura.session.*.{session_id}.started"):
        for recorded in batch:
            project = project_of(recorded.subject)
            if project is not None and sees(project):
                first.setdefault(project, recorded)
    return max(first.items(), key=lambda one: one[1].seq, default=None)


def project_of(subject: str) -> int | None:
    """The project that a session's subject names; ``None`` when it names none."""
    try:
        return subjects.parse(subject).project
    except ValueError:
        return None
