"""Several statements in one round trip and one transaction, on libpq's pipeline mode.

psycopg's own pipeline costs a system call and an epoll round per statement; a live batch has five or six of them and is committed
hundreds of times a second, so this is where its time went. Here all statements leave in one write, and their results are
collected together.

Without an open transaction, the statements up to the one Sync at the end *are* one transaction: the first error rolls back all of
them, and PostgreSQL commits at the Sync (PostgreSQL manual, 53.2.4 and 34.5.1.3). Inside one they are part of it.

Failure cases: an error of a statement is raised as psycopg raises it, and the connection can be used again; a lost connection raises
``psycopg.OperationalError`` (whether a commit that was under way happened is told by the checkpoint); being cancelled in the
middle closes the connection, since its results would be left unread.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count
from typing import Any

import psycopg
from psycopg import errors, pq

from aura.projections.connection import Connection

#: One statement: SQL with ``%(name)s`` placeholders, and its parameters (text, integers, booleans).
Statement = tuple[str, Mapping[str, Any]]
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_names = count()
_FAILED = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)


@cache
def numbered(text: str) -> tuple[bytes, tuple[str, ...]]:
    """The same SQL with ``$1 …``, and the names in that order."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return _PLACEHOLDER.sub(number, text).encode(), tuple(names)


class Pipeline:
    """Runs statements on one connection, one call at a time; prepares each text once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._prepared: dict[str, bytes] = {}

    async def run(self, statements: Sequence[Statement]) -> None:
        """Run all or none. Raises ``psycopg.Error``."""
        pgconn = self._connection.pgconn
        finished = False
        try:
            pgconn.enter_pipeline_mode()
            fresh = self._send(pgconn, statements)
            pgconn.pipeline_sync()
            error = await self._collect(pgconn)
            pgconn.exit_pipeline_mode()
            finished = True
        finally:
            if not finished:
                pgconn.finish()
        if error is not None:
            raise error  # some texts of this run may be prepared and some not: they get new names next time
        self._prepared.update(fresh)

    def _send(self, pgconn: pq.abc.PGconn, statements: Sequence[Statement]) -> dict[str, bytes]:
        fresh: dict[str, bytes] = {}
        for text, params in statements:
            sql, names = numbered(text)
            name = self._prepared.get(text) or fresh.get(text)
            if name is None:
                name = fresh[text] = b"aura_%d" % next(_names)
                pgconn.send_prepare(name, sql)
            pgconn.send_query_prepared(name, [_encoded(params[one]) for one in names])
        return fresh

    async def _collect(self, pgconn: pq.abc.PGconn) -> psycopg.Error | None:
        """Read until the Sync; the first error, if any."""
        pgconn.nonblocking = 1
        error: psycopg.Error | None = None
        flushed = pgconn.flush() == 0
        while True:
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    continue
                if result.status == pq.ExecStatus.PIPELINE_SYNC:
                    return error
                if result.status in _FAILED and error is None:
                    error = errors.error_from_result(result)
            await _ready(pgconn.socket, writing=not flushed)
            pgconn.consume_input()
            flushed = flushed or pgconn.flush() == 0


def _encoded(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return b"t" if value else b"f"
    return str(value).encode()


async def _ready(fd: int, *, writing: bool) -> None:
    """Wait until the socket can be read, or also written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    if writing:
        loop.add_writer(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
        if writing:
            loop.remove_writer(fd)
