"""Values come back from Postgres in the shapes of API.md."""

from __future__ import annotations

from aura.projections.connection import connect
from tests.support.servers import Database


async def test_instants_ids_and_json(database: Database) -> None:
    connection = await connect(database.owner_url, "test")
    for text, expected in (
        ("2026-11-22T02:35:25.000123Z", "2026-11-22T02:35:25.000123Z"),
        ("2026-11-22T02:35:25.12Z", "2026-11-22T02:35:25.120000Z"),
        ("2026-11-22T02:35:25Z", "2026-11-22T02:35:25.000000Z"),
        ("2026-11-22T04:35:25.5+02:00", "2026-11-22T02:35:25.500000Z"),
        ("infinity", "infinity"),
    ):
        row = await (await connection.execute("SELECT %s::timestamptz AS at", (text,))).fetchone()
        assert row == {"at": expected}
    row = await (
        await connection.execute(
            """SELECT '0199C000-0000-7000-8000-000000000001'::uuid AS id, '{"a":[1]}'::json AS j, '{}'::uuid[] AS n"""
        )
    ).fetchone()
    assert row == {"id": "0199c000-0000-7000-8000-000000000001", "j": {"a": [1]}, "n": []}
    row = await (
        await connection.execute("SELECT ARRAY['0199C000-0000-7000-8000-000000000001']::uuid[] AS n")
    ).fetchone()
    assert row == {"n": ["0199c000-0000-7000-8000-000000000001"]}
    await connection.close()
