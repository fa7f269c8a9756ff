"""Heartbeats: all leases of a worker in one command, and the worker's health.

* Every third of the lease's TTL, and at once after a reconnect, one ``heartbeat`` names every attempt that holds a lease. The
  answer names those that are no longer ours: ``cancelled`` and ``fenced``. An answer is judged against the attempt that the
  question named, since the job may have come back to us as a newer attempt in between.
* No answer changes nothing: the worker does not judge its own leases by its clock (G10). It goes on, and if the scheduler gave an
  attempt up meanwhile, the log says so (``lease_expired``), or the next answer does; results are fenced by the attempt's number.
* Health goes to ``health.aura.<model>.<worker>``, with slots and what is in flight. A worker that leaves says ``draining`` with no slots
  while its last jobs finish, and ``stopped`` at the end.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Iterable
from typing import Any, Protocol

import structlog

from aura.clock import Clock, rfc3339
from aura.errors import AuraError
from aura.worker.attempt import Attempt, Interruption
from aura.worker.link import Link

log = structlog.get_logger("aura.worker")

#: Most attempts named in one heartbeat command.
MAX_NAMED = 1_000


class Attempts(Protocol):
    """The worker's attempts, as seen from here."""

    def holding(self) -> list[Attempt]:
        """Those whose lease should live."""


class Leases:
    """Keeps the leases of one worker alive."""

    def __init__(self, link: Link, attempts: Attempts, interval_s: float) -> None:
        self._link = link
        self._attempts = attempts
        self._interval_s = interval_s
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Beat now: the connection is back."""
        self._hurry.set()

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._hurry.clear()
            holding = self._attempts.holding()
            for start in range(0, len(holding), MAX_NAMED):
                await self._beat(holding[start : start + MAX_NAMED])

    async def _beat(self, named: list[Attempt]) -> None:
        asked = {attempt.job_id: attempt for attempt in named}
        body = {"in_flight": [{"job_id": attempt.job_id, "attempt": attempt.number} for attempt in named]}
        try:
            answer = await self._link.call("heartbeat", body)
        except AuraError as error:
            log.warning("worker.heartbeat_failed", code=error.code, detail=error.detail)
            return
        self._apply(asked, answer.get("cancelled", ()), Interruption.CANCELLED)
        self._apply(asked, answer.get("fenced", ()), Interruption.LOST)

    def _apply(self, asked: dict[str, Attempt], job_ids: Iterable[str], why: Interruption) -> None:
        for job_id in job_ids:
            attempt = asked.get(job_id)
            if attempt is not None:
                attempt.interrupt(why)


class Health:
    """Reports that the worker lives. Times in seconds."""

    def __init__(self, link: Link, clock: Clock, *, model: str, worker_id: str, slots: int, interval_s: float) -> None:
        self._link = link
        self._clock = clock
        self._model = model
        self._worker_id = worker_id
        self._slots = slots
        self._interval_s = interval_s
        self._started = clock.monotonic_s()

    async def run(self, attempts: Attempts) -> None:
        """Report for ever, first at once."""
        while True:
            await self.report(attempts)
            await asyncio.sleep(self._interval_s)

    async def report(self, attempts: Attempts, *, status: str = "ok") -> None:
        """One report. Anything but ``ok`` offers no slots."""
        body: dict[str, Any] = {
            "type": "model.heartbeat",
            "model": self._model,
            "worker_id": self._worker_id,
            "payload": {
                "status": status,
                "uptime": round(self._clock.monotonic_s() - self._started, 1),
                "mem_mb": resident_mb(),
            },
            "slots": self._slots if status == "ok" else 0,
            "interval_s": self._interval_s,
            "in_flight": [
                {"job_id": attempt.job_id, "attempt": attempt.number} for attempt in attempts.holding()[:MAX_NAMED]
            ],
            "ts": rfc3339(self._clock.now()),
        }
        try:
            await self._link.report_health(body)
        except AuraError as error:
            log.warning("worker.health_failed", code=error.code, detail=error.detail)


def resident_mb() -> int:
    """Most memory this process has used, MB. (Linux counts in KiB, macOS in bytes.)"""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024) if sys.platform == "darwin" else peak // 1024
