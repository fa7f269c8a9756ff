"""Events and records cut into the pieces in which they are written: whole ones, joined, of at most so many bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aura.gateway.live.fanout.frames import Frame, native_messages
from aura.gateway.live.fanout.outlet import Wire

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """One step: its bytes, how many events they are, and the last one's sequence."""

    data: bytes
    events: int
    last: int


def joined(frames: Sequence[Frame], wire: Wire) -> bytes:
    """As one piece of bytes."""
    match wire:
        case "ws":
            return b"".join([frame.ws for frame in frames])
        case "sse":
            return b"".join([frame.sse for frame in frames])
        case "native":
            return native_messages([frame.native for frame in frames])


def pieces(items: Sequence[T], sizes: Sequence[int], most: int) -> Iterator[Sequence[T]]:
    """``items`` in order, in runs of at most ``most`` bytes (or of one item that is larger). ``sizes``: of each, in bytes."""
    if items and sum(sizes) <= most:
        yield items
        return
    start = bytes_ = 0
    for at, size in enumerate(sizes):
        if bytes_ + size > most and at > start:
            yield items[start:at]
            start, bytes_ = at, 0
        bytes_ += size
    if start < len(items):
        yield items[start:]


def cut(frames: Sequence[Frame], wire: Wire, most: int) -> Iterator[Piece]:
    """In pieces of at most ``most`` bytes (or of one event that is larger), each made when it is asked for."""
    for part in pieces(frames, [len(frame.ws) for frame in frames], most):
        yield Piece(joined(part, wire), len(part), part[-1].seq)
