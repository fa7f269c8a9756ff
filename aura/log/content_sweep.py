"""The sweep: erases inputs whose job was never created (a crash between the two writes).

An input's age is measured by this process's monotonic clock from the sweep that first saw it, so no wall clock decides, and a new
process starts measuring anew. Only inputs without a ``job.created`` are remembered.

Why the input of a submission in flight is never erased

* A submission stores its input and appends ``job.created`` within :data:`IN_FLIGHT_S` of its own monotonic clock or gives up
  (``commands/prd.py``): half the age that is needed here.
* A submission that finds an old input stores it again, guarded by the one it saw (``content.py``). If the sweep sees that one, its
  age starts anew; if it comes after the sweep's last look, erasing touches only messages up to the one that had aged.
* Whether there is a ``job.created`` is asked of the leader right before erasing.
"""

from __future__ import annotations

from dataclasses import dataclass

from aura.clock import Clock
from aura.events import subjects
from aura.log.content import ContentBackend, SealedContent
from aura.log.store import EventStore

#: An input without a job for so long, seen by two sweeps at least so far apart, is erased.
ORPHAN_AGE_S = 600.0
#: The longest that a submission may take between storing its inputs and appending its events.
IN_FLIGHT_S = ORPHAN_AGE_S / 2
#: How many inputs without a job are watched at once; further ones are looked at when there is room.
MAX_WATCHED = 10_000


@dataclass(frozen=True, slots=True)
class _Watched:
    project: int
    seq: int
    seen_at_s: float


class Sweeper:
    """Call :meth:`sweep` every few minutes. One per installation is enough; several do no harm."""

    def __init__(self, content: SealedContent, backend: ContentBackend, store: EventStore, clock: Clock) -> None:
        self._content = content
        self._backend = backend
        self._store = store
        self._clock = clock
        self._watched: dict[str, _Watched] = {}

    async def sweep(self) -> int:
        """Look at what is new and at what has aged; the number of inputs erased. Raises ``Unavailable``."""
        now = self._clock.monotonic_s()
        aged = [(job_id, seen) for job_id, seen in self._watched.items() if now - seen.seen_at_s >= ORPHAN_AGE_S]
        erased = 0
        for job_id, seen in aged:
            erased += await self._erase(job_id, seen, now)
        await self._look(now)
        return erased

    async def _look(self, now: float) -> None:
        async for project, job_id, seq in self._backend.inputs():
            if await self._store.last(subjects.job_guard(project, job_id)) is None:
                self._watched[job_id] = _Watched(project, seq, now)
            else:
                self._watched.pop(job_id, None)
            if len(self._watched) >= MAX_WATCHED:
                return

    async def _erase(self, job_id: str, seen: _Watched, now: float) -> bool:
        subject = subjects.content(seen.project, job_id, "input")
        stored = await self._backend.last(subject, consistent=True)
        if stored is not None and stored.seq > seen.seq:
            self._watched[job_id] = _Watched(seen.project, stored.seq, now)
            return False
        unwanted = stored is not None
        if unwanted and await self._store.last(subjects.job_guard(seen.project, job_id), consistent=True) is None:
            await self._backend.drop(subject, seen.seq)
            self._content.forget_inputs((job_id,))
        else:
            unwanted = False
        self._watched.pop(job_id, None)
        return unwanted
