"""The last frames of the log, by sequence: what most reconnecting clients need.

Invariant: it holds exactly the sequences ``first … head`` (nothing when ``first == head + 1``), contiguous; at most
``max_frames`` of them and at most ``max_bytes`` of frame bytes (but always the newest).
"""

from __future__ import annotations

from aura.gateway.live.frames import Frame


class Ring:
    """A bounded window on the log's end that starts empty after ``head``."""

    def __init__(self, head: int, *, max_frames: int, max_bytes: int) -> None:
        self._slots: list[Frame | None] = [None] * max_frames
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
        self._slots[frame.seq % len(self._slots)] = frame
        self.head = frame.seq
        self.bytes += len(frame.ws)
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
        found: list[Frame] = []
        size = 0
        for at in range(seq + 1, self.head + 1):
            frame = self._slots[at % len(self._slots)]
            assert frame is not None
            found.append(frame)
            size += len(frame.ws)
            if size >= max_bytes:
                break
        return found
