"""What a scheduler's new leader starts from: every open job and every model, all at one checkpoint (DECISIONS.md, Dependencies).

One ``REPEATABLE READ`` transaction: the checkpoint read in it is the sequence of every row, so the leader follows the log from the
next one with no gap and nothing twice. Jobs are streamed; 100,000 take a few seconds and bounded memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aura.projections import sql
from aura.projections.connection import Connection, unavailable

#: Rows per step of the cursor.
STEP = 2_000
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the log: the epoch (empty: nothing projected yet), the sequence, and of the event there the SHA-256 and the store
    time in Unix nanoseconds."""

    epoch: str = ""
    seq: int = 0
    sha256: bytes = b""
    stored_ns: int = 0


class Snapshot:
    """``place`` of every row; ``models`` as in ``models.sql``, each with ``succeeded``, ``failed`` and ``latency_s`` so far; ``workers``
    that have not stopped, with their newest heartbeats."""

    def __init__(
        self, connection: Connection, place: Place, models: list[dict[str, Any]], workers: list[dict[str, Any]]
    ) -> None:
        self.place = place
        self.models = models
        self.workers = workers
        self._connection = connection

    @property
    def epoch(self) -> str:
        """The epoch of every row."""
        return self.place.epoch

    @property
    def seq(self) -> int:
        """The sequence of every row."""
        return self.place.seq

    async def jobs(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Open jobs in steps of up to 2,000 rows (``open_jobs.sql``): facts, ``state``, ``seq``, ``since_ns``, ``unmet_deps``
        id → status or ``None``.

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
        cursor = await connection.execute(sql.text("queries/snapshot_place"))
        row = await cursor.fetchone() or {}
        place = Place(**row | {"sha256": bytes.fromhex(row["sha256"])}) if row else Place()
        cursor = await connection.execute(sql.text("queries/model_outcomes"))
        outcomes = {row["model"]: row for row in await cursor.fetchall()}
        cursor = await connection.execute(sql.text("queries/models"))
        none = {"succeeded": 0, "failed": 0, "latency_s": 0.0}
        models = [row | outcomes.get(row["model"], none) for row in await cursor.fetchall()]
        cursor = await connection.execute(
            "SELECT model, worker, stored_ns, status, slots, interval_s FROM read.workers WHERE status <> 'stopped'"
        )
        yield Snapshot(connection, place, models, await cursor.fetchall())
