"""Pages of the log for clients whose cursor is older than the ring: read once, shared by everyone who asks (O(1)
reads for a thousand clients that reconnect at once).

A page holds the frames ``k·n + 1 … (k + 1)·n``. Only whole pages are kept (the log never changes, so they never go
stale); a part is read and not kept. Concurrent requests for the same page wait for one read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from aura.errors import Unavailable
from aura.gateway.live.fanout.frames import Frame
from aura.log.store import EventStore

#: A page of unusually large events is not kept.
MAX_PAGE_BYTES = 4 * 1024 * 1024


class LogPages:
    """The most recently used ``keep`` pages of ``page_events`` events each."""

    def __init__(self, store: EventStore, *, page_events: int, keep: int) -> None:
        self._store = store
        self._page_events = page_events
        self._keep = keep
        self._kept: OrderedDict[int, Sequence[Frame]] = OrderedDict()
        self._reading: dict[tuple[int, int], asyncio.Task[list[Frame]]] = {}
        self.reads = 0
        """How often the log was asked."""

    async def frames(self, from_seq: int, to_seq: int) -> Sequence[Frame]:
        """Exactly ``from_seq … to_seq``, which lie in one page and are committed. Raises ``Unavailable``."""
        number = (from_seq - 1) // self._page_events
        start, end = number * self._page_events + 1, (number + 1) * self._page_events
        page = self._kept.get(number)
        if page is None:
            page = await self._shared(number, start if to_seq == end else from_seq, to_seq)
        else:
            self._kept.move_to_end(number)
        first = page[0].seq
        if first > from_seq or page[-1].seq < to_seq:
            raise Unavailable("the log did not return what it holds")
        return page[from_seq - first : to_seq - first + 1]

    def _keep_page(self, number: int, page: Sequence[Frame]) -> None:
        """If it is whole, and not too large."""
        if len(page) == self._page_events and sum(len(frame.ws) for frame in page) <= MAX_PAGE_BYTES:
            self._kept[number] = page
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)

    async def _shared(self, number: int, from_seq: int, to_seq: int) -> list[Frame]:
        key = (from_seq, to_seq)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.get_running_loop().create_task(self._read(number, from_seq, to_seq))
            task.add_done_callback(lambda _: self._reading.pop(key, None))
        return await asyncio.shield(task)

    async def _read(self, number: int, from_seq: int, to_seq: int) -> list[Frame]:
        """Kept before the task ends: whoever asks in between finds it, and nobody reads it again."""
        self.reads += 1
        found: list[Frame] = []
        async for batch in self._store.read(from_seq, to_seq=to_seq):
            found += [Frame(recorded) for recorded in batch]
            await asyncio.sleep(0)
        if not found:
            raise Unavailable("the log did not return what it holds")
        self._keep_page(number, found)
        return found
