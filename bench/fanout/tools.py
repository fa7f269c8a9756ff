"""What the fan-out scenarios share: the C programs, cores of their own, servers as processes, one run of the load client.

Server and client never share a core when there are two: the server under test gets the first, the client (and whatever feeds the
server) the second. Rates are told per second of the *server's* processor time, which is what it would deliver on a core of its
own and hardly depends on what else the machine is doing; the rate by the clock stands in the notes.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aura.runtime.process import die_with_parent
from bench import servers
from bench.machine import say

HERE = Path(__file__).parent
#: Bytes of JSON of one event.
SIZE = 250


class NoCompiler(Exception):
    """There is no C compiler here."""


def compiled(folder: Path) -> Path:
    """The folder with the programs ``load`` and ``serve``, built now. Raises ``NoCompiler``, ``RuntimeError``."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler
    for name in ("load", "serve"):
        built = folder / name
        if built.exists():
            continue
        command = [compiler, "-O2", "-o", str(built), str(HERE / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    return folder


def ready(folder: Path) -> bool:
    """Build the programs; ``False``, and it is said why, when there is no compiler: the scenario is left out."""
    try:
        compiled(folder)
    except NoCompiler:
        say("    left out: the load client is written in C, and there is no cc, gcc or clang on the path")
        return False
    raise_file_limit()
    return True


def raise_file_limit() -> int:
    """As many open files as we may have (children inherit it); how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def cores() -> tuple[set[int], set[int]]:
    """The server's core and the others'; the same one twice when there is only one."""
    have = sorted(os.sched_getaffinity(0))
    return {have[0]}, set(have[1:]) or {have[0]}


def client_core() -> set[int]:
    """Of the load client: the second, so that a third is free for feeders."""
    have = sorted(os.sched_getaffinity(0))
    return {have[min(1, len(have) - 1)]}


def pin(pid: int, to: set[int]) -> None:
    """All threads of a running process, and those it starts later."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), to)


async def spawn(program: Sequence[str | Path], log: Path, to: set[int], env: dict[str, str] | None = None) -> Process:
    """Start a process on the cores ``to``; stdout is a pipe, stderr goes to ``log``. It ends with us."""
    parent = os.getpid()

    def before() -> None:
        die_with_parent(signal.SIGKILL, parent)
        os.sched_setaffinity(0, to)

    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(str(part) for part in program),
            cwd=servers.ROOT,
            env=env or dict(os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            preexec_fn=before,
        )
    return Process(process, log)


@dataclass(frozen=True, slots=True)
class Process:
    """A child with its log."""

    inner: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        """Of the child."""
        return self.inner.pid

    async def line(self, within_s: float = 30.0) -> str:
        """The next line it prints. Raises ``RuntimeError`` when it ended instead, ``TimeoutError``."""
        assert self.inner.stdout is not None
        async with asyncio.timeout(within_s):
            said = await self.inner.stdout.readline()
        if not said:
            raise RuntimeError(f"ended: {self.log.read_text('utf-8', 'replace')[-600:]}")
        return said.decode().strip()

    async def end(self) -> None:
        """Safe twice."""
        await servers.end(self.inner, 10.0)


@dataclass(frozen=True, slots=True)
class Server:
    """Something to connect to."""

    port: int
    pid: int
    process: Process | None = None


@asynccontextmanager
async def server(bench: Path, *program: str | Path) -> AsyncIterator[Server]:
    """Run a program that prints its port, on the server's core."""
    process = await spawn(program, bench / "fanout-server.log", cores()[0])
    try:
        yield Server(int(await process.line()), process.pid, process)
    finally:
        await process.end()


def module(name: str, **options: object) -> list[str]:
    """The command of a server of this package: ``--option value`` for each."""
    return [sys.executable, "-m", f"bench.fanout.{name}", *_flags(options)]


def _flags(options: dict[str, object]) -> list[str]:
    flags = []
    for name, value in options.items():
        if value is True:
            flags.append(f"--{name}")
        elif value is not None and value is not False:
            flags += [f"--{name}", str(value)]
    return flags


@dataclass(frozen=True, slots=True)
class Load:
    """What the load client found; the names are those of its line of JSON."""

    found: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.found[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def per_cpu_s(self) -> float:
        """Events delivered per second of the server's processor time."""
        return float(self.events / self.cpu_s)

    @property
    def per_s(self) -> float:
        """Events delivered per second by the clock."""
        return float(self.events / self.seconds)

    @property
    def trouble(self) -> str:
        """What must not be: events missing, out of order, connections lost. Empty when all is well."""
        wrong = {name: self.found[name] for name in ("refused", "closed", "gaps", "out_of_order") if self.found[name]}
        return ", ".join(f"{name} {value}" for name, value in wrong.items())

    def text(self) -> str:
        """For notes."""
        saturated = "; the client was busy" if self.own_cpu_s > 0.9 * self.seconds else ""
        return f"{self.per_s:,.0f}/s by the clock, server {self.busy}{saturated}"

    @property
    def busy(self) -> str:
        """How much of a core the server had, and for how much it had to wait because others had it."""
        return f"{self.cpu_s / self.seconds:.0%} busy (+ {self.queued_s / self.seconds:.0%} waiting for its core)"


async def load(folder: Path, target: Server, **options: object) -> Load:
    """One run of the load client against ``target``. Raises ``RuntimeError`` with what it said, also for gaps, reordering and lost
    connections (unless ``lenient``)."""
    lenient = bool(options.pop("lenient", False))
    log = folder / "fanout-load.log"
    log.unlink(missing_ok=True)
    program: list[str | Path] = [folder / "load", *_flags({"port": target.port, "pid": target.pid, **options})]
    process = await spawn(program, log, client_core())
    try:
        line = await process.line(float(str(options.get("limit", 120))) + 5)
    finally:
        await process.end()
    result = Load(json.loads(line))
    if result.trouble and not lenient:
        said = log.read_text("utf-8", "replace")[-300:]
        raise RuntimeError(f"the load client saw {result.trouble} (close code {result.close_code}) {said}")
    return result
