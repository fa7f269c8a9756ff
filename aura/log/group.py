"""Group commit: appends that wait anyway share one flush.

With ``sync_interval: always`` the server flushes once per plain message, but only a few times per atomic batch, however large.
So a lone append goes out at once as a plain message (lowest latency), and when enough appends have piled up behind those in
flight, all that wait go out as one batch.

::

    submit ──few in flight──▶ plain
       └──else──▶ queue ──a flush returned──▶ worth a batch? ──yes──▶ atomic batch ──refused──▶ each one plain
                                                    └──no──▶ plain, up to MAX_PLAIN in flight

* With ``by_turn`` nothing is sent before the turn of the event loop ends, and all that it submitted is decided on together. For output: a
  flush that returns frees all attempts that shared it, each has something to write again in the same turn, and the first
  :data:`MAX_PLAIN` of them would otherwise go one by one, with a flush each, while the others wait for all of these.
* *Worth* is decided by measured costs (:class:`FlushCosts`), because a flush takes 0.1 ms on one disk and 10 ms on another.
* A batch holds one append per entity; a second one for the same entity waits for the next round.
* A refused batch says nothing about each of its members, so each is then sent as a plain append and gets its own definite
  answer. If the batch was stored after all (lost acknowledgement), the plain appends find their own ids (``guarded.py``).
* Bounded: above :data:`MAX_QUEUED` waiting appends new ones raise ``Overloaded``; one that waited longer than the deadline
  without being sent fails with ``Unavailable``.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from aura.errors import AuraError, Overloaded, Unavailable
from aura.log.batch import AtomicWriter
from aura.log.guarded import DEADLINE_S, GuardedWriter, Write
from aura.log.store import MAX_BATCH

log = structlog.get_logger("aura.log")
MAX_PLAIN = 32
MAX_QUEUED = 20_000
#: A second batch is opened beside the first only when this many wait: one's staging then overlaps the other's commit.
SECOND_BATCH = 256
MAX_BATCH_BYTES = 8 * 1024 * 1024


class FlushCosts:
    """What storing costs here, in seconds, learnt while running (exponential averages)."""

    #: Share of a batch's time that each message adds (staging, checks); the rest is fixed.
    EACH_S = 0.00006

    def __init__(self, plain_s: float = 0.00025, fixed_s: float = 0.008) -> None:
        self.plain_s = plain_s
        self.fixed_s = fixed_s
        self._last_plain: float | None = None

    def plain_landed(self, now: float, in_flight: int) -> None:
        """A plain append was answered while ``in_flight`` (this one included) were on their way and no batch was."""
        last, self._last_plain = self._last_plain, now
        if last is not None and in_flight > MAX_PLAIN // 4:
            self.plain_s += 0.02 * (min(now - last, 0.02) - self.plain_s)

    def batch_sent(self) -> None:
        """From here on the time between plain answers says nothing about their cost."""
        self._last_plain = None

    def batch_landed(self, size: int, sent: float, now: float) -> None:
        """A batch of ``size`` was answered; plain appends answered after ``sent`` were in flight before it."""
        taken = now - max(sent, self._last_plain or sent) - size * self.EACH_S
        self._last_plain = None
        self.fixed_s += 0.1 * (min(max(taken, 0.001), 0.2) - self.fixed_s)

    def worth_batch(self, waiting: int) -> bool:
        """Whether one batch of ``waiting`` messages is cheaper than as many plain ones."""
        return waiting * self.plain_s > self.fixed_s + waiting * self.EACH_S


class GroupCommit:
    """Concurrent appends to one stream, each with its own answer."""

    def __init__(
        self, writer: GuardedWriter, batches: AtomicWriter, *, deadline_s: float = DEADLINE_S, by_turn: bool = False
    ) -> None:
        self.costs = FlushCosts()
        self._by_turn = by_turn
        self._turn_ends = False
        self._writer = writer
        self._batches = batches
        self._deadline_s = deadline_s
        self._queue: deque[tuple[Write, asyncio.Future[int], float]] = deque()
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, write: Write) -> asyncio.Future[int]:
        """Store ``write``. The future's outcomes are those of :meth:`GuardedWriter.submit`; raises ``Overloaded``."""
        if not self._by_turn and not self._queue and not self._open and self._writer.in_flight < MAX_PLAIN:
            return self._plain(write)
        if len(self._queue) >= MAX_QUEUED:
            raise Overloaded("too many appends are waiting for the log")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((write, future, self._writer.now()))
        if self._by_turn:
            if not self._turn_ends:
                self._turn_ends = True
                asyncio.get_running_loop().call_soon(self._end_turn)
        elif self._open:
            self._pump()
        return future

    def _end_turn(self) -> None:
        self._turn_ends = False
        self._pump()

    def _plain(self, write: Write) -> asyncio.Future[int]:
        future = self._writer.submit(write)
        future.add_done_callback(self._plain_landed)
        return future

    def _plain_landed(self, _future: asyncio.Future[int]) -> None:
        # The writer's own callback ran first, so its counter no longer includes this one.
        self.costs.plain_landed(self._writer.now(), self._writer.in_flight + 1)
        if self._queue:
            self._pump()

    def _pump(self) -> None:
        """Send what the queue's length and what is in flight allow."""
        self._drop_stale()
        while self._queue:
            waiting = len(self._queue)
            room = self._open == 0 or (self._open == 1 and waiting >= SECOND_BATCH)
            if room and self.costs.worth_batch(waiting):
                self._send_batch()
            elif self._open == 0 and self._writer.in_flight < MAX_PLAIN:
                write, future, _ = self._queue.popleft()
                if not future.done():
                    self._forward(write, future)
            else:
                return

    def _drop_stale(self) -> None:
        oldest = self._writer.now() - self._deadline_s
        while self._queue and self._queue[0][2] < oldest:
            _, future, _ = self._queue.popleft()
            if not future.done():
                future.set_exception(Unavailable("the log is too slow; the append was not sent"))

    def _forward(self, write: Write, future: asyncio.Future[int]) -> None:
        try:
            self._plain(write).add_done_callback(lambda landed: _copy(landed, future))
        except AuraError as error:
            future.set_exception(error)

    def _send_batch(self) -> None:
        members: list[tuple[Write, asyncio.Future[int]]] = []
        later: list[tuple[Write, asyncio.Future[int], float]] = []
        guards: set[str] = set()
        size = 0
        while self._queue and len(members) < MAX_BATCH and size < MAX_BATCH_BYTES:
            write, future, since = self._queue.popleft()
            if future.done():
                continue
            if write.guard is not None:
                if write.guard in guards:
                    later.append((write, future, since))
                    continue
                guards.add(write.guard)
            members.append((write, future))
            size += len(write.body) + 512
        self._queue.extendleft(reversed(later))
        if not members:
            return
        self._open += 1
        self.costs.batch_sent()
        task = asyncio.get_running_loop().create_task(self._run_batch(members))
        self._tasks.add(task)
        task.add_done_callback(self._batch_landed)

    async def _run_batch(self, members: list[tuple[Write, asyncio.Future[int]]]) -> None:
        writes = [write for write, _ in members]
        sent = self._writer.now()
        try:
            found = await self._batches.attempt(writes, sent + self._deadline_s)
        except AuraError as error:  # a member that cannot be encoded must not take the others down
            log.warning("log.batch_not_sent", error=type(error).__name__)
            found = None
        if found is not None and found.seq:
            self.costs.batch_landed(len(members), sent, self._writer.now())
            first = found.seq - len(members) + 1
            for offset, (_, future) in enumerate(members):
                if not future.done():
                    future.set_result(first + offset)
            return
        for write, future in members:
            if not future.done():
                self._forward(write, future)

    def _batch_landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._open -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("log.batch_failed", error=str(error))
        self._pump()


def _copy(landed: asyncio.Future[int], future: asyncio.Future[int]) -> None:
    if landed.cancelled():
        future.cancel()
        return
    error = landed.exception()
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(landed.result())
