"""The command adapter: a job runs a program, its output streams live, its exit status is the result.

Payload: ``{"argv": ["make", "test"], "cwd"?: "sub/folder", "stdin"?: text, "timeout_s"?: number, "retry"?: true}``, or, only when the
worker was started with ``--allow-shell``, ``{"shell": "make test | tail"}``.

Result: ``{"exit_code": 0, "duration_s": 1.2, "output_bytes": n}`` (``"truncated": true`` when the limit was met). Another status
fails the job with ``exit_<n>``, or ``signal_<n>``, and the tail of stderr as its text; ``"retry": false`` makes that final.

What is enforced: no shell unless asked for; only programs of the allow-list, by the name they were allowed as; a working folder
inside ``root`` after resolving symbolic links; an environment that holds none of the worker's secrets; bounded output; bounded time.
The allow-list says *which programs* may start, not what they do: ``python`` or ``make`` can do anything this user can.

The program leads a process group. However the job ends (cancelled, timed out, drained, or just finished), nothing of the group is
left: TERM, then KILL after ``kill_after_s``. On Linux the program dies with the worker, too.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aura.clock import Clock, SystemClock
from aura.errors import ConfigError, Fatal, Retryable
from aura.worker.context import JobContext

#: What a program inherits of the worker's environment; everything else, secrets above all, stays out.
PASSED_ON = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "USER", "SSL_CERT_FILE", "SYSTEMROOT")
MAX_OUTPUT = 10 * 1024 * 1024
MAX_STDIN = 1024 * 1024
MAX_ARGS = 4_096
MAX_LINE = 8 * 1024
_READ = 32 * 1024
#: How long pipes may stay open once the program and its group are gone.
_PIPES_S = 2.0
_FIELDS = frozenset({"argv", "shell", "cwd", "stdin", "timeout_s", "retry"})
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class CommandRules:
    """What a command worker may run. ``allow`` holds program names (looked up on ``path``) or absolute paths."""

    allow: Sequence[str] = ()
    allow_shell: bool = False
    root: Path = Path(".")
    path: str = ""
    timeout_s: float | None = None
    kill_after_s: float = 5.0
    max_output: int = MAX_OUTPUT
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """A checked payload."""

    argv: tuple[str, ...]
    cwd: Path
    stdin: bytes
    timeout_s: float | None
    retry: bool


class CommandAdapter:
    """A handler: ``Worker(model=…, handler=CommandAdapter(CommandRules(allow=["make"])))``. Raises ``ConfigError`` for bad rules."""

    def __init__(self, rules: CommandRules, clock: Clock | None = None) -> None:
        if not rules.allow and not rules.allow_shell:
            raise ConfigError("nothing is allowed: name programs with --allow, or use --allow-shell")
        self._rules = rules
        self._clock = clock or SystemClock()
        self._path = rules.path or f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self._root = rules.root.resolve()
        if not self._root.is_dir():
            raise ConfigError(f"--root {rules.root} is not a folder")
        self._programs = {name: self._find(name) for name in rules.allow}

    def _find(self, name: str) -> str:
        found = shutil.which(name, path=self._path)
        if found is None:
            raise ConfigError(f"--allow {name}: no such program on {self._path}")
        return found

    async def __call__(self, job: JobContext) -> dict[str, Any]:
        """Run the job's program. Raises ``Fatal`` (not allowed, malformed) and ``Retryable`` (exit status, timeout)."""
        command = self.check(job.payload)
        started = self._clock.monotonic_s()
        pump = _Pump(job, self._rules.max_output)
        try:
            async with asyncio.timeout(command.timeout_s):
                code = await self._run(command, job, pump)
        except TimeoutError:
            raise Retryable(f"still running after {command.timeout_s:g} s", error_code="timeout") from None
        details: dict[str, Any] = {
            "exit_code": code,
            "duration_s": round(self._clock.monotonic_s() - started, 3),
            "output_bytes": pump.seen,
        }
        if pump.truncated:
            details["truncated"] = True
        if code == 0:
            return details
        what = f"exit_{code}" if code > 0 else f"signal_{-code}"
        kind = Retryable if command.retry else Fatal
        raise kind(f"{command.argv[0]} ended with {what}\n{pump.tail}".strip(), error_code=what)

    def check(self, payload: Any) -> Command:
        """Validate a payload against the rules. Raises ``Fatal``."""
        if not isinstance(payload, dict):
            raise _refused("the payload must be an object with argv or shell")
        if unknown := sorted(set(payload) - _FIELDS):
            raise _refused(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(_FIELDS))}")
        timeout = payload.get("timeout_s", self._rules.timeout_s)
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
            raise _refused("timeout_s must be a positive number")
        stdin = payload.get("stdin", "")
        if not isinstance(stdin, str) or len(stdin) > MAX_STDIN:
            raise _refused(f"stdin must be text of at most {MAX_STDIN} characters")
        return Command(
            argv=self._argv(payload),
            cwd=self._cwd(payload.get("cwd", ".")),
            stdin=stdin.encode("utf-8", "replace"),
            timeout_s=timeout,
            retry=payload.get("retry", True) is not False,
        )

    def _argv(self, payload: dict[str, Any]) -> tuple[str, ...]:
        shell, argv = payload.get("shell"), payload.get("argv")
        if (shell is None) == (argv is None):
            raise _refused("give either argv or shell")
        if shell is not None:
            if not self._rules.allow_shell:
                raise _refused("this worker runs no shell; it was started without --allow-shell", "not_allowed")
            if not isinstance(shell, str) or not shell.strip() or "\0" in shell:
                raise _refused("shell must be text")
            return ("/bin/sh", "-c", shell)
        if not isinstance(argv, list) or not 1 <= len(argv) <= MAX_ARGS:
            raise _refused(f"argv must be a list of 1 to {MAX_ARGS} strings")
        if not all(isinstance(arg, str) and "\0" not in arg for arg in argv):
            raise _refused("argv must be a list of strings without NUL")
        program = self._programs.get(argv[0])
        if program is None:
            names = ", ".join(self._programs) or "nothing but a shell"
            raise _refused(f"{argv[0][:100]!r} is not allowed here; allowed: {names}", "not_allowed")
        return (program, *argv[1:])

    def _cwd(self, named: Any) -> Path:
        if not isinstance(named, str) or "\0" in named:
            raise _refused("cwd must be a path inside the worker's root")
        folder = (self._root / named).resolve()
        if not folder.is_relative_to(self._root):
            raise _refused("cwd is outside the worker's root", "not_allowed")
        if not folder.is_dir():
            raise _refused("cwd does not exist")
        return folder

    def _env(self, job: JobContext) -> dict[str, str]:
        return {
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            "PATH": self._path,
            "PYTHONUNBUFFERED": "1",
            **self._rules.env,
            "AURA_JOB_ID": job.job_id,
            "AURA_PROJECT_ID": str(job.project_id),
            "AURA_ATTEMPT": str(job.attempt),
            "AURA_SEQ": str(job.seq),
            **({"TRACEPARENT": job.traceparent} if job.traceparent is not None else {}),
        }

    async def _run(self, command: Command, job: JobContext, pump: _Pump) -> int:
        """Start, stream until the end, leave nothing of the group behind."""
        program = await self._start(command, job)
        process = program.process
        pumps = asyncio.gather(pump.out(process.stdout), pump.err(process.stderr), _feed(process, command.stdin))
        exited = asyncio.ensure_future(program.exited.wait())
        either: set[asyncio.Future[Any]] = {exited, pumps}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                await pumps  # raises what broke the output; else the program has closed its pipes and will end
            await exited
            _signal_group(process.pid, signal.SIGKILL)  # what it left in the background
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PIPES_S):
                    await asyncio.shield(pumps)
        except BaseException:
            await _finish(self._end(program))
            raise
        finally:
            pumps.cancel()
            exited.cancel()
            await asyncio.gather(pumps, exited, return_exceptions=True)
            program.close()
        return process.returncode or 0

    async def _start(self, command: Command, job: JobContext) -> _Program:
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: _Exit(loop),
                *command.argv,
                cwd=command.cwd,
                env=self._env(job),
                stdin=asyncio.subprocess.PIPE if command.stdin else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                preexec_fn=_dying_with(os.getpid()),
            )
        except OSError as error:
            raise Fatal(f"cannot start {command.argv[0]}: {error.strerror}", error_code="cannot_start") from error
        return _Program(asyncio.subprocess.Process(transport, protocol, loop), protocol.exited, transport)

    async def _end(self, program: _Program) -> None:
        """TERM the group, KILL what is left, return when the program is gone."""
        pid = program.process.pid
        _signal_group(pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(self._rules.kill_after_s):
                await program.exited.wait()
        except TimeoutError:
            pass
        _signal_group(pid, signal.SIGKILL)
        await program.exited.wait()


class _Exit(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells when the *program* has ended. ``Process.wait`` also waits until everybody who inherited its pipes has, and what a program
    left in the background may keep them for ever."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=2**16, loop=loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


@dataclass(frozen=True, slots=True)
class _Program:
    process: asyncio.subprocess.Process
    exited: asyncio.Event
    transport: asyncio.SubprocessTransport

    def close(self) -> None:
        """Let go of the pipes, also those that somebody still writes to."""
        self.transport.close()


class _Pump:
    """Moves a program's output into the job's; counts, bounds, remembers the tail of stderr."""

    def __init__(self, job: JobContext, limit: int) -> None:
        self._job = job
        self._limit = limit
        self.seen = 0
        self.truncated = False
        self.tail = ""

    async def out(self, pipe: asyncio.StreamReader | None) -> None:
        """stdout → output chunks, as they come."""
        await self._pump(pipe, self._job.stream, lambda _rest: "")

    async def err(self, pipe: asyncio.StreamReader | None) -> None:
        """stderr → log lines; ``\\r`` ends a line too (progress bars)."""
        held = ""

        async def lines(text: str) -> None:
            nonlocal held
            *whole, held = (held + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
            if len(held) > MAX_LINE:
                whole.append(held)
                held = ""
            for line in whole:
                self.tail = f"{self.tail}\n{line}"[-2_000:]
                await self._job.log(line)

        await self._pump(pipe, lines, lambda rest: "\n" if held or rest else "")

    async def _pump(
        self, pipe: asyncio.StreamReader | None, emit: Callable[[str], Awaitable[None]], ending: Callable[[str], str]
    ) -> None:
        if pipe is None:
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := await pipe.read(_READ):
            if text := decoder.decode(await self._bounded(data)):
                await emit(text)
        rest = decoder.decode(b"", final=True)
        if text := rest + ending(rest):
            await emit(text)

    async def _bounded(self, data: bytes) -> bytes:
        """What of ``data`` still fits; the rest is read and dropped, so that the program does not block on a full pipe."""
        room = max(0, self._limit - self.seen)
        self.seen += len(data)
        if len(data) > room and not self.truncated:
            self.truncated = True
            await self._job.log(f"output is cut at {self._limit} bytes", "WARNING")
        return data[:room]


async def _feed(process: asyncio.subprocess.Process, stdin: bytes) -> None:
    if process.stdin is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(stdin)
        await process.stdin.drain()
    process.stdin.close()


async def _finish(work: Awaitable[None]) -> None:
    """Await ``work`` to its end, also when we are cancelled meanwhile (again)."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _dying_with(parent: int) -> Callable[[], None] | None:
    """On Linux: a function for the child that ties its life to ours."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _refused(detail: str, code: str = "invalid_payload") -> Fatal:
    return Fatal(detail, error_code=code)
