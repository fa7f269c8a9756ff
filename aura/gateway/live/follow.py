"""Carries out a feed: catch up from the ring or the log, then join the hub. The same for every kind of client.

A client that catches up is never ahead of its own reading: the next page is written only when the last one has left.
One that takes no byte for ``stall_s`` is too slow, like one that overflows its budget while live.
"""

from __future__ import annotations

from collections.abc import Sequence

from aura.gateway.context import Gateway
from aura.gateway.live.feed import Cursor, Feed, FromLog, FromRing, GoLive, Reset
from aura.gateway.live.frames import Frame, reset_note
from aura.gateway.live.hub import EVERYTHING, Group
from aura.gateway.live.outlet import Outlet
from aura.gateway.live.trie import matches


async def follow_log(gateway: Gateway, outlet: Outlet, cursor: Cursor, patterns: tuple[str, ...]) -> Group | None:
    """Bring one client from its cursor to live. Returns its group, or ``None`` when it went away or was too slow.

    Raises ``Unavailable`` when the log cannot be read.
    """
    hub, limits, metrics = gateway.hub, gateway.limits, gateway.ctx.metrics
    feed = Feed(cursor, hub.view(), page_events=limits.page_events)
    while not outlet.closed:
        match feed.next(hub.view()):
            case GoLive():
                return hub.join(patterns, outlet)
            case Reset(reason, seq):
                metrics.resets.inc()
                note = reset_note(hub.epoch, reason, seq)
                outlet.write(note.ws if outlet.wire == "ws" else note.sse)
            case FromRing(after):
                frames = hub.ring_after(after, limits.page_bytes)
                _write(outlet, frames, patterns)
                feed.reached(frames[-1].seq)
                metrics.resumes.labels("ring").inc()
            case FromLog(from_seq, to_seq) if len(patterns) > 1:
                _write(outlet, await gateway.pages.frames(from_seq, to_seq), patterns)
                feed.reached(to_seq)
                metrics.resumes.labels("log").inc()
            case FromLog(from_seq, _):
                await _filtered(gateway, outlet, feed, patterns[0], from_seq, hub.view().ring_first - 1)
                metrics.resumes.labels("filtered").inc()
        if not await outlet.drained(limits.stall_s):
            hub.slow(outlet, f"since={feed.position}")
    return None


async def _filtered(gateway: Gateway, outlet: Outlet, feed: Feed, pattern: str, from_seq: int, to_seq: int) -> None:
    """Let the log choose: one job's history must not cost the history of all."""
    async for batch in gateway.ctx.store.read(
        from_seq, to_seq=to_seq, subject=pattern, batch=gateway.limits.page_events
    ):
        outlet.write(b"".join([_bytes(outlet, Frame(recorded)) for recorded in batch]))
        feed.reached(batch[-1].seq)
        if not await outlet.drained(gateway.limits.stall_s) or outlet.closed:
            return
    feed.reached(to_seq)


def _bytes(outlet: Outlet, frame: Frame) -> bytes:
    return frame.ws if outlet.wire == "ws" else frame.sse


def _write(outlet: Outlet, frames: Sequence[Frame], patterns: tuple[str, ...]) -> None:
    chosen = [frame for frame in frames if patterns == EVERYTHING or _wanted(frame, patterns)]
    if chosen:
        outlet.write(b"".join([_bytes(outlet, frame) for frame in chosen]))


def _wanted(frame: Frame, patterns: tuple[str, ...]) -> bool:
    return any(matches(pattern, frame.subject) for pattern in patterns)
