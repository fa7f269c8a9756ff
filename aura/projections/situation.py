"""One job's situation: the job, what it waits for, who holds its key, and all pools, read in one ``REPEATABLE READ`` transaction.

Read one after another these would be of different moments, and an explanation made of them could name a reason that never was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aura.errors import NotFound
from aura.projections import shapes, sql
from aura.projections.connection import Connection

_WINDOW_S = 300.0
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Situation:
    """``seq`` is the checkpoint of everything here; rows as :class:`~aura.projections.queries.Queries` answers them."""

    seq: int
    job: Row
    dependencies: dict[str, Row]
    """id → ``{status, seq}``."""
    key_holder: Row | None
    """``{id, status, seq}`` of the other job under its concurrency key."""
    models: list[Row]
    health: list[Row]
    counts: dict[str, dict[str, int]]
    """model → status → jobs."""


async def read_situation(connection: Connection, job_id: str) -> Situation:
    """Raises ``NotFound``."""

    async def run(name: str, params: Row | None = None) -> list[Row]:
        return await (await connection.execute(sql.text(f"queries/{name}"), params)).fetchall()

    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        found = await run("jobs_by_id", {"ids": [job_id]})
        if not found:
            raise NotFound("job", job_id)
        job = found[0]
        wanted = list(job["depends_on"] or ())
        dependencies = await run("job_statuses", {"ids": wanted}) if wanted else []
        held: list[Row] = []
        if job["concurrency_key"] is not None:
            place = {"project_id": job["project_id"], "key": job["concurrency_key"], "id": job_id}
            held = await run("key_holder", place)
        counts = shapes.stats(await run("counts", {"projects": None}), [], None)["models"]
        return Situation(
            seq=(await run("checkpoint"))[0]["seq"] or 0,
            job=job,
            dependencies={row["id"]: row for row in dependencies},
            key_holder=held[0] if held else None,
            models=await run("models"),
            health=await run("models_health", {"window_s": _WINDOW_S}),
            counts={name: entry["counts"] for name, entry in counts.items()},
        )
