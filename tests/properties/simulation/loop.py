"""A tiny event loop for simulations: coroutines stepped by hand, in an order that a seed decides.

Every ``await pause()`` and ``await sleep(…)`` is a point where another task may run, a message may be lost or a process may die.
Time is virtual: it moves only when nobody can run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from types import coroutine
from typing import Any

Ready = Callable[[], bool]


@dataclass(slots=True)
class _Wait:
    """What a task waits for: a moment, or a condition that may come true earlier."""

    seconds: float
    ready: Ready | None = None


@coroutine
def pause() -> Generator[_Wait, None, None]:
    """Let others run."""
    yield _Wait(0.0)


@coroutine
def sleep(seconds: float, ready: Ready | None = None) -> Generator[_Wait, None, None]:
    """Wait for virtual seconds, or until ``ready()``."""
    yield _Wait(seconds, ready)


@dataclass(slots=True, eq=False)
class Task:
    """One coroutine; ``owner`` is the process it dies with."""

    owner: str
    coro: Coroutine[_Wait, None, None]
    until: float = 0.0
    ready: Ready | None = None


class Loop:
    """Steps tasks. ``now`` is monotonic virtual time in seconds."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 0.0
        self.steps = 0
        self._rng = rng
        self._tasks: list[Task] = []

    def spawn(self, owner: str, coro: Coroutine[Any, None, None]) -> None:
        """Start a task of a process."""
        self._tasks.append(Task(owner, coro, self.now))

    def kill(self, owner: str) -> None:
        """A process dies wherever it is."""
        dead = [task for task in self._tasks if task.owner == owner]
        self._tasks = [task for task in self._tasks if task.owner != owner]
        for task in dead:
            task.coro.close()

    def stall(self, owner: str, seconds: float) -> None:
        """A process is stopped (SIGSTOP) and goes on later, unaware."""
        for task in self._tasks:
            if task.owner == owner:
                task.until = max(task.until, self.now + seconds)
                task.ready = None

    def step(self) -> bool:
        """Run one task up to its next await; ``False`` when there is none."""
        if not self._tasks:
            return False
        now = self.now
        runnable = [task for task in self._tasks if task.until <= now or (task.ready is not None and task.ready())]
        if not runnable:
            self.now = min(task.until for task in self._tasks)
            runnable = [task for task in self._tasks if task.until <= self.now]
        task = runnable[self._rng.randrange(len(runnable))]
        self.steps += 1
        try:
            wait = task.coro.send(None)
        except StopIteration:
            if task in self._tasks:
                self._tasks.remove(task)
        else:
            task.until = self.now + wait.seconds
            task.ready = wait.ready
        return True

    def close(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.coro.close()
        self._tasks.clear()
