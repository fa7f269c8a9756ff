"""Statistics of raw samples. Percentiles are nearest-rank on all of them: nothing is binned, nothing is thrown away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank percentile (``share`` 0–1). Raises ``ValueError`` without samples."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(samples: Sequence[float]) -> float:
    """The middle of the repeats."""
    return percentile(samples, 0.5)


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    p50: float
    p90: float
    p99: float
    worst: float
    count: int

    @classmethod
    def of_ns(cls, samples: Sequence[int]) -> Latency:
        """From raw nanoseconds."""
        ms = sorted(sample / 1e6 for sample in samples)
        return cls(percentile(ms, 0.5), percentile(ms, 0.9), percentile(ms, 0.99), ms[-1], len(ms))

    def text(self) -> str:
        """``p50 1.2  p90 2.1  p99 4.0  max 9.9 ms  (n = 1000)``."""
        return (
            f"p50 {self.p50:.2f}  p90 {self.p90:.2f}  p99 {self.p99:.2f}  max {self.worst:.1f} ms  (n = {self.count})"
        )
