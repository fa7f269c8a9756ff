"""Carries out a job feed for one client: the job's events from the log and its output, merged by :class:`JobFeed`, told by a
:class:`~aura.gateway.live.dialects.job.Telling`.

Both kinds of live input are subscribed before history is read, so nothing falls in between: events after the head at
that moment come from the hub, output is read from storage until a read finds nothing that came meanwhile. What is
pushed live and lost shows by its ``i``, or when the tap compares with storage, and is read. Memory per client is
bounded: while it catches up, live output is held, one message or as much as a client may have unsent (beyond that it is only a hint to
read on), and what was read is written in ``steps``. Without holding, a job that says something more often than a read takes would be read
for ever.

A cursor that cannot be honoured (of another log, or beyond an end) is a reset, and everything is told from the start: one job's
feed is short, so nothing needs to be skipped. The feed does not end with the job: a closed job may be retried.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog

from aura.errors import AuraError, Unavailable
from aura.events import subjects
from aura.gateway.api.forms import JobLiveQuery
from aura.gateway.context import Gateway
from aura.gateway.live.dialects.job import START, PlainJob, Position, Shown, Telling
from aura.gateway.live.fanout.frames import Frame, Note, sse_event
from aura.gateway.live.fanout.outlet import Ending, Outlet
from aura.gateway.live.job_feed import JobFeed, Message
from aura.gateway.live.pieces import pieces
from aura.gateway.live.settle import settled
from aura.gateway.live.steps import Steps
from aura.gateway.live.taps import OutputFrame, shown

log = structlog.get_logger("aura.gateway")
#: Pause before storage is asked again after it did not answer.
_AGAIN_S = 0.5


class _Left(Exception):
    """The client is gone or was told to go."""


class JobFollower:
    """One client that watches one job. :meth:`run` until the client leaves or the telling is over.

    ``also`` are further subjects of the log whose events belong to the feed (a session's), ``steps`` what else catches up on the
    connection."""

    def __init__(
        self,
        gateway: Gateway,
        outlet: Outlet,
        project: int,
        job_id: str,
        telling: Telling,
        start: Position = START,
        also: tuple[str, ...] = (),
        steps: Steps | None = None,
    ) -> None:
        self._gateway = gateway
        self._outlet = outlet
        self._project = project
        self._job_id = job_id
        self._telling = telling
        self._guards = (subjects.job_guard(project, job_id), *also)
        self._feed: JobFeed[Shown] = JobFeed(from_cursor=start.cursor, after=start.after)
        self._since = start.seq
        self.position = start
        """Where a client resumes that got everything told so far."""
        self._written = start
        self._steps = steps or Steps(gateway, outlet, lambda: self._written.query)
        self._history: deque[Frame] = deque()
        self._early: list[Frame] | None = []
        """Live events that came while history was read."""
        self._held: list[Message[OutputFrame]] = []
        """Live output that came while storage was read, in order."""
        self._held_bytes = 0
        self._wake = asyncio.Event()
        self._pending: list[tuple[bytes, Position]] = []
        self._pending_bytes = 0
        self._scheduled = False
        self._behind = True
        """Whether what is pending leaves in steps; else all of it with the next turn."""
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Catch up, then stay live. Returns when the outlet is closed or the telling over; cancel it when the client leaves. Raises
        ``Unavailable``."""
        unwatch = stop = None
        try:
            async with self._steps.turns:
                head = self._gateway.hub.head
                unwatch = self._gateway.hub.watch(self._guards, self._on_event, self.failed)
                stop = await self._gateway.taps.follow(self._project, self._job_id, self._on_output, self._on_missed)
                await self._tell_history(head)
                early, self._early = self._early or [], None
                for frame in early:
                    self._event(frame)
                await self._catch_up()
                for told in self._telling.caught_up():
                    self._write(told)
                await self._catch_up()
            while not self._outlet.closed and not self._telling.over:
                await self._wake.wait()
                self._wake.clear()
                if self._failure is not None:
                    raise self._failure
                if self._feed.wants_read:
                    async with self._steps.turns:
                        await self._catch_up()
            self._behind = True
            await self._drained()
        except _Left:
            return
        finally:
            if unwatch is not None:
                unwatch()
            if stop is not None:
                await stop()

    async def _tell_history(self, head: int) -> None:
        for guard in self._guards:
            async for batch in self._gateway.ctx.store.read(subject=guard, to_seq=head):
                for recorded in batch:
                    if self._telling.by_time:
                        self._history.append(Frame(recorded))
                    else:
                        self._event(Frame(recorded))
                        await self._room()
        self._history = deque(sorted(self._history, key=lambda frame: frame.seq))
        while self._history:
            if self._feed.wants_read:
                await self._read()
            if self._history:
                self._event(self._history.popleft())
            await self._room()

    async def _catch_up(self) -> None:
        """Until nothing is left to read, and what was read and held has left."""
        self._behind = True
        while self._feed.wants_read or self._pending or self._held:
            while self._feed.wants_read and not self._outlet.closed:
                await self._read()
            self._tell_held()
            await self._drained()
        if self._outlet.closed:
            raise _Left
        self._behind = False  # no await since the last look

    async def _read(self) -> None:
        start, attempts = self._feed.begin_read()
        output = self._gateway.ctx.output
        try:
            async for batch in output.read(self._project, self._job_id, attempts, from_cursor=start):
                for message in batch:
                    while self._history and self._history[0].stored_at_ns <= message.stored_at_ns:
                        self._event(self._history.popleft())
                    if message.records:
                        self._show(self._feed.stored(shown(self._job_id, self._project, message)))
                    await self._room()
                await self._drained()
        except Unavailable as error:
            log.warning("job_feed.read_failed", job_id=self._job_id, error=error.detail)
            self._feed.wants_read = True
            await asyncio.sleep(_AGAIN_S)
            return
        self._show(self._feed.end_read())

    def _hold(self, message: Message[OutputFrame]) -> None:
        self._held_bytes += sum(len(frame.note.ws) for frame in message.frames)
        if not self._held or self._held_bytes <= self._gateway.limits.outbound_bytes:
            self._held.append(message)
        else:
            self._held, self._held_bytes = [], 0
            self._feed.missed()

    def _tell_held(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        for message in held:
            self._show(self._feed.live(message))

    def _on_event(self, frame: Frame) -> None:
        if self._early is not None:
            (self._history if self._telling.by_time else self._early).append(frame)
        else:
            self._event(frame)
            self._wake_if_needed()

    def _on_output(self, message: Message[OutputFrame]) -> None:
        if self._behind:
            self._hold(message)
            return
        try:
            self._show(self._feed.live(message))
        except Exception as error:
            self.failed(error)
            raise
        self._wake_if_needed()

    def _on_missed(self) -> None:
        self._feed.missed()
        self._wake.set()

    def failed(self, error: Exception) -> None:
        """What was live cannot be told, or not be written: this feed ends, explicitly."""
        self._failure = error
        self._wake.set()

    def _event(self, frame: Frame) -> None:
        self._show(self._feed.event(_flat(frame), frame))

    def _wake_if_needed(self) -> None:
        if self._feed.wants_read or self._telling.over:
            self._wake.set()

    # --- writing

    def _show(self, frames: Sequence[Shown]) -> None:
        for frame in frames:
            if isinstance(frame, OutputFrame):
                self.position = self.position.past(frame)
                told = self._telling.tell(frame, None, self.position)
            elif frame.seq <= self._since:
                self._telling.skip(_flat(frame))  # the client has it
                continue
            else:
                self.position = self.position.past(frame)
                told = self._telling.tell(frame, _flat(frame), self.position)
            self._write(told)

    def _write(self, told: bytes) -> None:
        if told:
            self._pending.append((told, self.position))
            self._pending_bytes += len(told)
            if not self._behind and not self._scheduled:
                self._scheduled = True
                self._gateway.turn.ends_with(self)

    def flush(self) -> tuple[int, int]:
        """See :class:`~aura.gateway.live.fanout.turn.Writer`: all that is pending, at once."""
        self._scheduled = False
        outlet = self._outlet
        if not self._pending or self._behind or outlet.closed:
            return 0, 0
        if outlet.buffered() > self._gateway.limits.outbound_bytes:
            self._too_slow()
            return 0, 0
        pending = self._take()
        data = self._telling.join([told for told, _ in pending])
        outlet.write(data)
        self._written = self.position
        return len(pending), len(data)

    def _take(self) -> list[tuple[bytes, Position]]:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        return pending

    async def _room(self) -> None:
        """Hold no more than a step."""
        if self._pending_bytes >= self._gateway.limits.page_bytes:
            await self._drained()

    async def _drained(self) -> None:
        """Write what is pending, a step at a time, each when the last one has left: history is never faster than its reader."""
        pending = self._take()
        for piece in pieces(pending, [len(told) for told, _ in pending], self._gateway.limits.page_bytes):
            data = self._telling.join([told for told, _ in piece])
            await self._steps.write(data, len(piece), lambda: self._reached(piece[-1][1]))  # noqa: B023 - called at once
            if self._outlet.closed:
                break
        if self._outlet.closed:
            raise _Left
        if self._failure is not None:
            raise self._failure

    def _reached(self, position: Position) -> None:
        self._written = position

    def _too_slow(self) -> None:
        self._steps.slow()
        self._take()  # nobody will have it
        self._wake.set()


def _flat(frame: Frame) -> Mapping[str, Any]:
    try:
        flat = orjson.loads(frame.text)
    except orjson.JSONDecodeError:
        flat = {}
    return flat if isinstance(flat, dict) else {}


async def honoured(gateway: Gateway, outlet: Outlet, asked: JobLiveQuery) -> Position:
    """Where the client begins: what it asked for, or the start after a reset. Raises ``Unavailable``."""
    reason = None
    if asked.epoch not in (None, gateway.hub.epoch):
        reason = "the log has another epoch"
    elif not await settled(gateway, asked.since):
        reason = "the cursor is ahead of the log"
    elif asked.from_ and asked.from_ > await gateway.ctx.output.last_seq():
        reason = "the cursor is ahead of the output"
    if reason is None:
        return Position(asked.since, asked.from_, asked.after)
    gateway.ctx.metrics.resets.inc()
    start = {"type": "reset", "epoch": gateway.hub.epoch, "reason": reason, "seq": 0, "from": 0, "after": -1}
    note = Note(orjson.dumps(start), b"reset")
    outlet.write(note.ws if outlet.wire == "ws" else sse_event(note.text, START.event_id, b"reset"))
    return START


async def follow_job(gateway: Gateway, outlet: Outlet, project: int, job_id: str, asked: JobLiveQuery) -> None:
    """Run a :class:`JobFollower`; when the log fails for good the client is told to come again (1001)."""
    try:
        start = await honoured(gateway, outlet, asked)
        await JobFollower(gateway, outlet, project, job_id, PlainJob(outlet.wire), start).run()
    except AuraError as error:
        log.warning("job_feed.failed", job_id=job_id, error=error.detail)
        outlet.end(Ending.GOING_AWAY, "try again")
