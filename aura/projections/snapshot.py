"""What a scheduler's new leader starts from: every open job and every model, all at one checkpoint (DECISIONS.md, Dependencies).

One ``REPEATABLE READ`` transaction: the checkpoint read in it is the sequence of every row, so the leader follows the log from the
next one with no gap and nothing twice. Jobs are streamed; 100,000 take a few seconds and bounded memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aura.projections import sql
from aura.projections.connection import Connection, unavailable

#: Rows per step of the cursor.
STEP = 2_000
_TIMEOUT_S = 60


class Snapshot:
    """``epoch`` and ``seq`` of every row; ``models`` as in ``models.sql``; ``workers`` with their newest heartbeats."""

    def __init__(
        self, connection: Connection, epoch: str, seq: int, models: list[dict[str, Any]], workers: list[dict[str, Any]]
    ) -> None:
        self.epoch = epoch
        self.seq = seq
        self.models = models
        self.workers = workers
        self._connection = connection

    async def jobs(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Open jobs in steps of up to 2,000 rows (``open_jobs.sql``): facts, ``state``, ``seq``, ``unmet_deps`` id → status or ``None``.

        Raises ``Unavailable``.
        """
        with unavailable():
            found = await (await self._connection.execute(sql.text("queries/open_kinds"))).fetchone()
            async with self._connection.cursor("open_jobs") as cursor:
                await cursor.execute(sql.text("queries/open_jobs"), {"kinds": (found or {}).get("kinds") or []})
                while rows := await cursor.fetchmany(STEP):
                    yield rows


@asynccontextmanager
async def open_snapshot(connection: Connection) -> AsyncIterator[Snapshot]:
    """A snapshot over ``connection``, valid inside the context."""
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await connection.execute(f"SET LOCAL statement_timeout = '{_TIMEOUT_S}s'")
        # Read to the end: plan for all rows, not for the first ones.
        await connection.execute("SET LOCAL cursor_tuple_fraction = 1.0")
        await connection.execute("SET LOCAL enable_bitmapscan = on")
        cursor = await connection.execute(sql.text("queries/checkpoint"))
        place = await cursor.fetchone()
        cursor = await connection.execute(sql.text("queries/models"))
        models = await cursor.fetchall()
        cursor = await connection.execute("SELECT model, worker, stored_ns, status, slots, interval_s FROM read.workers")
        workers = await cursor.fetchall()
        found = place or {}
        yield Snapshot(connection, found.get("epoch") or "", found.get("seq") or 0, models, workers)
