"""Are two versions of a projection the same, row for row? (G4)

A digest is the number of rows and the sum of a 64-bit hash of every row's text form: independent of order and of batches,
computed by Postgres in one pass. Where digests differ, rows are matched by key and counted, and the first few are named.
"""

from __future__ import annotations

from dataclasses import dataclass

from aura.projections.connection import Connection
from aura.projections.projection import Table
from aura.projections.versions import Version

_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """``rows`` rows of ``table`` are missing, extra or different; ``keys`` names the first ones."""

    table: str
    rows: int
    keys: tuple[str, ...]


async def digest(connection: Connection, version: Version, *, first_seq: int = 0) -> dict[str, tuple[int, str]]:
    """table → (rows, digest). ``first_seq`` leaves out rows whose ``seq`` is before it."""
    found = {}
    for table in version.projection.tables:
        cursor = await connection.execute(
            "SELECT count(*) AS rows, coalesce(sum(hashtextextended(t::text, 0)), 0)::text AS digest"  # noqa: S608 - our own names
            f" FROM {_rows(version, table, first_seq)} AS t"
        )
        row = await cursor.fetchone()
        assert row is not None
        found[table.name] = (row["rows"], row["digest"])
    return found


async def compare(
    connection: Connection, left: Version, right: Version, *, first_seq: int = 0
) -> tuple[int, list[Difference]]:
    """How many rows the right version has, and where the two differ."""
    lefts = await digest(connection, left, first_seq=first_seq)
    rights = await digest(connection, right, first_seq=first_seq)
    differences = [
        await _rows_that_differ(connection, left, right, table, first_seq)
        for table in left.projection.tables
        if lefts[table.name] != rights[table.name]
    ]
    return sum(rows for rows, _ in rights.values()), differences


def _rows(version: Version, table: Table, first_seq: int) -> str:
    where = table.where if not first_seq else f"{table.where} AND seq >= {int(first_seq)}"
    return f"(SELECT * FROM {version.schema}.{table.name} WHERE {where})"  # noqa: S608 - our own names


async def _rows_that_differ(
    connection: Connection, left: Version, right: Version, table: Table, first_seq: int
) -> Difference:
    key = f"concat_ws('/', {', '.join(table.key)})"
    cursor = await connection.execute(
        "SELECT coalesce(l.key, r.key) AS key, count(*) OVER () AS n"  # noqa: S608 - our own names
        f" FROM (SELECT {key} AS key, t::text AS body FROM {_rows(left, table, first_seq)} AS t) AS l"
        f" FULL JOIN (SELECT {key} AS key, t::text AS body FROM {_rows(right, table, first_seq)} AS t) AS r"
        f" ON l.key = r.key WHERE l.body IS DISTINCT FROM r.body ORDER BY 1 LIMIT {_EXAMPLES}"
    )
    rows = await cursor.fetchall()
    return Difference(table.name, rows[0]["n"] if rows else 0, tuple(row["key"] for row in rows))
