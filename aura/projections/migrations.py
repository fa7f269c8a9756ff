"""Numbered SQL migrations of the frame (``sql/migrations``), applied once, in order, each in its own transaction.

An applied migration is recorded with the SHA-256 of its text. A text that no longer matches, or a number that the code does
not know (a newer Aura has been here with an incompatible frame), is refused with ``ConfigError``: nothing is changed.
Concurrent starts wait for each other on an advisory lock.
"""

from __future__ import annotations

import hashlib

import psycopg
import structlog

from aura.errors import ConfigError
from aura.projections import sql
from aura.projections.connection import Connection

_log = structlog.get_logger("aura.projections")
#: Advisory lock keys (two-integer form); the first is "Aura".
LOCK_SPACE = 0x41757261
_MIGRATIONS_LOCK = 1

_RECORD = """
CREATE SCHEMA IF NOT EXISTS aura;
CREATE TABLE IF NOT EXISTS aura.migrations (
    number integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())
"""


async def migrate(connection: Connection, *, migrations: list[tuple[int, str, str]] | None = None) -> int:
    """Bring the frame to this code's version; returns how many migrations were applied. Raises ``ConfigError``."""
    known = sql.migrations() if migrations is None else migrations
    await connection.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_SPACE, _MIGRATIONS_LOCK))
    try:
        await connection.execute(_RECORD)
        cursor = await connection.execute("SELECT number, sha256 FROM aura.migrations ORDER BY number")
        applied = {row["number"]: row["sha256"] for row in await cursor.fetchall()}
        _check(known, applied)
        fresh = [entry for entry in known if entry[0] not in applied]
        for number, name, text in fresh:
            async with connection.transaction():
                await connection.execute(text)
                await connection.execute(
                    "INSERT INTO aura.migrations (number, name, sha256) VALUES (%s, %s, %s)",
                    (number, name, _digest(text)),
                )
            _log.info("migration applied", number=number, name=name)
        if fresh:
            await grant_reader(connection)
        return len(fresh)
    finally:
        if not connection.closed:
            await connection.execute("SELECT pg_advisory_unlock(%s, %s)", (LOCK_SPACE, _MIGRATIONS_LOCK))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check(known: list[tuple[int, str, str]], applied: dict[int, str]) -> None:
    texts = {number: (name, text) for number, name, text in known}
    for number, digest in applied.items():
        if number not in texts:
            raise ConfigError(f"the database has migration {number}, which this version does not know: upgrade Aura")
        name, text = texts[number]
        if _digest(text) != digest:
            raise ConfigError(f"migration {number:04}_{name} was edited after it was applied: add a new one instead")


async def grant_reader(connection: Connection) -> None:
    """Let the role ``aura_reader`` read the views, if there is such a role. Safe to repeat."""
    cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'aura_reader'")
    if await cursor.fetchone() is None:
        return
    try:
        async with connection.transaction():
            await connection.execute("GRANT USAGE ON SCHEMA read TO aura_reader")
            await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA read TO aura_reader")
    except psycopg.errors.InsufficientPrivilege:
        _log.warning("aura_reader exists, but this user may not grant to it")
