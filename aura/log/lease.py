"""Leadership: one lease per role in the KV bucket ``AURA_LEASES``, with a term that only rises.

What is authoritative: the last message of ``$KV.AURA_LEASES.<role>``, ``{"holder", "term", "ttl_s"}`` (``holder`` empty =
released), and its sequence. Every change is written against the sequence last seen, so of two candidates one wins. What *fences*
is not this lease but the expected sequence of each append and the term it carries: two believed leaders do no harm (G9).

::

    STANDBY ──no holder, or nothing changed for ttl_s by our own clock──▶ write (term + 1) ──accepted──▶ LEADER
       ▲                                                                      └──refused──▶ STANDBY       │
       └───────── renewal refused, or not confirmed for ttl_s, or released ──────────────────────────────┘

* Only durations are compared, on the monotonic clock, never two machines' wall clocks (G10). A leader counts its lease from the
  moment *before* it sent the renewal that was confirmed; a standby counts from the moment *after* it saw the change. So the
  leader stops believing before the standby starts.
* A leader that was paused (SIGSTOP) longer than its lease finds out in :attr:`Lease.leading` before it acts: it looks at the
  clock, not at a flag.
* Changes are noticed by a core subscription on the key, which is only a hint to look: such messages are seen even if the server
  then refuses them.

Takeover: at once after a release, ``ttl_s`` after the last renewal of a leader that died (2 s by default).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import orjson
import structlog

from aura.clock import Clock
from aura.errors import AuraError, WrongExpectedSequence
from aura.ids import IdSource
from aura.log import wire
from aura.log.connection import Connection, RawSubscription
from aura.log.guarded import GuardedWriter, Write
from aura.log.inbox import inbox_of
from aura.log.reader import StreamReader
from aura.log.store import Recorded

log = structlog.get_logger("aura.log")

BUCKET = "AURA_LEASES"
TTL_S = 2.0
RENEWALS_PER_TTL = 4


@dataclass(frozen=True, slots=True)
class Holding:
    """The lease as last seen. ``seq`` 0 = never held."""

    seq: int
    holder: str
    term: int
    ttl_s: float


class Lease:
    """Keeps trying for one role until :meth:`stop`, which releases it. ``holder`` names this process uniquely."""

    def __init__(
        self, connection: Connection, clock: Clock, ids: IdSource, role: str, holder: str, *, ttl_s: float = TTL_S
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._ids = ids
        self._subject = f"$KV.{BUCKET}.{role}"
        self._role = role
        self._holder = holder
        self._ttl_s = ttl_s
        inbox = inbox_of(connection, clock, ids)
        self._reader: StreamReader[Recorded] = StreamReader(
            inbox, f"KV_{BUCKET}", wire.recorded, gapless=False, timeout_s=ttl_s
        )
        self._writer = GuardedWriter(inbox, self._reader, limit=4_096, deadline_s=ttl_s)
        self._seen = Holding(0, "", 0, ttl_s)
        self._seen_at = 0.0
        self._leading_until = 0.0
        self._leading = False
        self._look = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._subscription: RawSubscription | None = None

    @property
    def leading(self) -> bool:
        """Whether we may act as the leader *now*. Ask before every round of work, not once."""
        return self._leading and self._clock.monotonic_s() < self._leading_until

    @property
    def term(self) -> int:
        """The current term: ours while leading."""
        return self._seen.term

    @property
    def holder(self) -> str:
        """Who holds the lease as last seen; empty when nobody does."""
        return self._seen.holder

    async def start(self) -> None:
        """Start trying. Returns after the first look at the lease."""
        self._subscription = await self._connection.subscribe_raw(self._subject, self._hint)
        await self._connection.flush()
        self._connection.on_reconnect(self._look.set)
        await self._turn()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Release the lease if it is ours and stop trying. Safe twice."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            self._connection.forget_listener(self._look.set)
            await subscription.unsubscribe()
        if self._leading:
            self._set_leading(False)
            try:
                await self._write("", self._seen.term)
            except AuraError as error:  # it will expire instead
                log.warning("lease.not_released", role=self._role, error=error.detail)

    async def wait_leading(self) -> int:
        """Wait until we lead; the term."""
        while not self.leading:
            await self.wait_change()
        return self.term

    async def wait_lost(self) -> None:
        """Wait until we no longer lead."""
        while self.leading:
            self._changed.clear()
            left = self._leading_until - self._clock.monotonic_s()
            try:
                async with asyncio.timeout(max(left, 0.01)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def wait_change(self) -> None:
        """Wait until the lease, or our part in it, has changed once more."""
        self._changed.clear()
        await self._changed.wait()

    def _hint(self, _subject: bytes, _reply: bytes, _body: bytes, _headers: bytes | None) -> None:
        self._look.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            await self._turn()

    def _pause_s(self) -> float:
        """Until the next renewal, or until what we watch expires."""
        if self._leading:
            return self._ttl_s / RENEWALS_PER_TTL
        expires = self._seen_at + self._seen.ttl_s - self._clock.monotonic_s()
        return min(max(expires, 0.02), self._ttl_s)

    async def _turn(self) -> None:
        """Renew what is ours, or take what is free. A lease that ran out before it was renewed is lost, even if nobody else
        has it yet: whoever watched us has seen it lost."""
        if self._leading and not self.leading:
            self._set_leading(False)
        try:
            if self._leading:
                await self._renew()
            else:
                await self._observe()
                if self._free():
                    await self._take()
        except WrongExpectedSequence:
            self._set_leading(False)
            self._look.set()
        except AuraError as error:
            log.warning("lease.no_answer", role=self._role, error=error.detail)
        if self._leading and self._clock.monotonic_s() >= self._leading_until:
            self._set_leading(False)

    async def _observe(self) -> None:
        found = await self._reader.last(self._subject, consistent=True)
        now = self._clock.monotonic_s()
        seen = Holding(0, "", 0, self._ttl_s) if found is None else _parse(found, self._ttl_s)
        if seen.seq != self._seen.seq or self._seen_at == 0.0:
            self._seen, self._seen_at = seen, now
            self._changed.set()

    def _free(self) -> bool:
        """Nobody holds it, or it has not changed for its whole lifetime since we saw it; or it is ours from before a restart
        of this object."""
        waited = self._clock.monotonic_s() - self._seen_at
        return self._seen.holder in ("", self._holder) or waited >= self._seen.ttl_s

    async def _take(self) -> None:
        sent = self._clock.monotonic_s()
        await self._write(self._holder, self._seen.term + 1)
        self._leading_until = sent + self._ttl_s
        log.info("lease.taken", role=self._role, term=self._seen.term, holder=self._holder)
        self._set_leading(True)

    async def _renew(self) -> None:
        sent = self._clock.monotonic_s()
        if sent < self._leading_until - self._ttl_s * (1 - 0.5 / RENEWALS_PER_TTL):
            return  # a hint about our own renewal
        await self._write(self._holder, self._seen.term)
        self._leading_until = sent + self._ttl_s

    async def _write(self, holder: str, term: int) -> None:
        body = orjson.dumps({"holder": holder, "term": term, "ttl_s": self._ttl_s})
        write = Write(self._subject, self._subject, self._subject, self._seen.seq, self._ids.uuid7(), body)
        seq = await self._writer.submit(write)
        self._seen, self._seen_at = Holding(seq, holder, term, self._ttl_s), self._clock.monotonic_s()

    def _set_leading(self, leading: bool) -> None:
        if self._leading and not leading:
            log.warning("lease.lost", role=self._role, term=self._seen.term)
        self._leading = leading
        self._changed.set()


def _parse(found: Recorded, default_ttl_s: float) -> Holding:
    try:
        value = orjson.loads(found.body)
        return Holding(found.seq, str(value["holder"]), int(value["term"]), float(value["ttl_s"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        log.error("lease.unreadable", seq=found.seq)  # somebody else's bytes: treated as held, until it does not change
        return Holding(found.seq, "?", 0, default_ttl_s)
