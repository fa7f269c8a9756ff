"""The live end of the log: every event once, in order, without holes, as soon as the server republishes it.

Core NATS delivers at most once, so this class does not believe it: the sequence decides.

::

    live message ──seq == next, nothing missing──▶ delivered with all others of this turn of the event loop
        └──seq > next──▶ kept aside ──▶ the filler reads [next, seq) from the stream, delivers, then what was kept aside
    every second, and after a reconnect: the stream's epoch and last sequence; more than next - 1 ? ──▶ the filler

Invariants

* ``on_batch`` gets consecutive sequences, starting at ``from_seq`` (or the log's first event, if that is later).
* Memory is bounded: what is kept aside is at most :data:`MAX_AHEAD` events or :data:`MAX_AHEAD_BYTES`; beyond that live messages
  are dropped and read from the stream later. A consumer that cannot follow calls :meth:`LogTail.pause` and gets nothing until
  ``resume``.
* A log that is shorter or other than the one we followed ends the tail with ``LogRegression`` through ``on_end`` (G5).

Failure cases: a lost connection (subscriptions return with it, the check fills the hole); a lost last message, which nothing
that follows would reveal (the check each second); messages out of order between servers (kept aside); a stream that does not
answer (the filler tries again for ever, live messages wait).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable

import structlog

from aura.errors import AuraError, LogRegression, Unavailable
from aura.log import identity as log_identity
from aura.log import wire
from aura.log.connection import Connection, RawSubscription
from aura.log.identity import Checkpoint
from aura.log.store import EventStore, Recorded

log = structlog.get_logger("aura.log")

MAX_AHEAD = 50_000
MAX_AHEAD_BYTES = 32 * 1024 * 1024
_CHECK_S = 1.0
#: A message that is stored may still be on its way to us.
_GRACE_S = 0.05
#: A new leader of the stream may not have applied all that it has: a log that looks shorter is looked at again.
_SECOND_LOOK_S = 0.5
_FROM_LOG = b"\r\nNats-Stream: AURA_LOG\r\n"

OnBatch = Callable[[list[Recorded]], None]
OnEnd = Callable[[AuraError], None]


class LogTail:
    """Follows the log from ``from_seq`` for ever. ``start`` raises what ``identity.verify`` raises; ``stop`` is safe twice."""

    def __init__(
        self,
        connection: Connection,
        store: EventStore,
        subjects: tuple[str, ...],
        *,
        from_seq: int,
        on_batch: OnBatch,
        on_end: OnEnd,
        known: Checkpoint | None = None,
    ) -> None:
        self._connection = connection
        self._store = store
        self._subjects = subjects
        self._on_batch = on_batch
        self._on_end = on_end
        self._known = known
        self.next_seq = from_seq
        """The next sequence to be delivered."""
        self.epoch = ""
        self._target = 0
        self._ahead: dict[int, Recorded] = {}
        self._ahead_bytes = 0
        self._ready: list[Recorded] = []
        self._flush_scheduled = False
        self._filling = True
        self._wake = asyncio.Event()
        self._check_now = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._last: Recorded | None = None
        self._compared: tuple[int, float] | None = None
        """Where the log ended when it was last asked, and the loop's time just before; until everything up to there is delivered."""
        self._current_at = -math.inf
        self._subscriptions: list[RawSubscription] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False

    async def start(self) -> None:
        """Subscribe first, then look where the log ends: what comes in between is kept aside, so the splice has no hole."""
        for subject in self._subjects:
            self._subscriptions.append(await self._connection.subscribe_raw(subject, self._on_message))
        await self._connection.flush()
        asked_at = asyncio.get_running_loop().time()
        if self._known is not None:
            identity = await log_identity.verify(self._store, self._known)
        else:
            identity = await self._store.identity()
        self._compared = identity.last_seq, asked_at
        if self.next_seq > identity.last_seq + 1:
            raise LogRegression(f"the log ends at {identity.last_seq}, before {self.next_seq}")
        self.epoch = identity.epoch
        self.next_seq = max(self.next_seq, identity.first_seq, 1)
        self._target = max(self._target, identity.last_seq)
        self._connection.on_reconnect(self._check_now.set)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._fill_for_ever()), loop.create_task(self._check_for_ever())]
        self._wake.set()

    async def stop(self) -> None:
        """Unsubscribe and stop. Nothing is delivered afterwards."""
        self._ended = True
        self._connection.forget_listener(self._check_now.set)
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.unsubscribe()
        await asyncio.gather(*tasks, return_exceptions=True)

    def age_s(self) -> float:
        """How many seconds ago, at most, everything that the log then had was delivered: a second or so while all is well, growing when
        the log cannot be asked or what it has does not arrive. Infinite before the first delivery of all."""
        self._look_at_age()
        return asyncio.get_running_loop().time() - self._current_at

    def pause(self) -> None:
        """Deliver nothing until :meth:`resume`; what is already scheduled for this turn still comes."""
        self._flowing.clear()

    def resume(self) -> None:
        """Deliver again, from where it stopped."""
        if not self._flowing.is_set():
            self._flowing.set()
            self._wake.set()

    # --- live

    def _on_message(self, _subject: bytes, _reply: bytes, body: bytes, headers: bytes | None) -> None:
        if headers is None or _FROM_LOG not in headers:
            return  # not republished by the stream: somebody published into the committed space
        seq = wire.sequence(headers)
        if seq < self.next_seq:
            return
        self._target = max(self._target, seq)
        if seq == self.next_seq and not self._filling and self._flowing.is_set():
            self._take(wire.recorded(headers, body))
            return
        if len(self._ahead) < MAX_AHEAD and self._ahead_bytes < MAX_AHEAD_BYTES and seq not in self._ahead:
            self._ahead[seq] = wire.recorded(headers, body)
            self._ahead_bytes += len(body)
        self._filling = True
        self._wake.set()

    def _take(self, recorded: Recorded) -> None:
        self._ready.append(recorded)
        self.next_seq = recorded.seq + 1
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        batch, self._ready = self._ready, []
        if not batch or self._ended:
            return
        self._last = batch[-1]
        try:
            self._on_batch(batch)
        except Exception as error:  # the consumer's bug must not look like a gap in the log
            log.exception("tail.consumer_failed", seq=batch[0].seq)
            self._end(AuraError(f"the consumer of the log failed: {type(error).__name__}"))

    # --- catching up

    async def _fill_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._fill()
            except LogRegression as error:
                self._end(error)
                return
            except AuraError as error:
                log.warning("tail.fill_failed", next_seq=self.next_seq, error=error.detail)
                await asyncio.sleep(0.2)
                self._wake.set()

    async def _fill(self) -> None:
        """Deliver everything up to the target, then go back to live delivery."""
        while True:
            await self._flowing.wait()
            self._take_ahead()
            if self.next_seq > self._target:
                self._filling = False  # no await since the check: nothing can have come in between
                return
            await self._let_stragglers_arrive()
            if self.next_seq in self._ahead:
                continue
            end = min((seq for seq in self._ahead if seq > self.next_seq), default=self._target + 1) - 1
            before = self.next_seq
            async for batch in self._store.read(self.next_seq, to_seq=end):
                self._take_all(batch)
                await asyncio.sleep(0)  # let this batch be delivered before the consumer's pause is looked at
                await self._flowing.wait()
            if self.next_seq == before:
                raise Unavailable("the log did not return what it announced")

    def _take_all(self, batch: list[Recorded]) -> None:
        """A batch of consecutive events; some of them may have been delivered meanwhile."""
        fresh = batch[max(0, self.next_seq - batch[0].seq) :]
        if fresh and fresh[0].seq == self.next_seq:
            self._take(fresh[-1])
            self._ready[-1:] = fresh

    def _take_ahead(self) -> None:
        while (recorded := self._ahead.pop(self.next_seq, None)) is not None:
            self._take(recorded)
            self._ahead_bytes -= len(recorded.body)
        if self._ahead and min(self._ahead) < self.next_seq:  # read from the stream in the meantime
            self._ahead = {seq: r for seq, r in self._ahead.items() if seq >= self.next_seq}
            self._ahead_bytes = sum(len(r.body) for r in self._ahead.values())

    async def _let_stragglers_arrive(self) -> None:
        """A small hole right after live delivery is usually a message that took another way; reading it costs more."""
        if self._target - self.next_seq < 16 and self._last is not None:
            await asyncio.sleep(0.002)

    # --- the checks

    async def _check_for_ever(self) -> None:
        while True:
            reconnected = False
            try:
                async with asyncio.timeout(_CHECK_S):
                    await self._check_now.wait()
                self._check_now.clear()
                reconnected = True
            except TimeoutError:
                pass
            try:
                asked_at = asyncio.get_running_loop().time()
                end = await (self._check_identity() if reconnected else self._check_end())
                self._look_at_age()
                if self._compared is None:
                    self._compared = end, asked_at
            except LogRegression as error:
                self._end(error)
                return
            except AuraError as error:
                log.warning("tail.check_failed", error=error.detail)
                if reconnected:
                    self._check_now.set()
                    await asyncio.sleep(0.2)

    def _look_at_age(self) -> None:
        if self._compared is not None and self.next_seq > self._compared[0]:
            self._current_at, self._compared = self._compared[1], None

    async def _check_end(self) -> int:
        """Notice a lost tail, a log that became shorter, and a new epoch, without looking at any event. Where the log ends."""
        identity = await self._store.identity()
        end = identity.last_seq
        if identity.epoch != self.epoch:
            raise LogRegression(f"the log has epoch {identity.epoch}, not {self.epoch}")
        if end >= self.next_seq and end > self._target:
            await asyncio.sleep(_GRACE_S)
            if end > self._target:
                self._missed(end)
        elif end < self.next_seq - 1:
            await asyncio.sleep(_SECOND_LOOK_S)
            return await self._check_identity()
        return end

    async def _check_identity(self) -> int:
        if self._last is not None:
            identity = await log_identity.verify(self._store, log_identity.checkpoint(self.epoch, self._last))
        else:
            identity = await self._store.identity()
            log_identity.compare(Checkpoint(self.epoch, self.next_seq - 1, b""), identity)
        if identity.last_seq > self._target:
            self._missed(identity.last_seq)
        return identity.last_seq

    def _missed(self, end: int) -> None:
        self._target = end
        self._filling = True
        self._wake.set()

    def _end(self, error: AuraError) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(error)


#: How much undelivered :func:`iterate` holds before it pauses the tail.
MAX_UNREAD = 20_000
MAX_UNREAD_BYTES = 16 * 1024 * 1024


async def iterate(make: Callable[[OnBatch, OnEnd], LogTail]) -> AsyncIterator[list[Recorded]]:
    """A tail as an async iterator: each step yields all that has arrived. Raises what ended the tail."""
    unread: list[Recorded] = []
    unread_bytes = 0
    ended: list[AuraError] = []
    arrived = asyncio.Event()

    def on_batch(batch: list[Recorded]) -> None:
        nonlocal unread_bytes
        unread.extend(batch)
        unread_bytes += sum(len(recorded.body) for recorded in batch)
        arrived.set()
        if len(unread) >= MAX_UNREAD or unread_bytes >= MAX_UNREAD_BYTES:
            tail.pause()

    def on_end(error: AuraError) -> None:
        ended.append(error)
        arrived.set()

    tail = make(on_batch, on_end)
    try:
        await tail.start()
        while True:
            await arrived.wait()
            arrived.clear()
            if unread:
                batch, unread[:], unread_bytes = unread[:], [], 0
                tail.resume()
                yield batch
            if ended and not unread:
                raise ended[0]
            if unread or ended:
                arrived.set()
    finally:
        await tail.stop()
