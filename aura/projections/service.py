"""The service behind ``aura projector``: one runner for the log, one for heartbeats.

``start`` returns when both lead, stand by, or have met another log than theirs (``regressed``, which ``status`` and ``ready``
tell); with Postgres away it waits. ``stop`` lets a running commit end and is safe twice. Any number of these may run at once.
"""

from __future__ import annotations

import asyncio
import gc

import structlog

from aura.clock import Clock
from aura.projections.catalog import FROM_HEALTH, FROM_LOG
from aura.projections.projection import LogSource
from aura.projections.runner import Alert, Runner

_log = structlog.get_logger("aura.projections")
#: Seconds until a runner that is still there is told again to stop.
_AGAIN_S = 0.2


class ProjectorService:
    """Keeps the read models up to date.

    ``store`` is the log (an ``EventStore`` will do), ``health`` the stream of heartbeats in the same narrow shape or ``None``,
    ``conninfo`` the owner's connection string, ``on_alert(code, severity, entity)`` has ``system.alert_raised`` appended.
    """

    def __init__(
        self,
        store: LogSource,
        conninfo: str,
        *,
        clock: Clock,
        health: LogSource | None = None,
        on_alert: Alert | None = None,
    ) -> None:
        self.log = Runner(FROM_LOG, store, conninfo, clock=clock, on_alert=on_alert)
        self.health = (
            Runner(FROM_HEALTH, health, conninfo, clock=clock, on_alert=on_alert) if health is not None else None
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def runners(self) -> list[Runner]:
        """The runners there are."""
        return [runner for runner in (self.log, self.health) if runner is not None]

    @property
    def ready(self) -> bool:
        """Every runner leads or stands by."""
        return all(runner.status in ("leading", "standby") for runner in self.runners)

    @property
    def status(self) -> dict[str, dict[str, object]]:
        """stream → ``{"status", "seq", "error"}``; statuses as in ``runner.py``."""
        return {
            name: {"status": runner.status, "seq": runner.seq, "error": runner.error}
            for name, runner in (("log", self.log), ("health", self.health))
            if runner is not None
        }

    async def start(self) -> None:
        """Start and wait until every runner has found its place."""
        if self._tasks:
            return
        # A fold makes tens of thousands of short-lived objects per batch and no cycles: collecting them often is wasted time.
        gc.set_threshold(100_000, 20, 50)
        self._tasks = [asyncio.create_task(runner.run(), name="projector") for runner in self.runners]
        await asyncio.gather(*(runner.wait_for("leading", "standby", "regressed") for runner in self.runners))
        _log.info("projector started", **{name: one["status"] for name, one in self.status.items()})

    async def wait(self) -> None:
        """Until a runner ends by itself: raises what ended it, returns when its log is another one."""
        if self._tasks:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def stop(self) -> None:
        """Stop following; a commit under way ends or is rolled back whole."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        pending = dict(zip(tasks, self.runners, strict=False))
        while pending:
            await asyncio.wait(pending, timeout=_AGAIN_S)
            pending = {task: runner for task, runner in pending.items() if not task.done()}
            # Again and again: psycopg waits with ``asyncio.wait_for``, which in Python 3.11 may swallow a cancellation. But not
            # while a commit is under way, for which a runner that has heard us waits.
            for task, runner in pending.items():
                if not runner.committing:
                    task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
