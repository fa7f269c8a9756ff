"""Content in the stream ``AURA_CONTENT``; see ``content.py`` for the protocol.

Erasing: the ``input`` message, which holds the wrapped key, is deleted with the server's secure delete (its bytes on disk are
overwritten); everything else is purged by subject, which only unlinks it: what stays on disk until compaction is ciphertext
whose key is gone. Secure deletes are slow (12 ms each), hence one per job and not one per message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from aura.clock import Clock
from aura.errors import AuraError, TooLarge, Unavailable, WrongExpectedSequence
from aura.ids import IdSource
from aura.log import wire
from aura.log.batch import AtomicWriter
from aura.log.connection import Connection
from aura.log.content import SealedContent, SealedMessage
from aura.log.guarded import GuardedWriter, Write
from aura.log.inbox import inbox_of, request
from aura.log.ports import Erased
from aura.log.reader import StreamReader
from aura.log.store import MAX_BATCH

STREAM = "AURA_CONTENT"
OUTPUT_STREAM = "AURA_OUTPUT"
WRAPPED_KEY = "Aura-Wrapped-Key"
#: From how many messages on one atomic batch is cheaper than single writes.
_BATCH_FROM = 16
#: How far back the first sweep of a process looks.
LOOK_BACK_S = 7 * 86_400.0
#: Room for headers and protocol in the server's largest message.
_ENVELOPE_BYTES = 1_024
#: "Sequence not found" and "delete failed": an earlier copy of the request was carried out, or the next look will tell.
_GONE = (10043, 10057)
_DELETE_TRIES = 10


@dataclass(frozen=True, slots=True)
class _Stored:
    seq: int
    subject: str
    stored_at_ns: int
    size: int
    sealed: SealedMessage | None


def _whole(headers: bytes, body: bytes) -> _Stored:
    found = wire.recorded(headers, body)
    sealed = SealedMessage(found.subject, body, wire.header(headers, WRAPPED_KEY))
    return _Stored(found.seq, found.subject, found.stored_at_ns, len(body), sealed)


def _outline(headers: bytes, body: bytes) -> _Stored:
    found = wire.recorded(headers, b"")
    return _Stored(found.seq, found.subject, found.stored_at_ns, len(body), None)


class JetStreamContentBackend:
    """See :class:`~aura.log.content.ContentBackend`."""

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self._connection = connection
        self._clock = clock
        self._ids = ids
        self._inbox = inbox_of(connection, clock, ids)
        self._reader = StreamReader(self._inbox, STREAM, _whole, gapless=False)
        self._outlines = StreamReader(self._inbox, STREAM, _outline, gapless=False)
        self._output = StreamReader(self._inbox, OUTPUT_STREAM, _outline, gapless=False)
        self._writer = GuardedWriter(self._inbox, self._reader, limit=self._limit())
        self._batches = AtomicWriter(self._inbox, self._reader, ids, limit=self._limit())
        self._swept_to: int | None = None

    def _limit(self) -> int:
        return self._connection.max_payload - _ENVELOPE_BYTES

    async def create(self, messages: Sequence[SealedMessage]) -> list[bool]:
        await self._inbox.start()
        writes = [self._write(message, first=True) for message in messages]
        created: list[bool] = []
        for start in range(0, len(writes), MAX_BATCH):
            created += await self._create(writes[start : start + MAX_BATCH])
        return created

    async def _create(self, writes: list[Write]) -> list[bool]:
        if len(writes) >= _BATCH_FROM:
            try:
                await self._batches.store(writes)
            except WrongExpectedSequence:
                pass  # some exist: find out which, one by one
            else:
                return [True] * len(writes)
        futures = [self._writer.submit(write) for write in writes]
        created = []
        for future in futures:
            try:
                await future
                created.append(True)
            except WrongExpectedSequence:
                created.append(False)
        return created

    async def put(self, message: SealedMessage) -> None:
        await self._inbox.start()
        await self._writer.submit(self._write(message, first=False))

    def _write(self, message: SealedMessage, *, first: bool) -> Write:
        if len(message.body) > self._limit():
            raise TooLarge(f"content has at most {self._limit()} bytes", limit=self._limit())
        extra = ((WRAPPED_KEY, message.wrapped_key),) if message.wrapped_key is not None else ()
        guard = message.subject if first else None
        return Write(message.subject, message.subject, guard, 0, self._ids.uuid7(), message.body, extra)

    async def last(self, subject: str, *, consistent: bool = False) -> SealedMessage | None:
        found = await self._reader.last(subject, consistent=consistent)
        return found.sealed if found is not None else None

    async def erase(self, key_subject: str, prefixes: Sequence[str]) -> Erased:
        await self._inbox.start()
        content, output = prefixes
        size = 0
        for reader, subject in ((self._outlines, content), (self._output, output)):
            async for batch in reader.read(subject=subject):
                size += sum(message.size for message in batch)
        await self._erase_key(key_subject)
        await self._api(f"STREAM.PURGE.{STREAM}", {"filter": content})
        await self._api(f"STREAM.PURGE.{OUTPUT_STREAM}", {"filter": output})
        return Erased(size, (STREAM, OUTPUT_STREAM))

    async def _erase_key(self, key_subject: str) -> None:
        for _ in range(_DELETE_TRIES):
            found = await self._reader.last(key_subject, consistent=True)
            if found is None:
                return
            await self._api(f"STREAM.MSG.DELETE.{STREAM}", {"seq": found.seq})
        raise Unavailable("the data key could not be erased")

    async def inputs(self, stored_before_ns: int) -> AsyncIterator[tuple[int, str]]:
        await self._inbox.start()
        if self._swept_to is None:
            since = datetime.fromtimestamp(self._clock.now().timestamp() - LOOK_BACK_S, UTC)
            self._swept_to = await self._first_since(since) - 1
        async for batch in self._outlines.read(self._swept_to + 1, subject="content.aura.*.*.input"):
            for message in batch:
                if message.stored_at_ns >= stored_before_ns:
                    return
                _, _, project, job_id, _ = message.subject.split(".")
                yield int(project), job_id
                self._swept_to = message.seq

    async def _first_since(self, since: datetime) -> int:
        query = {"start_time": since.isoformat(), "batch": 1}
        found, _ = await self._outlines.window(query)
        if found:
            return found[0].seq
        last = await self._outlines.last(consistent=True)
        return last.seq + 1 if last is not None else 1

    async def _api(self, call: str, body: dict[str, Any]) -> None:
        reply = await request(self._inbox, f"$JS.API.{call}", orjson.dumps(body), timeout_s=30.0, resend_s=5.0)
        error = orjson.loads(reply.body).get("error")
        if error is None or error.get("err_code") in _GONE:
            return
        text = f"erasing failed: {error.get('description')} ({error.get('err_code')})"
        raise Unavailable(text) if error.get("code", 0) >= 500 else AuraError(text)


def jetstream_content(connection: Connection, clock: Clock, ids: IdSource, kek: bytes) -> SealedContent:
    """The content store of a running system. ``kek``: 32 bytes from a file or secret outside every store."""
    return SealedContent(JetStreamContentBackend(connection, clock, ids), kek, ids)
