"""The event store in memory: the same semantics without a server, for simulations and tests.

It passes the same contract suite as the JetStream adapter. What a simulation may do to it goes through one door, the
``switch``: an async function awaited with the name of the point that is being passed. It may wait (delay), or raise:

=================  ================================================================================
point              raising here means
=================  ================================================================================
``append.before``  the message never reached the log
``append.after``   it is stored and the acknowledgement was lost (raise ``Unavailable``), or a crash
``read``           the log did not answer
``deliver``        a follower is about to get a batch
=================  ================================================================================

A message sent twice needs no point of its own: storing is idempotent by guard and event id, here as on the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from aura.clock import Clock
from aura.errors import LogRegression, WrongExpectedSequence
from aura.log import admission
from aura.log.store import Append, LogIdentity, Recorded

Switch = Callable[[str], Awaitable[None]]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def _closed_switch(_point: str) -> None:
    """No faults."""


class MemoryEventStore:
    """See :class:`~aura.log.store.EventStore`. For one event loop."""

    def __init__(self, clock: Clock, *, epoch: str = "memory", switch: Switch = _closed_switch) -> None:
        self._clock = clock
        self._epoch = epoch
        self._accepted = False
        self._switch = switch
        self._events: list[Recorded] = []
        self._ids: list[str] = []
        self._by_id: dict[str, int] = {}
        self._last_under: dict[str, int] = {}
        self._followers: set[asyncio.Event] = set()

    async def append(self, append: Append) -> int:
        admission.check_append(append)
        await self._switch("append.before")
        seq = self._store([append])[0]
        await self._switch("append.after")
        return seq

    async def append_batch(self, appends: Sequence[Append]) -> list[int]:
        admission.check_batch(appends)
        await self._switch("append.before")
        seqs = self._store(appends)
        await self._switch("append.after")
        return seqs

    def _store(self, appends: Sequence[Append]) -> list[int]:
        """All or none; no await inside, so nothing comes in between."""
        for append in appends:
            last = self._last_under.get(append.guard, 0) if append.guard is not None else 0
            if append.guard is not None and last != append.expected_seq:
                return self._again(appends, append, last)
        known = [append for append in appends if append.event_id in self._by_id]
        if len(known) == len(appends):
            return [self._by_id[append.event_id] for append in appends]
        if known:
            raise WrongExpectedSequence(known[0].guard or "", known[0].expected_seq, None)
        seqs = [self._store_one(append) for append in appends]
        for follower in self._followers:
            follower.set()
        return seqs

    def _again(self, appends: Sequence[Append], refused: Append, last: int) -> list[int]:
        """A guard did not hold: refused, unless these very events were stored before."""
        seqs = [self._by_id.get(append.event_id, 0) for append in appends]
        stored_here = all(
            seq > append.expected_seq and self._events[seq - 1].subject == append.subject
            for seq, append in zip(seqs, appends, strict=True)
        )
        if all(seqs) and stored_here:
            return seqs
        raise WrongExpectedSequence(refused.guard or "", refused.expected_seq, last)

    def _store_one(self, append: Append) -> int:
        seq = len(self._events) + 1
        stored_at = (self._clock.now() - _EPOCH) // timedelta(microseconds=1) * 1_000
        self._events.append(Recorded(seq, append.subject, stored_at, append.body))
        self._ids.append(append.event_id)
        self._by_id[append.event_id] = seq
        self._last_under[append.subject] = seq
        tokens = append.subject.split(".")
        for depth in range(1, len(tokens)):
            self._last_under[".".join(tokens[:depth]) + ".>"] = seq
        return seq

    async def last(self, guard: str, *, consistent: bool = False) -> Recorded | None:
        del consistent  # there is only one copy
        await self._switch("read")
        seq = self._last_under.get(guard, 0)
        if seq == 0 and ("*" in guard or guard == ">"):
            wanted = guard.split(".")
            return next((event for event in reversed(self._events) if matches(wanted, event.subject)), None)
        return self._events[seq - 1] if seq else None

    async def get(self, seq: int) -> Recorded | None:
        await self._switch("read")
        return self._events[seq - 1] if 0 < seq <= len(self._events) else None

    async def read(
        self, from_seq: int = 1, *, to_seq: int | None = None, subject: str | None = None, batch: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        await self._switch("read")
        end = min(len(self._events), to_seq if to_seq is not None else len(self._events))
        wanted = subject.split(".") if subject is not None else None
        found: list[Recorded] = []
        for seq in range(max(from_seq, 1), end + 1):
            event = self._events[seq - 1]
            if wanted is None or matches(wanted, event.subject):
                found.append(event)
            if len(found) == batch:
                yield found
                found = []
                await self._switch("read")
        if found:
            yield found

    async def follow(self, from_seq: int) -> AsyncIterator[list[Recorded]]:
        if from_seq > len(self._events) + 1:
            raise LogRegression(f"the log ends at {len(self._events)}, before {from_seq}")
        arrived = asyncio.Event()
        self._followers.add(arrived)
        position = max(from_seq, 1)
        try:
            while True:
                if position <= len(self._events):
                    batch = self._events[position - 1 :]
                    await self._switch("deliver")
                    position += len(batch)
                    yield batch
                else:
                    arrived.clear()
                    await arrived.wait()
        finally:
            self._followers.discard(arrived)

    async def identity(self) -> LogIdentity:
        await self._switch("read")
        return LogIdentity(self._epoch, 1 if self._events else 0, len(self._events), self._accepted)

    def accept(self, epoch: str) -> None:
        """What ``topology.accept_new_epoch`` does."""
        self._epoch, self._accepted = epoch, True

    async def close(self) -> None:
        """Nothing to release."""


def matches(wanted: Sequence[str], subject: str) -> bool:
    """Whether ``subject`` matches the tokens of a NATS pattern (``*`` one token, ``>`` one or more at the end)."""
    tokens = subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(tokens) > index
        if index >= len(tokens) or part not in ("*", tokens[index]):
            return False
    return len(tokens) == len(wanted)
