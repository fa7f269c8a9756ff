"""One child process: started with its parent's death in mind, watched without threads, stopped for certain.

Invariants:

* The child dies with us, even on ``kill -9``: Linux sends it ``death_signal`` when the *thread* that started it ends, so start
  children from the main thread. The signal is set after any change of user (which would clear it), and the child checks
  afterwards that we are still there.
* It leads a session of its own, so a Ctrl-C on the terminal reaches only us and the order of a drain is ours; whatever is
  left in its group after its end is killed.
* Its output goes straight to its log file: nothing passes through us, and our end does not block it.
* :meth:`Child.stop` returns only when the process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aura.runtime.logs import open_log

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)
#: How far each gives way when processors are short (``nice(2)``). A job's way leads through nats-server, gateway and scheduler; the read
#: models may lag behind for a moment, and what workers run must never keep anybody from watching or stopping it.
NICENESS = {"projector": 5, "postgres": 3, "worker": 5}


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. ``env`` is the whole environment (may hold no secret); ``become`` runs in the child and changes its user."""

    name: str
    args: Sequence[str | Path]
    #: File for its output; ``None`` shares our own terminal.
    log: Path | None
    env: Mapping[str, str] | None = field(default=None, repr=False)
    cwd: Path | None = None
    death_signal: signal.Signals = signal.SIGKILL
    become: Callable[[], None] | None = None
    #: How far it gives way to others when processors are short (``nice(2)``; 0 = not at all).
    niceness: int = 0
    #: At most 32 KiB, so that a pipe takes it at once.
    stdin: bytes = field(default=b"", repr=False)


def die_with_parent(death_signal: int, parent: int) -> None:
    """In a child, between fork and exec: ask for ``death_signal`` at the parent's end, and end now if that was already."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


#: Pids of children that are not reaped yet.
_LIVING: set[int] = set()


class Child:
    """A running process. Make it with :func:`start`.

    It is reaped in one place only, :meth:`_reap`, so until then its pid cannot have been given to another process.
    """

    def __init__(self, program: Program, process: subprocess.Popen[bytes]) -> None:
        self.program = program
        self.pid = process.pid
        self._process = process
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        _LIVING.add(self.pid)
        self._watch()

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Return the exit status when the process has ended."""
        return await asyncio.shield(self._ended)

    async def stop(self, *steps: tuple[signal.Signals, float]) -> int:
        """Send each signal and wait its seconds for the end; then SIGKILL. Returns the exit status. Safe twice."""
        for number, patience_s in steps:
            self.signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    return await self.wait()
        self.signal(signal.SIGKILL)
        return await self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if not self._ended.done():
            os.kill(self.pid, number)

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        if not hasattr(os, "pidfd_open"):
            task = loop.run_in_executor(None, os.waitid, os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            task.add_done_callback(lambda _: self._reap())
            return
        handle = os.pidfd_open(self.pid)

        def readable() -> None:
            loop.remove_reader(handle)
            os.close(handle)
            self._reap()

        loop.add_reader(handle, readable)

    def _reap(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it started and left behind; a zombie still holds the number
        _LIVING.discard(self.pid)
        self._ended.set_result(self._process.wait())


def start(program: Program) -> Child:
    """Start it; returns at once. Raises ``OSError`` or ``subprocess.SubprocessError`` (the child could not ``become``)."""
    parent = os.getpid()
    become, death_signal, niceness = program.become, program.death_signal, program.niceness

    def prepare() -> None:
        if niceness:
            os.nice(niceness)
        if become is not None:
            become()
        die_with_parent(death_signal, parent)

    with contextlib.nullcontext() if program.log is None else open_log(program.log) as log:
        process = subprocess.Popen(  # noqa: S603 - our own programs with our own arguments
            [str(arg) for arg in program.args],
            stdin=subprocess.PIPE if program.stdin else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=None if program.env is None else dict(program.env),
            cwd=program.cwd,
            start_new_session=True,
            preexec_fn=prepare,  # the main thread is the only one
        )
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(program.stdin)
    return Child(program, process)


def adopt_orphans() -> None:
    """Become the parent of what our children leave behind when they die, so that :func:`end_orphans` can end it.

    For a process whose only children are started here: every other child would be taken for an orphan.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans() -> int:
    """Kill and reap every child of this process that is not one of ours; returns how many there were."""
    found = 0
    try:
        tasks = list(Path("/proc/self/task").iterdir())
        children = {int(pid) for task in tasks for pid in (task / "children").read_text("ascii").split()}
    except OSError:  # not Linux, or a kernel without the list
        return 0
    for pid in children - _LIVING:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            found += 1
    return found
