"""Atomic batches: up to 1,000 messages of distinct entities, all stored or none.

nats-server stages a batch (headers ``Nats-Batch-Id``, ``Nats-Batch-Sequence`` 1…n) and stores it when the message with
``Nats-Batch-Commit: 1`` arrives. We send the whole batch at once; the first and the last message carry the same reply
subject, so a refusal at the start and the commit's answer both reach us. Guards are checked at the commit against the state
before the batch, hence *distinct* entities.

Outcomes, after the same protocol as ``guarded.py``:

* acknowledged → the sequences are the ``n`` up to the one in the answer;
* 10071 or 10201 (a guard moved, or an id is known) → if the first message is stored with our id, an earlier copy of this batch
  was committed and its sequences follow from the first one's; otherwise refused;
* 10176 (incomplete), 10210 (too many open), no leader, silence, reconnect → the batch again under a new batch id. An earlier
  copy that was committed after all makes the guards refuse the new one, which the rule above recognises.

At most :data:`MAX_OPEN` batches are open per process: more than 50 per stream fail with a misleading code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aura.errors import Unavailable, WrongExpectedSequence
from aura.ids import IdSource
from aura.log import wire
from aura.log.guarded import (
    DEADLINE_S,
    DUPLICATE_IN_BATCH,
    WRONG_SEQUENCE,
    Verdict,
    Write,
    may_pass,
    refusal,
    verdict,
)
from aura.log.inbox import Inbox
from aura.log.reader import StreamReader
from aura.log.store import MAX_BATCH

MAX_OPEN = 4
INCOMPLETE = 10176
_SILENCE_S = 4.0
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.25


class _Commit:
    """Waits for the answer of one transmission."""

    __slots__ = ("deadline", "future")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.future: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()

    def on_reply(self, headers: bytes | None, body: bytes) -> bool:
        if not body and not wire.status(headers):
            return False  # the first message is staged
        if not self.future.done():
            self.future.set_result(verdict(headers, body))
        return True

    def on_overdue(self) -> float | None:
        self.on_reconnect()
        return None

    def on_reconnect(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def on_close(self) -> None:
        if not self.future.done():
            self.future.set_exception(Unavailable("the connection to the log is closed; the outcome is unknown"))


class AtomicWriter:
    """Stores batches in one stream."""

    def __init__(
        self, inbox: Inbox, reader: StreamReader[Any], ids: IdSource, *, limit: int, deadline_s: float = DEADLINE_S
    ) -> None:
        self._inbox = inbox
        self._reader = reader
        self._ids = ids
        self._limit = limit
        self._deadline_s = deadline_s
        self._open = asyncio.Semaphore(MAX_OPEN)

    async def store(self, writes: Sequence[Write]) -> list[int]:
        """Store all or none; the sequences in order.

        Raises ``ValueError`` for a wrong size or two messages of one entity, ``WrongExpectedSequence``, ``TooLarge``,
        ``Unavailable`` (outcome unknown; repeat with the same ids).
        """
        check_batch(writes)
        final = self._inbox.clock.monotonic_s() + self._deadline_s
        pause = _FIRST_PAUSE_S
        while True:
            found = await self.attempt(writes, final)
            if found is not None and found.seq:
                return _run(found.seq - len(writes) + 1, len(writes))
            if found is not None and found.code in (WRONG_SEQUENCE, DUPLICATE_IN_BATCH):
                seqs = await self._settle(writes, found)
                if seqs is not None:
                    return seqs
            elif found is not None and found.code != INCOMPLETE and not may_pass(found.code):
                raise refusal(found, self._limit)
            if self._inbox.clock.monotonic_s() + pause > final:
                raise Unavailable("the log did not commit the batch in time; the outcome is unknown")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def attempt(self, writes: Sequence[Write], final: float) -> Verdict | None:
        """One transmission; ``None`` = no answer (unknown)."""
        async with self._open:
            now = self._inbox.clock.monotonic_s()
            commit = _Commit(min(final, now + _SILENCE_S))
            reply_to = self._inbox.register(commit)
            try:
                if self._inbox.connection.is_connected:
                    self._inbox.connection.send(self._encode(writes, reply_to))
                return await commit.future
            finally:
                self._inbox.forget(reply_to)

    def _encode(self, writes: Sequence[Write], reply_to: str) -> bytes:
        batch_id = self._ids.uuid7()
        last = len(writes)
        commands = []
        for number, write in enumerate(writes, 1):
            place = [("Nats-Batch-Id", batch_id), ("Nats-Batch-Sequence", str(number))]
            if number == last:
                place.append(("Nats-Batch-Commit", "1"))
            reply = reply_to if number in (1, last) else ""
            commands.append(wire.command(write.subject, reply, write.headers(*place), write.body))
        return b"".join(commands)

    async def _settle(self, writes: Sequence[Write], found: Verdict) -> list[int] | None:
        """The sequences if an earlier copy was committed; ``None`` = ask again. Raises ``WrongExpectedSequence``."""
        first = writes[0]
        seq = await self._reader.stored_as(first.stored_subject, first.message_id, first.expected_seq)
        if seq is not None:
            return _run(seq, len(writes))
        if found.code == DUPLICATE_IN_BATCH:
            for write in writes[1:]:
                if await self._reader.stored_as(write.stored_subject, write.message_id, write.expected_seq):
                    break
            else:
                return None  # our own earlier copy is known but not stored yet
        guard = first.guard if len(writes) == 1 else None
        raise WrongExpectedSequence(guard or "", first.expected_seq, found.actual)


def check_batch(writes: Sequence[Write]) -> None:
    """Raise ``ValueError`` unless 1–1,000 messages of distinct entities."""
    if not 1 <= len(writes) <= MAX_BATCH:
        raise ValueError(f"a batch has 1 to {MAX_BATCH} messages, not {len(writes)}")
    guards = [write.guard for write in writes if write.guard is not None]
    if len(set(guards)) != len(guards):
        raise ValueError("a batch has at most one message per entity")


def _run(first: int, count: int) -> list[int]:
    return list(range(first, first + count))
