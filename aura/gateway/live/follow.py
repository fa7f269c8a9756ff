"""Carries out a feed: catch up from the ring or the log, then join the hub. The same for every kind of client.

A client that catches up is never ahead of its own reading: the next step is written only when the last one has left (``steps``). One
that takes no byte for ``stall_s`` is too slow, like one that overflows its budget while live.

Behind the ring there are two ways through the log. Pages (``LogPages``) are read once and shared, so a thousand clients that reconnect
at once cost the log what one costs; a filtered read lets the log choose, so one job's history does not cost the history of all. A
client with one subject that is further behind than the pages that are kept takes the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from aura.gateway.context import Gateway
from aura.gateway.live.fanout.frames import Frame, reset_note
from aura.gateway.live.fanout.group import Group
from aura.gateway.live.fanout.hub import reset_bytes
from aura.gateway.live.fanout.outlet import Outlet
from aura.gateway.live.fanout.trie import wanted
from aura.gateway.live.feed import Cursor, Feed, FromLog, FromRing, GoLive, Reset
from aura.gateway.live.history import even
from aura.gateway.live.pieces import Piece, cut
from aura.gateway.live.settle import settled
from aura.gateway.live.steps import Steps


class Catchup:
    """Writes history to one client, and remembers where it came from (``aura_live_resumes``)."""

    def __init__(self, gateway: Gateway, outlet: Outlet, steps: Steps) -> None:
        self._gateway = gateway
        self._outlet = outlet
        self._steps = steps
        self._source = ""

    async def write(
        self, frames: Sequence[Frame], reached: Callable[[int], object], due: Callable[[], bool] = lambda: True
    ) -> bool:
        """In the client's framing, step by step as long as they are ``due``; ``reached`` is told each step's last sequence. ``False``: the
        client is gone, or the rest was not due."""
        return await self._write(cut(frames, self._outlet.wire, self._gateway.limits.page_bytes), reached, due)

    async def write_run(
        self, frames: Sequence[Frame], patterns: tuple[str, ...], reached: Callable[[int], object]
    ) -> bool:
        """What ``patterns`` select of a run of the log, as :meth:`write` does, from bytes that are shared with others."""
        return await self._write(self._gateway.history.run(frames, patterns, self._outlet.wire), reached)

    async def _write(
        self, run: Iterable[Piece], reached: Callable[[int], object], due: Callable[[], bool] = lambda: True
    ) -> bool:
        for piece in run:
            if not await self._steps.write(piece.data, piece.events, lambda: reached(piece.last), due):  # noqa: B023 - called at once
                return False
        return True

    def came_from(self, source: str) -> None:
        """Another page of ``ring``, ``log`` or ``filtered``."""
        self._gateway.ctx.metrics.caught_up(source)[0].inc()
        if self._source != "filtered" and source != "ring":
            self._source = source
        self._source = self._source or source

    def done(self) -> None:
        """The client is live: count it, if it was behind."""
        if self._source:
            self._gateway.ctx.metrics.caught_up(self._source)[1].inc()
            self._source = ""

    def is_far(self, from_seq: int, to_seq: int, patterns: tuple[str, ...]) -> bool:
        """Whether these events are better filtered by the log than read in shared pages."""
        limits = self._gateway.limits
        return len(patterns) == 1 and to_seq - from_seq >= limits.page_events * limits.pages

    async def page(self, from_seq: int, to_seq: int, patterns: tuple[str, ...]) -> Sequence[Frame]:
        """What ``patterns`` select of a shared page. Raises ``Unavailable``."""
        self.came_from("log")
        return wanted(await self._gateway.pages.frames(from_seq, to_seq), patterns)


async def follow_log(gateway: Gateway, outlet: Outlet, cursor: Cursor, patterns: tuple[str, ...]) -> Group | None:
    """Bring one client from its cursor to live. Returns its group, or ``None`` when it went away or was too slow.

    Raises ``Unavailable`` when the log cannot be read.
    """
    hub, limits = gateway.hub, gateway.limits
    if cursor.since is not None and cursor.epoch in (None, hub.epoch):
        await settled(gateway, cursor.since)
    feed = Feed(cursor, hub.view(), page_events=limits.page_events)
    catchup = Catchup(gateway, outlet, Steps(gateway, outlet, lambda: f"since={feed.position}"))
    while not outlet.closed:
        match feed.next(hub.view()):
            case GoLive():
                catchup.done()
                return hub.join(patterns, outlet)
            case Reset(reason, seq):
                gateway.ctx.metrics.resets.inc()
                outlet.write(reset_bytes(reset_note(hub.epoch, reason, seq), outlet.wire))
            case FromRing(after):
                frames = hub.ring_after(after, limits.page_bytes)
                catchup.came_from("ring")
                run = even(after, frames)
                if await catchup.write_run(run, patterns, feed.reached):
                    feed.reached(run[-1].seq)
            case FromLog(from_seq, _) if catchup.is_far(from_seq, hub.view().ring_first, patterns):
                await _filtered(gateway, feed, catchup, patterns[0], from_seq, hub.view().ring_first - 1)
            case FromLog(from_seq, to_seq):
                catchup.came_from("log")
                page = await gateway.pages.frames(from_seq, to_seq)
                if await catchup.write_run(page, patterns, feed.reached):
                    feed.reached(to_seq)
    return None


async def _filtered(gateway: Gateway, feed: Feed, catchup: Catchup, pattern: str, from_seq: int, to_seq: int) -> None:
    """Let the log choose: one job's history must not cost the history of all."""
    catchup.came_from("filtered")
    async for batch in gateway.ctx.store.read(
        from_seq, to_seq=to_seq, subject=pattern, batch=gateway.limits.page_events
    ):
        if not await catchup.write([Frame(recorded) for recorded in batch], feed.reached):
            return
    feed.reached(to_seq)
