"""The event store on JetStream: :class:`~aura.log.store.EventStore` over one connection.

Puts together what the neighbours do: ``guarded`` (one append, definite answer), ``batch`` (all or none), ``group`` (shared
flushes), ``reader`` (direct gets), ``tail`` (live). Nothing here but translation between the port and those.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from weakref import WeakSet

import orjson

from aura.clock import Clock
from aura.errors import LogRegression, Unavailable
from aura.events import subjects
from aura.ids import IdSource
from aura.log import admission, wire
from aura.log.batch import AtomicWriter
from aura.log.connection import Connection
from aura.log.group import GroupCommit
from aura.log.guarded import DEADLINE_S, GuardedWriter, Write
from aura.log.identity import Checkpoint
from aura.log.inbox import inbox_of, request
from aura.log.reader import StreamReader
from aura.log.store import MAX_EVENT_BYTES, Append, LogIdentity, Recorded
from aura.log.tail import LogTail, OnBatch, OnEnd, iterate

STREAM = "AURA_LOG"
EPOCH_KEY = "aura.epoch"
#: In the same metadata: the epoch that ``topology.accept_new_epoch`` made. Equal to the epoch, or there is none such.
ACCEPTED_KEY = "aura.epoch.accepted"
_NO_STREAM = 10059
#: A server that is starting may not have found its streams yet; only after so long is a missing log a lost one.
_MISSING_S = 3.0


class JetStreamEventStore:
    """See :class:`~aura.log.store.EventStore`. Any number of tasks may use it at once; the connection stays the caller's.

    ``deadline_s`` is how long an append may take, lost acknowledgements included, before ``Unavailable`` is raised.
    """

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource, *, deadline_s: float = DEADLINE_S) -> None:
        self._connection = connection
        self._inbox = inbox_of(connection, clock, ids)
        self._reader = StreamReader(self._inbox, STREAM, wire.recorded, gapless=True)
        writer = GuardedWriter(self._inbox, self._reader, limit=MAX_EVENT_BYTES, deadline_s=deadline_s)
        self._batches = AtomicWriter(self._inbox, self._reader, ids, limit=MAX_EVENT_BYTES, deadline_s=deadline_s)
        self._group = GroupCommit(writer, self._batches, deadline_s=deadline_s)
        self._tails: WeakSet[LogTail] = WeakSet()

    async def append(self, append: Append) -> int:
        admission.check_append(append)
        if not self._inbox.started:
            await self._inbox.start()
        return await self._group.submit(_write(append))

    async def append_batch(self, appends: Sequence[Append]) -> list[int]:
        admission.check_batch(appends)
        if len(appends) == 1:
            return [await self.append(appends[0])]
        if not self._inbox.started:
            await self._inbox.start()
        return await self._batches.store([_write(append) for append in appends])

    async def last(self, guard: str, *, consistent: bool = False) -> Recorded | None:
        wire.check_subject(guard)
        return await self._reader.last(guard, consistent=consistent)

    async def get(self, seq: int) -> Recorded | None:
        return await self._reader.get(seq)

    async def read(
        self, from_seq: int = 1, *, to_seq: int | None = None, subject: str | None = None, batch: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        if not self._inbox.started:
            await self._inbox.start()
        async for found in self._reader.read(from_seq, to_seq=to_seq, subject=subject, batch=batch):
            yield found

    def tail(self, from_seq: int, on_batch: OnBatch, on_end: OnEnd, *, known: Checkpoint | None = None) -> LogTail:
        """The log from ``from_seq`` and then live, into a plain function (no iterator's cost per batch).

        ``on_batch`` runs in the event loop and must be quick; ``on_end`` is called once if the log turns out to be another one.
        ``known`` is compared on start. The caller starts and stops the tail; ``close`` stops it too.
        """
        tail = LogTail(
            self._connection,
            self,
            subjects.LOG_SUBJECTS,
            from_seq=from_seq,
            on_batch=on_batch,
            on_end=on_end,
            known=known,
        )
        self._tails.add(tail)
        return tail

    async def follow(self, from_seq: int) -> AsyncIterator[list[Recorded]]:
        async for batch in iterate(lambda on_batch, on_end: self.tail(from_seq, on_batch, on_end)):
            yield batch

    async def identity(self) -> LogIdentity:
        deadline = self._inbox.clock.monotonic_s() + _MISSING_S
        while True:
            reply = await request(self._inbox, f"$JS.API.STREAM.INFO.{STREAM}", timeout_s=5.0, resend_s=1.0)
            answer = orjson.loads(reply.body)
            if (error := answer.get("error")) is None:
                state = answer["state"]
                metadata = answer["config"].get("metadata") or {}
                epoch = metadata.get(EPOCH_KEY, "")
                accepted = bool(epoch) and metadata.get(ACCEPTED_KEY) == epoch
                return LogIdentity(epoch, int(state["first_seq"]), int(state["last_seq"]), accepted)
            if error.get("err_code") != _NO_STREAM:
                raise Unavailable(f"the log does not tell its state ({error.get('err_code')})")
            if self._inbox.clock.monotonic_s() > deadline:
                raise LogRegression("the log does not exist")
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        for tail in list(self._tails):
            await tail.stop()


def _write(append: Append) -> Write:
    return Write(
        subjects.append_subject(append.subject),
        append.subject,
        append.guard,
        append.expected_seq,
        append.event_id,
        append.body,
    )
