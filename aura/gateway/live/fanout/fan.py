"""Sockets that get the same bytes, past their transports: all of them in one system call where the kernel offers that, else one by one.

Invariant: whoever is in a fan has nothing unsent, so what is sent next follows what was sent last; and whoever leaves it is not sent to
again, from that moment on (its file descriptor may be somebody else's afterwards).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator

import structlog

from aura.gateway.live.fanout.io_uring import SubmissionRing, open_ring
from aura.gateway.live.fanout.outlet import Outlet

log = structlog.get_logger("aura.gateway")

#: From so many sockets on one system call for all is cheaper than one for each.
MANY = 4


class Fan:
    """See the module docstring. Without a ring it writes one by one."""

    __slots__ = ("_fds", "_outlets", "_places", "_ring")

    def __init__(self, ring: SubmissionRing | None = None) -> None:
        self._ring = ring
        self._fds = array("I")
        self._outlets: list[Outlet] = []
        self._places: dict[Outlet, int] = {}

    def __len__(self) -> int:
        return len(self._outlets)

    def __iter__(self) -> Iterator[Outlet]:
        return iter(self._outlets)

    def add(self, outlet: Outlet, fd: int) -> None:
        """Send to it from now on, by its file descriptor, which must not block."""
        self._places[outlet] = len(self._outlets)
        self._outlets.append(outlet)
        self._fds.append(fd)

    def remove(self, outlet: Outlet) -> bool:
        """Send to it no more. Whether it was in."""
        place = self._places.pop(outlet, None)
        if place is None:
            return False
        last, fd = self._outlets.pop(), self._fds.pop()
        if last is not outlet:  # the last one takes its place
            self._outlets[place], self._fds[place], self._places[last] = last, fd, place
        return True

    def send(self, data: bytes) -> list[tuple[Outlet, int]]:
        """Send to all. Those that did not take all of it, and how many bytes each took; a broken connection took none."""
        if self._ring is not None and len(self._fds) >= MANY and not self._ring.broken:
            short = self._ring.send(self._fds, data)
        else:
            short = _write(self._fds, data)
        return [(self._outlets[place], taken) for place, taken in short.items()] if short else []


def _write(fds: array[int], data: bytes) -> dict[int, int]:
    """As :meth:`SubmissionRing.send`, with a call for each."""
    size, write = len(data), os.write
    short: dict[int, int] = {}
    for place, fd in enumerate(fds):
        try:
            taken = write(fd, data)
        except OSError:
            taken = 0
        if taken != size:
            short[place] = taken
    return short


class Fans:
    """How a process makes its fans: with one ring for all, or without. ``io_uring`` is the setting."""

    def __init__(self, io_uring: str) -> None:
        self._ring = open_ring() if io_uring == "auto" else None
        if self._ring is not None:
            log.info("live.io_uring")
        elif io_uring != "auto":
            log.info("live.no_io_uring", reason="AURA_IO_URING is off")

    def __call__(self) -> Fan:
        return Fan(self._ring)

    def close(self) -> None:
        """Let go of the ring: fans go on one by one. Safe twice."""
        if self._ring is not None:
            self._ring.close()
