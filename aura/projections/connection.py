"""Connections to Postgres: how they are opened, what they return, what their failures mean.

Rows come back as API.md shows them: instants as RFC 3339 text in UTC with ``Z``, UUIDs as text, JSON as Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg.adapt import Loader
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from aura.errors import Unavailable

Connection = AsyncConnection[dict[str, Any]]

#: Session settings of every connection. JIT costs more than any of our queries.
_OPTIONS = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=iso_8601 -c jit=off"
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "connect_timeout": 10}


class _Rfc3339(Loader):
    """``2026-11-22 02:35:25.123+00`` (session in UTC) → ``2026-11-22T02:35:25.123000Z``. On the hot path of every list."""

    def load(self, data: Any) -> str:
        text = str(data, "ascii")
        size = len(text)
        if size == 29:
            return f"{text[:10]}T{text[11:26]}Z"
        if size > 22 and text[-3:] == "+00":
            return f"{text[:10]}T{text[11:-3]:0<15}Z"
        return f"{text[:10]}T{text[11:19]}.000000Z" if size == 22 else text  # infinity, years beyond 9999


class _Json(Loader):
    def load(self, data: Any) -> Any:
        return orjson.loads(bytes(data))


def adapt(connection: AsyncConnection[Any]) -> None:
    """Register how values come back on this connection."""
    adapters = connection.adapters
    adapters.register_loader("timestamptz", _Rfc3339)
    adapters.register_loader("uuid", TextLoader)  # in C, where psycopg is
    adapters.register_loader("json", _Json)
    adapters.register_loader("jsonb", _Json)


def parameters(
    application_name: str, *, read_only: bool = False, statement_timeout_s: float | None = None, bitmaps: bool = True
) -> dict[str, Any]:
    """Keyword arguments for ``connect`` or a pool."""
    options = _OPTIONS
    if read_only:
        options += " -c default_transaction_read_only=on"
    if not bitmaps:
        options += " -c enable_bitmapscan=off"
    if statement_timeout_s is not None:
        options += f" -c statement_timeout={int(statement_timeout_s * 1000)}"
    return {
        "autocommit": True,
        "application_name": application_name,
        "options": options,
        "row_factory": dict_row,
        **_KEEPALIVE,
    }


async def connect(conninfo: str, application_name: str) -> Connection:
    """A connection of the projector. Raises ``psycopg.OperationalError``."""
    connection: Connection = await AsyncConnection.connect(conninfo, **parameters(application_name))
    adapt(connection)
    return connection


async def tune_for_writing(connection: Connection) -> None:
    """Settings of a connection that writes read models.

    A commit may be lost with the server's memory: its checkpoint is lost with it, so nothing is out of step. Rows are always
    found by key: a plan made while a table was small must not go on scanning it when it is large. Every statement has one good plan,
    whatever its rows: planning it anew costs a live commit more than running it, and so does a hash table for three rows.
    """
    await connection.execute(
        "SET synchronous_commit = off; SET plan_cache_mode = force_generic_plan;"
        " SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
    )


@contextmanager
def unavailable() -> Iterator[None]:
    """Turns failures of the server or of the way to it into ``Unavailable``; ours stay what they are."""
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise Unavailable("the query took too long") from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise Unavailable("the read models are not there yet") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable("the read models do not answer") from error
