"""Plays a window of the log again for one client, at the speed it happened times a factor (``aura.v1``'s ``replay``).

The event at the window's start is sent at once; each next one when as much time has passed as lay between their store times, divided
by ``speed``. A pause is never longer than :data:`MAX_PAUSE_S`, so an idle night is over soon. Bounded (G12): one page of the log is held
at a time, pages are shared with everybody else, and what is due is written in ``steps``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aura.errors import InvalidRequest
from aura.gateway.context import Gateway
from aura.gateway.live.dialects import native
from aura.gateway.live.fanout.frames import Frame, native_messages
from aura.gateway.live.fanout.outlet import Outlet
from aura.gateway.live.fanout.trie import wanted
from aura.gateway.live.steps import Steps
from aura.gateway.live.times import seq_at

MAX_PAUSE_S = 5.0
#: Events that are due within this time travel together.
_TOGETHER_S = 0.005


async def play(
    gateway: Gateway, outlet: Outlet, steps: Steps, patterns: tuple[str, ...], op: native.Replay
) -> Callable[[], Awaitable[None]]:
    """Check the window and say ``subscribed`` (or ``reset``); returns the playing. Raises ``InvalidRequest``, ``Unavailable``."""
    view = gateway.hub.view()
    first = await _first(gateway, op.from_)
    last = view.head
    if isinstance(op.to, native.From):
        if op.to.last is not None:
            raise InvalidRequest('to is "now" or has seq or time', field="to")
        last = op.to.seq if op.to.seq is not None else await seq_at(gateway, op.to.time or "")
    reason = None
    if op.from_.epoch not in (None, view.epoch):
        reason = "the log has another epoch"
    elif first > view.head + 1:
        reason = "the window begins after the log ends"
    elif op.from_.seq is not None and max(op.from_.seq, 1) < view.first:
        reason = "the log no longer reaches back that far"
    recovered = reason is None
    outlet.write(native_messages([native.subscribed(op.id, (first - 1) if recovered else view.head, recovered)]))
    if reason is not None:
        gateway.ctx.metrics.resets.inc()
        outlet.write(native_messages([native.reset(op.id, view.epoch, reason, view.head)]))
        first = last + 1
    return _Player(gateway, outlet, steps, patterns, op, max(first, view.first), min(last, view.head)).run


async def _first(gateway: Gateway, origin: native.From) -> int:
    view = gateway.hub.view()
    if origin.seq is not None:
        return max(origin.seq, 1)
    if origin.last is not None:
        return max(view.head - origin.last + 1, view.first)
    return await seq_at(gateway, origin.time or "") + 1


class _Player:
    def __init__(
        self,
        gateway: Gateway,
        outlet: Outlet,
        steps: Steps,
        patterns: tuple[str, ...],
        op: native.Replay,
        first: int,
        last: int,
    ) -> None:
        self._gateway = gateway
        self._outlet = outlet
        self._steps = steps
        self._patterns = patterns
        self._op = op
        self._first = first
        self._last = last
        self._due_s = 0.0
        self._before_ns = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    async def run(self) -> None:
        clock, page_events = self._gateway.ctx.clock, self._gateway.limits.page_events
        started_s, at = clock.monotonic_s(), self._first
        while at <= self._last and not self._outlet.closed:
            end = min((at - 1) // page_events * page_events + page_events, self._last)
            for frame in wanted(await self._gateway.pages.frames(at, end), self._patterns):
                wait_s = started_s + self._due(frame) - clock.monotonic_s()
                if wait_s > _TOGETHER_S:
                    await self._flush()
                    await asyncio.sleep(wait_s)
                if not await self._tell(native.named(self._op.id, frame.native)):
                    return
            await self._flush()
            at = end + 1
        await self._tell(native.marker("replayed", self._op.id, max(self._last, 0)))
        await self._flush()

    def _due(self, frame: Frame) -> float:
        """Seconds after the start at which a frame is sent."""
        if self._before_ns:
            gap_s = max(0, frame.stored_at_ns - self._before_ns) / 1e9
            self._due_s += min(gap_s / self._op.speed, MAX_PAUSE_S)
        self._before_ns = frame.stored_at_ns
        return self._due_s

    async def _tell(self, message: bytes) -> bool:
        """``False``: the client is gone."""
        full = self._pending_bytes + len(message) > self._gateway.limits.page_bytes
        if full and not await self._flush():
            return False
        self._pending.append(message)
        self._pending_bytes += len(message)
        return True

    async def _flush(self) -> bool:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        return not pending or await self._steps.write(native_messages(pending), len(pending), lambda: None)
