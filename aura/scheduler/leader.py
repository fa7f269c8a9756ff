"""Leadership of the scheduler: who may decide, and since when it knows enough to.

What is authoritative: nothing here. The lease (``log/lease.py``) only keeps two schedulers from doing the same work; what *fences*
is the expected sequence of every append. Two believed leaders are wasteful and harmless (G9).

::

    STANDBY ──lease taken──▶ ELECTED ──own ``system.leader_elected`` seen in the feed──▶ LEADING
       ▲                        │                                                           │
       └──────── lease lost or released (``Lease.leading`` turns false) ────────────────────┘

Invariants

* ``LEADING`` begins only when the feed has delivered our own ``leader_elected``: every event the leaders before us wrote until then
  is known.
* Whoever acts asks :attr:`Leadership.leading` first, each time. It compares the monotonic clock with the lease's end, so a
  process that was stopped for longer than its lease does nothing when it wakes, although its timers are overdue: it has not
  heard the renewals that came meanwhile, and an expired lease is the one decision that the expected sequence would let through.
* A new term begins with one full TTL for every lease.

Failure cases: the log does not answer while we are elected (tried again as long as we hold the lease); the lease is lost before
``leader_elected`` is seen (back to standby; the event stays as a record of a term in which nothing was decided).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from aura.clock import Clock, rfc3339
from aura.errors import AuraError
from aura.events import envelope, subjects
from aura.events.catalogue import SystemLeaderElected
from aura.ids import IdSource
from aura.log.store import Append, EventStore

log = structlog.get_logger("aura.scheduler")
ROLE = "scheduler"
_LOOK_S = 0.5


class Lease(Protocol):
    """A lease that keeps trying by itself between ``start`` and ``stop`` (``aura.log.lease.Lease``)."""

    @property
    def leading(self) -> bool:
        """Whether we may act now."""

    @property
    def term(self) -> int:
        """Ours while leading; only rises."""

    async def start(self) -> None:
        """Begin to try."""

    async def stop(self) -> None:
        """Release it if it is ours. Safe twice."""

    async def wait_leading(self) -> int:
        """Wait until we lead; the term."""

    async def wait_lost(self) -> None:
        """Wait until we no longer lead."""


class Leadership:
    """Turns a lease into terms. ``seen(seq)`` waits until the feed has delivered that sequence."""

    def __init__(
        self,
        lease: Lease,
        store: EventStore,
        clock: Clock,
        ids: IdSource,
        holder: str,
        *,
        seen: Callable[[int], Awaitable[None]],
        on_elected: Callable[[int], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._lease = lease
        self._store = store
        self._clock = clock
        self._ids = ids
        self._holder = holder
        self._seen = seen
        self._on_elected = on_elected
        self._on_lost = on_lost
        self._term: int | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def leading(self) -> bool:
        """Whether we may decide now. Ask before every round and before every append."""
        return self._term is not None and self._lease.leading and self._lease.term == self._term

    async def start(self) -> None:
        """Begin to compete for the lease."""
        await self._lease.start()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop deciding and release the lease, so that a standby takes over at once. Safe twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._step_down()
        await self._lease.stop()

    async def _run(self) -> None:
        while True:
            term = await self._lease.wait_leading()
            elected = asyncio.ensure_future(self._elect(term))
            try:
                await self._until_lost(term)
            finally:
                elected.cancel()
                await asyncio.gather(elected, return_exceptions=True)
                self._step_down()

    async def _until_lost(self, term: int) -> None:
        """Wait for the end of this term; a lease lost and taken again before we looked is another term."""
        while self._lease.leading and self._lease.term == term:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._lease.wait_lost()
            except TimeoutError:
                continue

    async def _elect(self, term: int) -> None:
        seq = await self._announce(term)
        await self._seen(seq)
        if self._lease.leading and self._lease.term == term:
            self._term = term
            log.info("leader.elected", term=term, holder=self._holder)
            self._on_elected(term)

    async def _announce(self, term: int) -> int:
        """Append ``system.leader_elected``; the same event id until the log answers."""
        event = SystemLeaderElected(role=ROLE, term=term, holder=self._holder)
        event_id = self._ids.uuid7()
        stamp = envelope.Stamp(rfc3339(self._clock.now()), f"{ROLE}:{term}", event_id, event_id)
        body = envelope.seal(event, event_id=event_id, stamp=stamp, ids={})
        append = Append(subjects.system_event(event.TYPE), None, 0, event_id, body)
        while True:
            try:
                return await self._store.append(append)
            except AuraError as error:
                log.warning("leader.cannot_announce", term=term, code=error.code, error=error.detail)
                await asyncio.sleep(0.1)

    def _step_down(self) -> None:
        if self._term is not None:
            log.warning("leader.lost", term=self._term, holder=self._holder)
            self._term = None
            self._on_lost()
