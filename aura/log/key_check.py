"""Is this the key that stored content is encrypted with? One small message of ``AURA_CONTENT`` knows.

``content.aura.key-check`` holds a keyed hash of a constant under the key-encryption key. It says nothing about the key, and no key
but that one makes it. Whoever may write content may write it, *once*: it is guarded by "nothing there yet", so of two gateways
with different keys on a new stream one wins and the other knows.

::

    no message ──nothing stored, or its newest input opens──▶ written by the first key ──▶ compared for ever
        └──its newest input does not open──▶ refused

Purges and sweeps never touch it: they name a job.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass

from aura.clock import Clock
from aura.errors import WrongExpectedSequence
from aura.ids import IdSource
from aura.log import wire
from aura.log.connection import Connection
from aura.log.guarded import GuardedWriter, Write
from aura.log.inbox import inbox_of
from aura.log.reader import StreamReader
from aura.log.sealing import BrokenSeal, KeyRing

STREAM = "AURA_CONTENT"
SUBJECT = "content.aura.key-check"
_INPUTS = "content.aura.*.*.input"
_WRAPPED_KEY = "Aura-Wrapped-Key"
_CONSTANT = b"aura content key check v1"
_LIMIT = 1_024


@dataclass(frozen=True, slots=True)
class _Message:
    seq: int
    subject: str
    body: bytes
    wrapped_key: str | None


def _message(headers: bytes, body: bytes) -> _Message:
    found = wire.recorded(headers, body)
    return _Message(found.seq, found.subject, body, wire.header(headers, _WRAPPED_KEY))


def check_value(kek: bytes) -> bytes:
    """What the message holds for ``kek``: base64 of HMAC-SHA-256 over a constant."""
    return base64.b64encode(hmac.digest(kek, _CONSTANT, "sha256"))


class KeyCheck:
    """The check of one content stream. All methods ask the stream's leader and raise ``Unavailable`` without one."""

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self._ids = ids
        self._inbox = inbox_of(connection, clock, ids)
        self._reader = StreamReader(self._inbox, STREAM, _message, gapless=False)
        self._writer = GuardedWriter(self._inbox, self._reader, limit=_LIMIT)

    async def is_new(self) -> bool:
        """Whether nothing was ever encrypted here that is still stored: only then may a key be made."""
        return await self._reader.last(consistent=True) is None

    async def admit(self, kek: bytes) -> bool:
        """Whether ``kek`` is the key of this stream; the first one is remembered."""
        found = await self._reader.last(SUBJECT, consistent=True)
        if found is None:
            if not await self._opens_inputs(kek):
                return False
            write = Write(SUBJECT, SUBJECT, SUBJECT, 0, self._ids.uuid7(), check_value(kek))
            await self._inbox.start()
            try:
                await self._writer.submit(write)
                return True
            except WrongExpectedSequence:  # somebody was first
                found = await self._reader.last(SUBJECT, consistent=True)
        return found is not None and hmac.compare_digest(found.body, check_value(kek))

    async def _opens_inputs(self, kek: bytes) -> bool:
        """Content from before there was a check: the newest input says."""
        newest = await self._reader.last(_INPUTS, consistent=True)
        if newest is None or newest.wrapped_key is None:
            return True
        _, _, project, job_id, _ = newest.subject.split(".")
        try:
            KeyRing(kek, self._ids).unwrap(newest.wrapped_key, int(project), job_id)
        except BrokenSeal:
            return False
        return True
