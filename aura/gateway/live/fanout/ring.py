"""The last frames of the log, by sequence: what most reconnecting clients need.

Invariant: it holds exactly the sequences ``first … head`` (nothing when ``first == head + 1``), contiguous; at most
``max_frames`` of them and at most ``max_bytes`` of frame bytes (but always the newest).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import cast

from aura.gateway.live.fanout.frames import Frame


class Ring:
    """A bounded window on the log's end that starts empty after ``head``."""

    def __init__(self, head: int, *, max_frames: int, max_bytes: int) -> None:
        self._slots: list[Frame | None] = [None] * max_frames
        self._ends = [0] * max_frames
        """How many bytes had ever been appended with the frame of each slot."""
        self._total = 0
        self._max_bytes = max_bytes
        self.head = head
        """The newest sequence seen."""
        self.first = head + 1
        """The oldest sequence held."""
        self.bytes = 0

    def append(self, frame: Frame) -> None:
        """Take the next frame. Raises ``ValueError`` when it is not the next one: the hub must never hide a hole."""
        if frame.seq != self.head + 1:
            raise ValueError(f"sequence {frame.seq} after {self.head}")
        if self.head - self.first + 1 == len(self._slots):
            self._drop_oldest()
        size = len(frame.ws)
        self._total += size
        self._slots[frame.seq % len(self._slots)] = frame
        self._ends[frame.seq % len(self._slots)] = self._total
        self.head = frame.seq
        self.bytes += size
        while self.bytes > self._max_bytes and self.first < self.head:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        index = self.first % len(self._slots)
        oldest = self._slots[index]
        assert oldest is not None
        self._slots[index] = None
        self.bytes -= len(oldest.ws)
        self.first += 1

    def after(self, seq: int, max_bytes: int) -> list[Frame]:
        """Frames ``seq + 1 …`` up to about ``max_bytes`` (at least one if there is one). ``seq + 1`` must be held or
        be next."""
        if not self.first <= seq + 1 <= self.head + 1:
            raise ValueError(f"{seq + 1} is not in {self.first}…{self.head}")
        slots, ends, many = self._slots, self._ends, len(self._slots)
        before = ends[seq % many] if seq >= self.first else self._total - self.bytes
        held = range(seq + 1, self.head + 1)
        count = min(bisect_left(held, before + max_bytes, key=lambda at: ends[at % many]) + 1, len(held))
        start, stop = (seq + 1) % many, (seq + 1) % many + count
        found = slots[start:stop] if stop <= many else slots[start:] + slots[: stop - many]
        return cast(list[Frame], found)
