"""Time as an argument. The only module (with ``ids``) that reads the machine's clock.

Wall time stamps events and decides *delays*; safety (leases, fencing, order) never rests on it (G10). Durations and
deadlines use ``monotonic_s``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the rest of the code may know about time."""

    def now(self) -> datetime:
        """Aware UTC wall time."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never jumps."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that a test or a simulation moves by hand."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._mono = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic_s(self) -> float:
        return self._mono

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now += timedelta(seconds=seconds)
        self._mono += seconds

    def jump(self, seconds: float) -> None:
        """Move the wall clock only, as an operator or NTP would."""
        self._now += timedelta(seconds=seconds)


def rfc3339(instant: datetime) -> str:
    """``2026-11-22T02:35:25.000123Z``: RFC 3339, UTC, microseconds, always ``Z``."""
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    return instant.isoformat(timespec="microseconds")[:-6] + "Z"


def parse_rfc3339(text: str) -> datetime:
    """Inverse of :func:`rfc3339`; accepts any RFC 3339 offset. Raises ``ValueError``; a naive time is refused."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("a time needs an offset, for example a trailing Z")
    return instant.astimezone(UTC)
