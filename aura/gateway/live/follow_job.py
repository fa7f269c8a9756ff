"""Carries out a job feed for one client: the job's events from the log and its output, merged by :class:`JobFeed`.

Both kinds of live input are subscribed before history is read, so nothing falls in between: events after the head at
that moment come from the hub, output is read from storage until a read finds nothing that came meanwhile. What is
pushed live and lost shows by its ``i`` and is read. Memory per client is bounded: while it catches up, live output is
only a hint to read on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
import structlog

from aura.errors import AuraError, Unavailable
from aura.events import subjects
from aura.gateway.api.forms import JobLiveQuery
from aura.gateway.context import Gateway
from aura.gateway.live.frames import Frame, sse_event
from aura.gateway.live.job_feed import JobFeed, Message
from aura.gateway.live.outlet import Ending, Outlet
from aura.gateway.live.taps import OutputFrame, shown

log = structlog.get_logger("aura.gateway")
#: Pause before storage is asked again after it did not answer.
_AGAIN_S = 0.5

Shown = Frame | OutputFrame


class _Left(Exception):
    """The client is gone or was told to go."""


class JobFollower:
    """One client that watches one job. :meth:`run` until the client leaves."""

    def __init__(self, gateway: Gateway, outlet: Outlet, project: int, job_id: str, asked: JobLiveQuery) -> None:
        self._gateway = gateway
        self._outlet = outlet
        self._project = project
        self._job_id = job_id
        self._feed: JobFeed[Shown] = JobFeed(from_cursor=asked.from_, after=asked.after)
        self._since = asked.since
        self._position = (asked.since, asked.from_, asked.after)
        """Where a client resumes that got everything shown so far: log sequence, output cursor, ``i`` in that
        message."""
        self._written = self._position
        self._early: list[Frame] | None = []
        """Live events that came while history was read."""
        self._wake = asyncio.Event()
        self._pending: list[bytes] = []
        self._scheduled = False

    async def run(self) -> None:
        """Catch up, then stay live. Returns when the outlet is closed; cancel it when the client leaves. Raises
        ``Unavailable``."""
        guard = subjects.job_guard(self._project, self._job_id)
        head = self._gateway.hub.head
        unwatch = self._gateway.hub.watch((guard,), self._on_event)
        stop = None
        try:
            stop = await self._gateway.taps.follow(self._project, self._job_id, self._on_output)
            async for batch in self._gateway.ctx.store.read(subject=guard, to_seq=head):
                for recorded in batch:
                    self._event(Frame(recorded))
                await self._drained()
            early, self._early = self._early or [], None
            for frame in early:
                self._event(frame)
            while not self._outlet.closed:
                if self._feed.wants_read:
                    await self._read()
                else:
                    await self._wake.wait()
                    self._wake.clear()
        except _Left:
            return
        finally:
            unwatch()
            if stop is not None:
                await stop()

    async def _read(self) -> None:
        start, attempts = self._feed.begin_read()
        output = self._gateway.ctx.output
        try:
            async for batch in output.read(self._project, self._job_id, attempts, from_cursor=start):
                for message in batch:
                    if message.records:
                        self._show(self._feed.stored(shown(self._job_id, self._project, message)))
                await self._drained()
        except Unavailable as error:
            log.warning("job_feed.read_failed", job_id=self._job_id, error=error.detail)
            self._feed.wants_read = True
            await asyncio.sleep(_AGAIN_S)
            return
        self._show(self._feed.end_read())

    def _on_event(self, frame: Frame) -> None:
        if self._early is not None:
            self._early.append(frame)
        else:
            self._event(frame)
            self._wake_if_needed()

    def _on_output(self, message: Message[OutputFrame]) -> None:
        self._show(self._feed.live(message))
        self._wake_if_needed()

    def _event(self, frame: Frame) -> None:
        try:
            flat = orjson.loads(frame.text)
        except orjson.JSONDecodeError:
            flat = {}
        self._show(self._feed.event(flat if isinstance(flat, dict) else {}, frame))

    def _wake_if_needed(self) -> None:
        if self._feed.wants_read:
            self._wake.set()

    # --- writing

    def _show(self, frames: Sequence[Shown]) -> None:
        for frame in frames:
            seq, cursor, i = self._position
            if isinstance(frame, OutputFrame):
                self._position = (seq, frame.cursor, frame.i)
            elif frame.seq <= self._since:
                continue  # the client has it
            else:
                self._position = (frame.seq, cursor, i)
            self._pending.append(self._bytes(frame))
        if self._pending and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _bytes(self, frame: Shown) -> bytes:
        note = frame.note if isinstance(frame, OutputFrame) else frame
        if self._outlet.wire == "ws":
            return note.ws
        return sse_event(note.text, b"%d.%d.%d" % self._position)

    def _flush(self) -> None:
        self._scheduled = False
        pending, self._pending = self._pending, []
        if not pending or self._outlet.closed:
            return
        if self._outlet.buffered() > self._gateway.limits.outbound_bytes:
            self._too_slow()
        else:
            self._outlet.write(b"".join(pending))
            self._written = self._position
            self._gateway.ctx.metrics.deliveries.inc(len(pending))

    async def _drained(self) -> None:
        """Write what is pending and wait until it has left: history is never faster than its reader."""
        self._flush()
        if not await self._outlet.drained(self._gateway.limits.stall_s):
            self._too_slow()
        if self._outlet.closed:
            raise _Left

    def _too_slow(self) -> None:
        seq, cursor, i = self._written
        self._gateway.hub.slow(self._outlet, f"since={seq}&from={cursor}&after={i}")
        self._wake.set()


async def follow_job(gateway: Gateway, outlet: Outlet, project: int, job_id: str, asked: JobLiveQuery) -> None:
    """Run a :class:`JobFollower`; when the log fails for good the client is told to come again (1001)."""
    try:
        await JobFollower(gateway, outlet, project, job_id, asked).run()
    except AuraError as error:
        log.warning("job_feed.failed", job_id=job_id, error=error.detail)
        outlet.end(Ending.GOING_AWAY, "try again")
