"""How long a failed job waits before its next attempt: exponential with bounded, deterministic jitter. Pure.

The jitter comes from the job's id and the attempt, so that a replay decides the same and a thousand jobs that failed together
do not return together.
"""

from __future__ import annotations

import zlib

BASE_S = 1.0
CAP_S = 300.0


def backoff_s(job_id: str, spent: int) -> float:
    """Seconds to wait after the ``spent``-th failure (from 1): 1, 2, 4 … capped at 300, each ± 20 %."""
    delay = min(CAP_S, BASE_S * 2.0 ** max(0, min(spent, 16) - 1))
    jitter = (zlib.crc32(f"{job_id}/{spent}".encode()) % 401 - 200) / 1000
    return round(delay * (1 + jitter), 3)
