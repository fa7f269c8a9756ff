"""Authenticated refusals, as events: ``system.access_denied {denied_actor, action, target, count}``, one per actor, action and minute.

The first refusal opens a minute; when it is over, one event says how often it happened and on what first. A gateway that is killed
forgets the minute it was in (metrics have counted it). Refusals without an identity are only counted in metrics: whoever floods the
door must not be able to fill the log. At most :data:`MAX_OPEN` pairs of actor and action are open; what is more is only counted too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import structlog

from aura.clock import Clock, rfc3339
from aura.errors import AuraError
from aura.events import envelope, subjects
from aura.events.catalogue import SystemAccessDenied
from aura.ids import IdSource
from aura.log.store import Append, EventStore

log = structlog.get_logger("aura.gateway")

MINUTE_S = 60.0
#: How often what is over is looked for.
SWEEP_S = 5.0
MAX_OPEN = 1_000
#: Events that are on their way at once, and how long a gateway that stops waits for all of them, in seconds.
AT_ONCE = 64
STOP_S = 2.0
MAX_TARGET = 200


@dataclass(slots=True)
class _Minute:
    since: float
    target: str
    count: int


class Denials:
    """Collects refusals and records them. ``start`` sweeps from then on; ``stop`` records what is open."""

    def __init__(self, store: EventStore, clock: Clock, ids: IdSource) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._open: dict[tuple[str, str], _Minute] = {}
        self._sweeping: asyncio.Task[None] | None = None

    def note(self, actor: str, action: str, target: str) -> None:
        """One refusal."""
        found = self._open.get((actor, action))
        if found is not None:
            found.count += 1
        elif len(self._open) < MAX_OPEN:
            self._open[actor, action] = _Minute(self._clock.monotonic_s(), target[:MAX_TARGET], 1)

    async def start(self) -> None:
        """Sweep from now on."""
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def stop(self) -> None:
        """Record what is open, within :data:`STOP_S`, and sweep no more. Safe twice."""
        task, self._sweeping = self._sweeping, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        try:
            async with asyncio.timeout(STOP_S):
                await self.flush(everything=True)
        except TimeoutError:
            log.warning("denials.not_recorded", minutes=len(self._open))

    async def flush(self, *, everything: bool = False) -> None:
        """Record the minutes that are over, or all of them, :data:`AT_ONCE` at a time. What the log does not take now is tried again."""
        now = self._clock.monotonic_s()
        over = deque(pair for pair, minute in self._open.items() if everything or now - minute.since >= MINUTE_S)

        async def record() -> None:
            while over:
                pair = over.popleft()
                if (minute := self._open.pop(pair, None)) is not None:
                    await self._keep(pair, minute)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(over))):
                group.create_task(record())

    async def _keep(self, pair: tuple[str, str], minute: _Minute) -> None:
        recorded = False
        try:
            await self._record(*pair, minute)
            recorded = True
        except AuraError as error:
            log.warning("denial.not_recorded", actor=pair[0], action=pair[1], count=minute.count, code=error.code)
        finally:  # cancelled counts as not recorded: rather twice than not at all
            if not recorded:
                later = self._open.setdefault(pair, minute)
                if later is not minute:
                    later.count += minute.count

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.flush()

    async def _record(self, actor: str, action: str, minute: _Minute) -> None:
        event = SystemAccessDenied(denied_actor=actor, action=action, target=minute.target, count=minute.count)
        event_id = self._ids.uuid7()
        stamp = envelope.Stamp(rfc3339(self._clock.now()), "system:gateway", event_id, event_id)
        body = envelope.seal(event, event_id=event_id, stamp=stamp, ids={})
        await self._store.append(Append(subjects.system_event(event.TYPE), None, 0, event_id, body))
