"""What ends sessions: the closer on the gateway's tail, and its sweep over the read model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from aura.commands.session_closer import RunningSession, SessionCloser
from aura.ids import IdSource
from aura.projections.queries import Queries

if TYPE_CHECKING:
    from aura.cli.compose import CommandSide

SWEEP_S = 60.0
_PAGE = 500


def closer_of(
    side: CommandSide, queries: Queries, ids: IdSource
) -> tuple[SessionCloser, Callable[[], Awaitable[object]]]:
    """The closer, and its sweep as a chore."""
    closer = SessionCloser(side.service.sessions, ids, side.health.check)
    return closer, lambda: closer.sweep(_running(queries))


async def _running(queries: Queries) -> AsyncIterator[list[RunningSession]]:
    after = 0
    while rows := await queries.running_sessions(after=after, limit=_PAGE):
        yield [RunningSession(row["project_id"], row["session_id"], row["job_id"]) for row in rows]
        after = rows[-1]["started_seq"]
