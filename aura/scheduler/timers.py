"""Deadlines in a heap, with cheap re-arming and no leak.

``arm`` for a later time costs one dictionary write: the heap entry stays and is looked at again when it comes up. A disarmed
deadline leaves a stale entry behind; when stale entries outnumber the live ones the heap is rebuilt, so memory is bounded by
what is armed (a lease of 300 s on a job that took 10 ms does not stay for 300 s).
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """One deadline per key, in seconds of whichever clock the owner uses."""

    __slots__ = ("_counter", "_deadlines", "_heap")

    def __init__(self) -> None:
        self._deadlines: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._counter = 0

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, key: K) -> bool:
        return key in self._deadlines

    def arm(self, key: K, at: float) -> None:
        """Set (or move) the key's deadline."""
        known = self._deadlines.get(key)
        self._deadlines[key] = at
        if known is None or at < known:
            self._push(key, at)

    def disarm(self, key: K) -> None:
        """Forget the key's deadline, if it has one."""
        if self._deadlines.pop(key, None) is not None and len(self._heap) > 2 * len(self._deadlines) + 64:
            self._heap = []
            for left, at in self._deadlines.items():
                self._counter += 1
                self._heap.append((at, self._counter, left))
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """The earliest deadline."""
        heap = self._heap
        while heap:
            at, _, key = heap[0]
            wanted = self._deadlines.get(key)
            if wanted == at:
                return at
            heapq.heappop(heap)
            if wanted is not None and wanted > at:
                self._push(key, wanted)
        return None

    def pop(self, now: float) -> K | None:
        """Take one key whose deadline is at or before ``now``."""
        at = self.next()
        if at is None or at > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._deadlines[key]
        return key

    def clear(self) -> None:
        """Forget everything."""
        self._deadlines.clear()
        self._heap.clear()

    def _push(self, key: K, at: float) -> None:
        self._counter += 1
        heapq.heappush(self._heap, (at, self._counter, key))
