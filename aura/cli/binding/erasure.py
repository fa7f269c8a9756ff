"""What the gateway erases by itself.

Finishes purges that a crash interrupted: at start, and again every few minutes (another gateway may have died meanwhile).

Which jobs they are is the read models' knowledge, so they must have all that the log had when the search began: a request that is not
projected yet would be missed. One job that cannot be erased now does not keep others from it; it comes up again next time.

Sweeps content whose job was never created. Both ask first whether the log is still ours: on another one every job would look orphaned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from aura.commands.handler import Caller
from aura.commands.purge import Purger
from aura.errors import AuraError, Unavailable
from aura.ids import IdSource
from aura.log.content_sweep import Sweeper
from aura.log.store import EventStore
from aura.projections.queries import Queries

log = structlog.get_logger("aura.cli")

ACTOR = "system:purge"
#: How long one search waits for the projector.
WAIT_S = 30.0
PAGE = 500


async def resume(purger: Purger, store: EventStore, queries: Queries, ids: IdSource, check: Callable[[], None]) -> int:
    """Finish what is there; returns how many. Raises ``Unavailable``, and what ``check`` raises before each job."""
    end = (await store.identity()).last_seq
    if not await queries.wait_for(end, WAIT_S):
        raise Unavailable(f"the read models have not reached {end} yet")
    finished = failed = 0
    after: str | None = None
    while rows := await queries.purging(after=after, limit=PAGE):
        for row in rows:
            check()
            try:
                finished += await _one(purger, row["id"], ids)
            except AuraError as error:
                failed += 1
                log.warning("purge.not_resumed", job_id=row["id"], code=error.code, detail=error.detail)
        after = rows[-1]["id"]
    if finished or failed:
        log.info("purge.resumed", finished=finished, failed=failed)
    return finished


async def _one(purger: Purger, job_id: str, ids: IdSource) -> int:
    request_id = ids.uuid7()
    return await purger.resume(_only(job_id), Caller(ACTOR, request_id, request_id))


async def _only(job_id: str) -> AsyncIterator[str]:
    yield job_id


def resumer(
    purger: Purger, store: EventStore, queries: Queries, ids: IdSource, check: Callable[[], None]
) -> Callable[[], Awaitable[object]]:
    """:func:`resume` as a chore."""
    return lambda: resume(purger, store, queries, ids, check)


def sweeper(over: Sweeper, check: Callable[[], None]) -> Callable[[], Awaitable[object]]:
    """Its sweep as a chore."""

    async def sweep() -> None:
        check()
        await over.sweep()

    return sweep
