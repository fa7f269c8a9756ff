"""Carries out ``aura.v1`` for one connection: its operations, the walk of its subscriptions, output of jobs, replays.

::

    receive(message) ──▶ subscriptions change ──▶ wake
    run(): welcome ─▶ ┌ wait for wake ─▶ leave the hub ─▶ walk to the head (shared pages, or a filtered read) ─▶ join the hub ┐
                      └──────────────────────────────────────────────────────────────────────────────────────────────────────┘
    output of a job: a JobFollower of its own, which shows only records · replay: a task of its own

While it walks, a connection is in no group: what is committed meanwhile waits in the ring or the log, in order, behind what the new
subscription is owed. Joining happens in the same turn as the last check (``hub`` says why that leaves no gap).

Failure cases: a log that cannot be read ends the connection with 1001 (it resumes by its cursor); a client that takes nothing is
closed with 4408 and ``since=<seq>``, after which every subscription of the log must resume, whichever subscription or replay it was too
slow for; a subscription that is refused gets an ``error`` and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from aura.errors import AuraError, InvalidRequest
from aura.gateway.context import Gateway
from aura.gateway.live.admission import Bucket
from aura.gateway.live.dialects import native
from aura.gateway.live.fanout.frames import Frame, native_messages
from aura.gateway.live.fanout.group import Group
from aura.gateway.live.fanout.outlet import Ending, Outlet
from aura.gateway.live.fanout.trie import wanted
from aura.gateway.live.feed import FromLog, FromRing, GoLive
from aura.gateway.live.follow import Catchup
from aura.gateway.live.output_subscription import follow_output
from aura.gateway.live.replay import play
from aura.gateway.live.settle import settled
from aura.gateway.live.steps import Steps
from aura.gateway.live.subscriptions import Subscription, Subscriptions, log_patterns
from aura.gateway.live.times import seq_at
from aura.gateway.live.visibility import Visibility

log = structlog.get_logger("aura.gateway")

#: A client that resumes sends its subscriptions one after the other: they walk together when they come within this time.
GATHER_S = 0.005


class NativeClient:
    """One connection. :meth:`run` until it is closed; :meth:`receive` for each message of the client."""

    def __init__(self, gateway: Gateway, outlet: Outlet, visible: Visibility) -> None:
        self._gateway = gateway
        self._outlet = outlet
        self._visible = visible
        limits = gateway.limits
        self._subscriptions = Subscriptions(most=limits.subscriptions, page_events=limits.page_events)
        self._welcomed = False
        self._operations = Bucket(gateway.ctx.clock, limits.operations_burst, limits.operations_per_s)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Replays and output subscriptions by id."""
        self._replays: set[str] = set()
        self._group: Group | None = None
        self._wake = asyncio.Event()
        self._steps = Steps(gateway, outlet, self._resume)
        self._catchup = Catchup(gateway, outlet, self._steps)
        self._changes = 0
        """How often the subscriptions have changed."""

    # --- what the client says

    def _welcome(self) -> None:
        """Before anything else is said; a client may speak before :meth:`run` begins."""
        if not self._welcomed:
            self._welcomed = True
            hub = self._gateway.hub
            self._say(native.welcome(hub.epoch, hub.head))

    async def receive(self, message: str | bytes) -> None:
        """Carry out one message, in order. Never raises for what a client says; one that says too much is closed (1008)."""
        self._welcome()
        ops = native.parse(message)
        if not self._operations.take(len(ops)):
            self._gateway.ctx.metrics.dropped.labels("too_many_messages").inc()
            self._outlet.end(Ending.POLICY, "too many operations")
            return
        for op in ops:
            if isinstance(op, native.Refusal):
                self._say(native.error(op.id, op.code, op.detail))
                continue
            try:
                await self._do(op)
            except AuraError as error:
                self._say(native.error_of(getattr(op, "id", None), error))

    async def _do(self, op: native.Op) -> None:
        match op:
            case native.Ping():
                self._say(native.PONG)
            case native.Subscribe():
                await self._subscribe(op)
            case native.Unsubscribe(id):
                await self._unsubscribe(id)
            case native.Replay():
                await self._replay(op)
            case native.Auth():
                raise InvalidRequest("this connection needs no authentication, or has it")

    async def _subscribe(self, op: native.Subscribe) -> None:
        self._check_id(op.id)
        target = native.target_of(op.subject)
        match target.kind:
            case "health":
                self._visible.check(op.subject)
                if op.from_ != "now":
                    raise InvalidRequest("heartbeats have no history", field="from")
                self._reshape()
                self._subscriptions.add_live_only(op.id, (op.subject,))
                self._say(native.subscribed(op.id, self._gateway.hub.head, True))
            case "output":
                start = follow_output(self._gateway, self._outlet, self._steps, self._visible, op)
                self._begin(op.id, await start)
            case "log":
                await self._subscribe_to_log(op)

    async def _subscribe_to_log(self, op: native.Subscribe) -> None:
        patterns = self._patterns(op.subject)
        since = None
        if isinstance(op.from_, native.From) and op.from_.time is not None:
            since = await seq_at(self._gateway, op.from_.time)
        hub, cursor = self._gateway.hub, native.cursor_of(op.from_, since)
        if cursor.since is not None and cursor.epoch in (None, hub.epoch):
            await settled(self._gateway, cursor.since)
        self._reshape()
        seq, reset = self._subscriptions.add(op.id, patterns, cursor, hub.view())
        self._say(native.subscribed(op.id, seq, reset is None))
        if reset is not None:
            self._gateway.ctx.metrics.resets.inc()
            self._say(native.reset(op.id, hub.epoch, reset.reason, reset.seq))

    def _patterns(self, subject: str) -> tuple[str, ...]:
        """What a subject means in the log. ``aura.>`` is everything that this client may see."""
        if subject == "aura.>":
            return self._visible.of_log()
        patterns = log_patterns(subject)
        for pattern in patterns:
            self._visible.check(pattern)
        return patterns

    async def _unsubscribe(self, id: str) -> None:
        task = self._tasks.pop(id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            self._reshape()
            self._subscriptions.remove(id)
        self._say(native.marker("unsubscribed", id, self._gateway.hub.head))

    async def _replay(self, op: native.Replay) -> None:
        self._check_id(op.id)
        if len(self._replays) >= self._gateway.limits.replays:
            raise InvalidRequest(f"a connection has at most {self._gateway.limits.replays} replays at once")
        if native.target_of(op.subject).kind != "log":
            raise InvalidRequest("only the log can be replayed", field="subject")
        patterns = self._patterns(op.subject)
        playing = await play(self._gateway, self._outlet, self._steps, patterns, op)
        self._replays.add(op.id)
        self._begin(op.id, playing)

    def _check_id(self, id: str) -> None:
        if id in self._tasks:
            raise InvalidRequest("a subscription or replay of that id is open", field="id")
        self._subscriptions.check(id, len(self._tasks))

    def _begin(self, id: str, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except AuraError as error:
                self._say(native.error_of(id, error))
            except Exception:  # a bug in one subscription must neither end nor hide the others
                log.exception("live.subscription_failed")
                self._say(native.error(id, "internal", "internal error"))
            finally:
                self._replays.discard(id)
                if self._tasks.get(id) is task:
                    del self._tasks[id]

        task = self._tasks[id] = asyncio.get_running_loop().create_task(run())

    # --- what the client gets

    def _say(self, message: bytes) -> None:
        """A word of the protocol. A client that only asks and never reads is closed like one that never reads."""
        if self._outlet.buffered() > self._gateway.limits.outbound_bytes:
            self._steps.slow()
        else:
            self._outlet.write(native_messages([message]))

    async def run(self) -> None:
        """Until the outlet is closed; cancel it when the client leaves. Raises ``Unavailable``."""
        self._welcome()
        try:
            while not self._outlet.closed:
                await self._wake.wait()
                await self._walk()
        finally:
            self._leave()
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def left(self) -> None:
        """:meth:`run` has let go of everything."""

    async def _walk(self) -> None:
        """Bring all subscriptions to the head, and join the hub in the same turn."""
        hub, gathered = self._gateway.hub, False
        while not self._outlet.closed:
            served = self._subscriptions.behind()
            match self._subscriptions.next(hub.view()):
                case GoLive():
                    self._wake.clear()
                    self._join()
                    return
                case _ if not gathered:
                    gathered = True
                    await asyncio.sleep(GATHER_S)
                    continue
                case FromRing(after):
                    stop = self._subscriptions.stop_at()
                    frames = hub.ring_after(after, self._gateway.limits.page_bytes)
                    if stop is not None:
                        frames = frames[: max(stop - after, 0)]
                    self._catchup.came_from("ring")
                    await self._write(served, frames, frames[-1].seq, self._changes)
                case FromLog(from_seq, to_seq):
                    await self._from_log(served, from_seq, to_seq)

    async def _from_log(self, served: tuple[Subscription, ...], from_seq: int, to_seq: int) -> None:
        patterns = _patterns_of(served)
        last, stop = self._gateway.hub.view().ring_first - 1, self._subscriptions.stop_at()
        last = last if stop is None else min(last, stop)
        changes = self._changes
        if not self._catchup.is_far(from_seq, last, patterns):
            await self._write(served, await self._catchup.page(from_seq, to_seq, patterns), to_seq, changes)
            return
        self._catchup.came_from("filtered")
        limits = self._gateway.limits
        reading = self._gateway.ctx.store.read(from_seq, to_seq=last, subject=patterns[0], batch=limits.page_events)
        async for batch in reading:
            if not await self._write(served, [Frame(recorded) for recorded in batch], batch[-1].seq, changes):
                return
        if self._changes == changes:
            self._subscriptions.reached(served, last)

    async def _write(
        self, served: tuple[Subscription, ...], frames: Sequence[Frame], to_seq: int, changes: int
    ) -> bool:
        """``False``: the client is gone, or the subscriptions have changed since ``changes``. Then what was read is not written: one that
        begins further back would take it for its own, and never get what lies before. The walk goes on from where it is."""

        def due() -> bool:
            return self._changes == changes

        selected = wanted(frames, _patterns_of(served))
        if not await self._catchup.write(selected, lambda seq: self._subscriptions.reached(served, seq), due):
            return False
        if due():
            self._subscriptions.reached(served, to_seq)
        return due()

    def _join(self) -> None:
        hub = self._gateway.hub
        self._catchup.done()
        patterns = self._subscriptions.patterns()
        if patterns and self._group is None:
            self._group = hub.join(patterns, self._outlet)
        for id in self._subscriptions.announce():
            self._say(native.marker("live", id, hub.head))

    def _reshape(self) -> None:
        """The subscriptions are about to change: leave the hub, walk again."""
        self._changes += 1
        self._leave()
        self._wake.set()

    def _leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            self._subscriptions.left_live(self._gateway.hub.detach(group, self._outlet))

    def _resume(self) -> str:
        hub = self._gateway.hub
        return f"since={self._subscriptions.lowest(hub.head) if self._group is None else self._group.flushed}"


def _patterns_of(served: tuple[Subscription, ...]) -> tuple[str, ...]:
    return tuple(sorted({pattern for found in served for pattern in found.patterns}))
