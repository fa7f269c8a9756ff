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
REQUEST = "Aura-Request"
#: From how many messages on one atomic batch is cheaper than single writes.
_BATCH_FROM = 16
#: How far back from the newest content the first sweep of a process looks, by the server's clock.
LOOK_BACK_S = 7 * 86_400.0
#: Room for headers and protocol in the server's largest message.
_ENVELOPE_BYTES = 1_024
#: "Sequence not found" and "delete failed": an earlier copy of the request was carried out, or the next look will tell.
_GONE = (10043, 10057)
#: Most versions of one input (each re-use of an input adds one) that one call erases; the next call erases more.
_DELETE_TRIES = 64


@dataclass(frozen=True, slots=True)
class _Stored:
    seq: int
    subject: str
    stored_at_ns: int
    size: int
    sealed: SealedMessage | None


def _whole(headers: bytes, body: bytes) -> _Stored:
    found = wire.recorded(headers, body)
    wrapped, asked = wire.header(headers, WRAPPED_KEY), wire.header(headers, REQUEST)
    sealed = SealedMessage(found.subject, body, wrapped, asked, found.seq)
    return _Stored(found.seq, found.subject, found.stored_at_ns, len(body), sealed)


def _outline(headers: bytes, body: bytes) -> _Stored:
    found = wire.recorded(headers, b"")
    return _Stored(found.seq, found.subject, found.stored_at_ns, len(body), None)


class JetStreamContentBackend:
    """See :class:`~aura.log.content.ContentBackend`."""

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self._connection = connection
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
        writes = [self._write(message, message.subject) for message in messages]
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

    async def replace(self, message: SealedMessage, expected_seq: int) -> bool:
        await self._inbox.start()
        try:
            await self._writer.submit(self._write(message, message.subject, expected_seq))
        except WrongExpectedSequence:
            return False
        return True

    async def put(self, message: SealedMessage) -> None:
        await self._inbox.start()
        await self._writer.submit(self._write(message, None))

    def _write(self, message: SealedMessage, guard: str | None, expected_seq: int = 0) -> Write:
        if len(message.body) > self._limit():
            raise TooLarge(f"content has at most {self._limit()} bytes", limit=self._limit())
        named = ((WRAPPED_KEY, message.wrapped_key), (REQUEST, message.request))
        extra = tuple((name, value) for name, value in named if value is not None)
        return Write(message.subject, message.subject, guard, expected_seq, self._ids.uuid7(), message.body, extra)

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
            await self._delete(found.seq)
        raise Unavailable("the data key could not be erased")

    async def _delete(self, seq: int) -> None:
        await self._api(f"STREAM.MSG.DELETE.{STREAM}", {"seq": seq})

    async def drop(self, subject: str, upto_seq: int) -> None:
        await self._inbox.start()
        async for batch in self._outlines.read(to_seq=upto_seq, subject=subject):
            for message in batch:
                await self._delete(message.seq)

    async def inputs(self) -> AsyncIterator[tuple[int, str, int]]:
        await self._inbox.start()
        if self._swept_to is None:
            self._swept_to = await self._look_back() - 1
        async for batch in self._outlines.read(self._swept_to + 1, subject="content.aura.*.*.input"):
            for message in batch:
                _, _, project, job_id, _ = message.subject.split(".")
                yield int(project), job_id, message.seq
                self._swept_to = message.seq

    async def _look_back(self) -> int:
        """The sequence from which the first sweep looks."""
        last = await self._outlines.last(consistent=True)
        if last is None:
            return 1
        since = datetime.fromtimestamp(last.stored_at_ns / 1e9 - LOOK_BACK_S, UTC)
        found, _ = await self._outlines.window({"start_time": since.isoformat(), "batch": 1})
        return found[0].seq if found else last.seq

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
