"""Jobs that may start now, in the order in which they should: priority, then projects in turn, then first come first served.

A *lane* holds the ready jobs of all roles that may run on the same pools. Within a lane there is a queue per priority, in it a
heap per project (by place in line, so a job that comes back keeps its place), and the projects take turns.

Removal is lazy: a job's ``ticket`` names its one valid entry, entries with another ticket are skipped. A queue is rebuilt
when most of its entries are stale, so memory is bounded by what is really waiting and every operation costs O(log n) amortised.

:class:`ConcurrencyKeys` lets at most one job per (project, key) be assigned or in progress. Jobs that meet a busy key are parked
outside their lane and cost nothing until it is free. Invariant: while a key is free, each lane that has parked jobs of it
also has at least one job of it awake. One leader keeps a key exclusive; no sequence guards two *different* jobs, so around a change of
leaders two may be assigned under one key, and then the later one is taken back unless it was claimed. A job that somebody
claims by its id, without the scheduler, holds its key but does not wait for it.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from aura.scheduler.pools import Pool
from aura.scheduler.rows import JobRow

PRIORITIES = 10
Key = tuple[int, str]


class Tickets:
    """Numbers for entries; shared by all queues so that a ticket names one entry anywhere."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """A number never given before."""
        self._last += 1
        return self._last


class _Queue:
    """The ready jobs of one priority."""

    __slots__ = ("_entries", "_projects", "live")

    def __init__(self) -> None:
        self._projects: OrderedDict[int, list[tuple[int, int, JobRow]]] = OrderedDict()
        self._entries = 0
        self.live = 0

    def push(self, row: JobRow, ticket: int) -> None:
        heap = self._projects.get(row.project)
        if heap is None:
            self._projects[row.project] = heap = []
        heapq.heappush(heap, (row.order, ticket, row))
        self._entries += 1
        self.live += 1

    def peek(self) -> JobRow | None:
        """The next job, which stays."""
        while self._projects:
            project, heap = next(iter(self._projects.items()))
            while heap and heap[0][2].ticket != heap[0][1]:
                heapq.heappop(heap)
                self._entries -= 1
            if heap:
                return heap[0][2]
            del self._projects[project]
        return None

    def pop(self) -> JobRow | None:
        """The next job; its project goes to the back of the line."""
        row = self.peek()
        if row is None:
            return None
        heapq.heappop(self._projects[row.project])
        self._projects.move_to_end(row.project)
        self._entries -= 1
        self.live -= 1
        return row

    def discard(self) -> None:
        """One entry became stale."""
        self.live -= 1
        if self._entries > 2 * self.live + 64:
            self._entries = 0
            for project in list(self._projects):
                left = [entry for entry in self._projects[project] if entry[2].ticket == entry[1]]
                heapq.heapify(left)
                self._entries += len(left)
                if left:
                    self._projects[project] = left
                else:
                    del self._projects[project]


class Lane:
    """Jobs that wait for a slot of the same pools (the first is the mapped one), or for the same concurrency key."""

    __slots__ = ("_queues", "_tickets", "live", "number", "pools")

    def __init__(self, number: int, pools: tuple[Pool, ...], tickets: Tickets) -> None:
        self.number = number
        self.pools = pools
        self.live = 0
        self._tickets = tickets
        self._queues: list[_Queue | None] = [None] * PRIORITIES

    def push(self, row: JobRow) -> None:
        """Let the job wait here."""
        row.ticket = self._tickets.next()
        row.lane = self
        place = _place(row)
        queue = self._queues[place]
        if queue is None:
            self._queues[place] = queue = _Queue()
        queue.push(row, row.ticket)
        self.live += 1

    def peek(self) -> JobRow | None:
        """The job that should start next."""
        for queue in self._queues:
            if queue is not None and queue.live:
                return queue.peek()
        return None

    def pop(self) -> JobRow | None:
        """Take the job that should start next."""
        for queue in self._queues:
            if queue is not None and queue.live and (row := queue.pop()) is not None:
                row.ticket = 0
                row.lane = None
                self.live -= 1
                return row
        return None

    def discard(self, row: JobRow) -> None:
        """Take this job out; call it before its priority changes."""
        queue = self._queues[_place(row)]
        if row.lane is self and queue is not None:
            row.ticket = 0
            row.lane = None
            self.live -= 1
            queue.discard()


def _place(row: JobRow) -> int:
    return min(max(row.state.priority, 0), PRIORITIES - 1)


class ConcurrencyKeys:
    """Who runs under which key, and who waits for it."""

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets
        self._holders: dict[Key, dict[str, None]] = {}
        self._parked: dict[Key, dict[Lane, Lane]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._holders.clear()
        self._parked.clear()

    def busy(self, key: Key | None) -> bool:
        """Somebody is assigned or in progress under the key."""
        return key is not None and key in self._holders

    def first_holder(self, key: Key) -> str | None:
        """The job that has held the key for longest."""
        return next(iter(self._holders.get(key, ())), None)

    def take(self, row: JobRow) -> None:
        """The job is assigned, in progress, or about to be. Taking it again changes nothing."""
        if row.key is not None:
            self._holders.setdefault(row.key, {})[row.job_id] = None

    def run(self, row: JobRow) -> Iterable[str]:
        """The job runs: it is the first holder now; the others (there should be none) are returned."""
        if row.key is None:
            return ()
        others = self._holders.get(row.key, {})
        others.pop(row.job_id, None)
        self._holders[row.key] = {row.job_id: None, **others}
        return others

    def give_back(self, row: JobRow) -> Iterator[Lane]:
        """The job no longer holds its key; yields the lanes in which somebody woke up, if the key is free now."""
        key = row.key
        if key is None:
            return
        holders = self._holders.get(key)
        if holders is not None:
            holders.pop(row.job_id, None)
            if not holders:
                del self._holders[key]
        yield from self.wake(key)

    def park(self, row: JobRow, lane: Lane) -> None:
        """Let the job wait for its key before it may wait in ``lane``."""
        if row.key is None:
            raise ValueError("a job without a concurrency key cannot wait for one")
        lanes = self._parked.setdefault(row.key, {})
        if lane not in lanes:
            lanes[lane] = Lane(-1, (), self._tickets)
        lanes[lane].push(row)

    def wake(self, key: Key) -> Iterator[Lane]:
        """If the key is free, move the best waiting job of each lane back into it; yields those lanes."""
        lanes = self._parked.get(key)
        if lanes is None or key in self._holders:
            return
        for lane, waiting in list(lanes.items()):
            row = waiting.pop()
            if row is not None:
                lane.push(row)
                yield lane
            if not waiting.live:
                del lanes[lane]
        if not lanes:
            del self._parked[key]
