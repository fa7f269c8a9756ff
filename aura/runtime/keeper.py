"""Keeps one child running: starts it again when it ends, with growing pauses, and says so when that does not help.

::

    launch ──▶ ready ──ends──▶ pause (50 ms, doubling to 5 s) ──▶ launch …
      │ fails                     ▲        30 s of life reset the pause
      └───────────────────────────┘        3 ends in a row: the last lines of its log are shown

``stop`` wins over everything: after it nothing is launched, and the child is gone when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError

from aura.errors import AuraError
from aura.runtime.logs import last_lines
from aura.runtime.process import Child

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_LIVED_S = 30.0
_SHOW_AFTER = 3


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person at the terminal may want to know. ``state``: starting, ready, ended, failing, stopped."""

    part: str
    state: str
    detail: str = ""


class Keeper:
    """One child and its restarts. ``launch`` returns when the child is as ready as it can be told."""

    def __init__(
        self,
        name: str,
        log: Path,
        launch: Callable[[], Awaitable[Child]],
        end: Callable[[Child], Awaitable[object]],
        notify: Callable[[Notice], None],
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.log = log
        self.child: Child | None = None
        self.ends_in_a_row = 0
        self._launch = launch
        self._end = end
        self._notify = notify
        self._changed = changed
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Launch for the first time (errors are the caller's), then keep it running in the background."""
        self._notify(Notice(self.name, "starting"))
        self.child = await self._launch()
        self._changed()
        self._watching = asyncio.create_task(self._keep(), name=f"keeper-{self.name}")

    async def stop(self) -> None:
        """End the child for good. Safe twice, and while it is being started again."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        if self.child is not None and self.child.returncode is None:
            await self._end(self.child)
            self._notify(Notice(self.name, "stopped"))

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            assert self.child is not None
            began = loop.time()
            status = await self.child.wait()
            if loop.time() - began > _LIVED_S:
                pause_s, self.ends_in_a_row = _FIRST_PAUSE_S, 0
            self._report(f"with status {status}")
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                try:
                    self.child = await self._launch()
                    break
                except (AuraError, OSError, SubprocessError) as error:
                    self._report(str(error))
            self._changed()
            self._notify(Notice(self.name, "ready", "started again"))

    def _report(self, what: str) -> None:
        self.ends_in_a_row += 1
        if self.ends_in_a_row % _SHOW_AFTER:
            self._notify(Notice(self.name, "ended", f"{what}; starting it again"))
            return
        lines = "\n".join(f"    {line}" for line in last_lines(self.log))
        self._notify(
            Notice(self.name, "failing", f"{what}, {self.ends_in_a_row} times in a row. {self.log} says:\n{lines}")
        )
