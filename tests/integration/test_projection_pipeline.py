"""Several statements in one round trip are one transaction: all or none, and the connection survives a refusal (G4)."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from aura.projections.connection import connect
from aura.projections.pipeline import Pipeline, numbered
from tests.support.read_models import rows
from tests.support.servers import Database

INSERT = "INSERT INTO t VALUES (%(x)s::integer, %(text)s)"


def test_placeholders_become_numbers_once_each() -> None:
    assert numbered("SELECT %(a)s, %(b)s, %(a)s::int") == (b"SELECT $1, $2, $1::int", ("a", "b"))


async def test_g4_all_or_none_and_usable_afterwards(database: Database) -> None:
    connection = await connect(database.owner_url, "test")
    await connection.execute("CREATE TABLE t (x integer PRIMARY KEY, text text)")
    pipeline = Pipeline(connection)
    await pipeline.run([(INSERT, {"x": 1, "text": "a"}), (INSERT, {"x": 2, "text": None})])
    with pytest.raises(psycopg.errors.UniqueViolation):
        await pipeline.run(
            [(INSERT, {"x": 3, "text": "c"}), (INSERT, {"x": 2, "text": "b"}), (INSERT, {"x": 4, "text": "d"})]
        )
    assert await rows(connection, "SELECT * FROM t ORDER BY x") == [{"x": 1, "text": "a"}, {"x": 2, "text": None}]
    with pytest.raises(psycopg.DataError):
        await pipeline.run([("SELECT %(text)s::json", {"text": "{"})])
    await pipeline.run([(INSERT, {"x": 3, "text": "x" * 3_000_000})])
    async with connection.transaction(force_rollback=True):
        await pipeline.run([(INSERT, {"x": 9, "text": "part of the open transaction"})])
        assert len(await rows(connection, "SELECT x FROM t")) == 4
    assert len(await rows(connection, "SELECT x FROM t")) == 3
    other = Pipeline(connection)
    await other.run([(INSERT, {"x": 10, "text": "another pipeline on the same connection"})])
    await connection.close()


async def test_a_lost_connection_and_a_cancel_are_told(database: Database) -> None:
    connection = await connect(database.owner_url, "test")
    pipeline = Pipeline(connection)
    sleeping = asyncio.create_task(pipeline.run([("SELECT pg_sleep(60)", {})]))
    admin = await psycopg.AsyncConnection.connect(database.superuser_url, autocommit=True)
    async with asyncio.timeout(30):
        while not (
            await (await admin.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'")).fetchall()
        ):
            await asyncio.sleep(0)
        await admin.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            await sleeping
    assert connection.closed
    again = await connect(database.owner_url, "test")
    cancelled = asyncio.create_task(Pipeline(again).run([("SELECT pg_sleep(60)", {})]))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert again.closed
    await admin.close()
