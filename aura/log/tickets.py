"""Tickets of live connections: put by one gateway, taken by any, once. The KV bucket ``AURA_TICKETS``, for seconds.

The bucket knows a ticket by its SHA-256 only. Taking is a write against the sequence that was read, so of two gateways that are handed the
same ticket one wins and the other learns that it is used. A ticket that was lost with a server is asked for again.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from aura.clock import Clock
from aura.errors import WrongExpectedSequence
from aura.ids import IdSource
from aura.log import wire
from aura.log.connection import Connection
from aura.log.guarded import GuardedWriter, Write
from aura.log.inbox import inbox_of
from aura.log.reader import StreamReader
from aura.log.store import Recorded
from aura.log.topology import TICKET_BUCKET

#: Largest value kept for a ticket.
MAX_VALUE = 8 * 1024
_TAKEN = b""


class TicketStore(Protocol):
    """Where tickets wait to be redeemed."""

    async def put(self, ticket: str, value: bytes) -> None:
        """Keep ``value`` for whoever brings the ticket first. Raises ``Unavailable``."""

    async def take(self, ticket: str) -> bytes | None:
        """The value, once; ``None`` for a ticket that is not known, forgotten or taken. Raises ``Unavailable``."""


def _name(ticket: str) -> str:
    return hashlib.sha256(ticket.encode("utf-8", "replace")).hexdigest()


class MemoryTickets:
    """Of one process: for tests, and for whoever runs a single gateway without JetStream. At most ``limit``, the newest."""

    def __init__(self, limit: int = 100_000) -> None:
        self._kept: dict[str, bytes] = {}
        self._limit = limit

    async def put(self, ticket: str, value: bytes) -> None:
        self._kept[_name(ticket)] = value
        while len(self._kept) > self._limit:
            del self._kept[next(iter(self._kept))]

    async def take(self, ticket: str) -> bytes | None:
        return self._kept.pop(_name(ticket), None)


class JetStreamTickets:
    """The bucket."""

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self._ids = ids
        self._inbox = inbox_of(connection, clock, ids)
        self._reader: StreamReader[Recorded] = StreamReader(
            self._inbox, f"KV_{TICKET_BUCKET}", wire.recorded, gapless=False, timeout_s=5.0
        )
        self._writer = GuardedWriter(self._inbox, self._reader, limit=MAX_VALUE, deadline_s=5.0)

    async def put(self, ticket: str, value: bytes) -> None:
        await self._write(_subject(ticket), 0, value)

    async def take(self, ticket: str) -> bytes | None:
        subject = _subject(ticket)
        found = await self._reader.last(subject, consistent=True)
        if found is None or found.body == _TAKEN:
            return None
        try:
            await self._write(subject, found.seq, _TAKEN)
        except WrongExpectedSequence:  # somebody was first
            return None
        return found.body

    async def _write(self, subject: str, expected_seq: int, body: bytes) -> None:
        await self._inbox.start()
        await self._writer.submit(Write(subject, subject, subject, expected_seq, self._ids.uuid7(), body))


def _subject(ticket: str) -> str:
    return f"$KV.{TICKET_BUCKET}.{_name(ticket)}"
