"""``aura up``: the whole system on one machine, as children of one small process.

::

    supervisor ─┬─ nats-server          unless AURA_NATS_URL
                ├─ postgres             unless AURA_DATABASE_URL
                ├─ aura gateway         ready = its /ready answers 200
                ├─ aura scheduler
                ├─ aura projector
                └─ aura worker …        demo

    stopped ──start──▶ [lock] ─▶ keys ─▶ nats ∥ postgres ─▶ streams ─▶ components ─▶ ready ──stop──▶ drained ─▶ stopped

Invariants:

* One supervisor per data folder (a lock that the kernel lets go when we end, however we end).
* Whatever ends is started again, servers on the same ports; nothing acknowledged is lost (the servers flush, the components start
  from the log).
* No orphan: children die with us even on ``kill -9``; what *they* leave is adopted and ended; what an earlier supervisor left is
  found in ``runtime.json`` (pid and start time) and ended before anything else.
* A drain goes from the edge inwards: workers hand back their jobs while the gateway still takes commands, the servers go last.

Failure cases: a start that cannot succeed ends everything it began and raises ``Unavailable`` or ``ConfigError``; a component that
dies again and again is shown with the last lines of its log and tried for ever, at most every 5 s.

Small on purpose: no ``nats``, ``pydantic``, ``psycopg``, ``structlog`` in this process (``provision.py`` says why); its messages go to
``notify``, which the CLI prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from aura import config
from aura.config import Settings
from aura.errors import ConfigError, Unavailable
from aura.ids import SystemIds
from aura.runtime import provision
from aura.runtime.children import AURA_COMMAND, COMPONENTS, DEMO_WORKERS, DRAIN_S, ChildEnvironment, WorkerSpec
from aura.runtime.embedded_nats import EmbeddedNats
from aura.runtime.embedded_postgres import EmbeddedPostgres
from aura.runtime.files import FolderLock, private_folder
from aura.runtime.keeper import Keeper, Notice
from aura.runtime.logs import last_lines, turn_over
from aura.runtime.ports import choose, http_status
from aura.runtime.process import NICENESS, Child, Program, adopt_orphans, end_orphans, start
from aura.runtime.state import RUN_VARIABLE, RuntimeState

_log = logging.getLogger("aura.runtime")
_READY_S = 120.0
_HOUSEKEEPING_S = 5.0
#: Looks in a row at an unhealthy nats-server before it is started again, and the free disk it takes to try.
_SICK_LOOKS = 3
_HEAL_FREE_BYTES = 64 * 1024 * 1024
#: Ends of one component before the first ready that make a start fail.
_HOPELESS = 4


def _print_notice(notice: Notice) -> None:
    level = logging.WARNING if notice.state in ("ended", "failing") else logging.INFO
    _log.log(level, "%s %s %s", notice.part, notice.state, notice.detail)


async def _both(*steps: Coroutine[Any, Any, None]) -> None:
    """Do them at once; the first error ends the others and is raised as it is."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Supervisor:
    """See the module docstring. ``workers`` are started with the rest (``demo`` alone: one per default model).

    ``command`` is what components are arguments to; the tests of this class put a stand-in there.
    """

    def __init__(
        self,
        settings: Settings,
        demo: bool = False,
        *,
        workers: Sequence[WorkerSpec] = (),
        notify: Callable[[Notice], None] = _print_notice,
        command: Sequence[str] = AURA_COMMAND,
    ) -> None:
        self.settings = settings
        self._workers = tuple(workers) or (DEMO_WORKERS if demo else ())
        self._notify = notify
        self._command = tuple(command)
        self._data = settings.data_dir
        self._logs = settings.data_dir / "logs"
        self._lock: FolderLock | None = None
        self._nats: EmbeddedNats | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._servers: list[Keeper] = []
        self._components: list[Keeper] = []
        self._worker_keepers: list[Keeper] = []
        self._housekeeping: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._topology_known = False
        self._adopts = False
        self._sick_looks = 0
        self._state = RuntimeState(self._data, SystemIds())

    @property
    def url(self) -> str:
        """Where the gateway is (or will be)."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.settings.port}"

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Start, call ``ready``, serve until SIGTERM, SIGINT or SIGHUP, drain. A second signal ends everything at once.

        For a process of its own: it adopts, and ends, every orphan below it. Raises like :meth:`start`.
        """
        adopt_orphans()
        self._adopts = True
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if asked.is_set():
                self.kill()
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, on_signal)
        waiting = asyncio.create_task(asked.wait())
        starting = asyncio.create_task(self.start())
        try:
            await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not asked.is_set():
                await starting  # raises what went wrong
                if ready is not None:
                    ready()
                await waiting
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Unavailable, ConfigError):
                await starting
        finally:
            waiting.cancel()
            await self.stop()

    async def start(self) -> None:
        """Return when the gateway is ready. Raises ``ConfigError`` or ``Unavailable`` with everything stopped again."""
        config.refuse_open_bind(self.settings)
        private_folder(self._data)
        lock = FolderLock(self._data)
        lock.acquire()
        self._lock = lock
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Drain and stop everything, from the edge inwards. Safe twice."""
        if self._lock is None:
            return
        for task in (self._housekeeping, self._checking):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(keeper.stop() for keeper in self._worker_keepers))
        for keeper in self._components:
            await keeper.stop()
        await asyncio.gather(*(keeper.stop() for keeper in self._servers))
        if self._adopts:
            end_orphans()
        self._state.write({"url": self.url, "port": self.settings.port}, self._nats, self._postgres, None)
        self._lock.release()
        self._lock = None

    def kill(self) -> None:
        """SIGKILL every child now (an impatient second Ctrl-C). The next start recovers."""
        for keeper in (*self._worker_keepers, *self._components, *self._servers):
            if keeper.child is not None:
                keeper.child.signal(signal.SIGKILL)

    async def _start(self) -> None:
        private_folder(self._logs)
        self._state = RuntimeState(self._data, SystemIds())
        await self._state.end_leftovers()
        for part, external in (("nats", self.settings.nats_url), ("postgres", self.settings.database_url)):
            if external is not None:
                self._state.past.pop(part, None)  # not ours any more: nobody shall find it
        self._choose_gateway_port()
        self._write_state()
        self._housekeeping = asyncio.create_task(self._keep_house())
        await _both(self._start_nats(), self._start_postgres())
        environment = self._environment()
        await self._start_components(environment)
        await self._gateway_ready()
        await self._start_workers(environment)
        self._notify(Notice("aura", "ready", self.url))
        if self._topology_known:
            self._checking = asyncio.create_task(self._check_topology())

    # -- servers

    async def _start_nats(self) -> None:
        if self.settings.nats_url is None:
            workers = {spec.name: [spec.model] for spec in self._workers}
            if not provision.is_minted(self._data, workers):
                await self._provision("accounts", str(self._data), json.dumps(workers), env=dict(os.environ))
            auth = (self._data / "nats" / "accounts.conf").read_text("utf-8")
            ports = (self._state.past_port("nats"), self._state.past_port("nats", "monitor_port"))
            nats = self._nats = EmbeddedNats(self._data / "nats", auth, self._logs / "nats.log", ports)

            async def launch() -> Child:
                await nats.start()
                assert nats.child is not None
                return nats.child

            keeper = self._keeper("nats", launch, lambda _: nats.stop())
            self._servers.append(keeper)
            await keeper.start()
        self._topology_known = provision.has_topology(self._data, self.settings.nats_url)
        if not self._topology_known:
            await self._make_topology()
        self._notify(Notice("nats", "ready"))

    async def _make_topology(self) -> None:
        """Create the streams, or look for drift. On a store that had them the look can wait until everything runs."""
        await self._provision("topology", env=self._environment().of_topology())
        provision.note_topology(self._data, self.settings.nats_url)

    async def _start_postgres(self) -> None:
        if self.settings.database_url is not None:
            return
        past_port = self._state.past_port("postgres")
        postgres = self._postgres = EmbeddedPostgres(
            self._data / "postgres", self._data / "credentials", self._logs / "postgres.log", past_port
        )

        async def launch() -> Child:
            await postgres.start()
            assert postgres.child is not None
            return postgres.child

        keeper = self._keeper("postgres", launch, lambda _: postgres.stop())
        self._servers.append(keeper)
        await keeper.start()
        self._notify(Notice("postgres", "ready"))

    async def _provision(self, *args: str, env: dict[str, str]) -> None:
        log = self._logs / "provision.log"
        child = start(Program("provision", [sys.executable, "-P", "-m", "aura.runtime.provision", *args], log, env))
        try:
            status = await child.wait()
        except asyncio.CancelledError:
            await child.stop()
            raise
        if status:
            said = "".join(last_lines(log, 1))
            raise ConfigError(said) if status == 2 else Unavailable(f"{args[0]}: {said} (see {log})")

    async def _check_topology(self) -> None:
        try:
            await self._make_topology()
        except (Unavailable, ConfigError) as error:
            self._notify(Notice("streams", "failing", error.detail))

    # -- components and workers

    def _environment(self) -> ChildEnvironment:
        nats_url = self._nats.url if self._nats is not None else None
        return ChildEnvironment(self.settings, nats_url, self.settings.database_url is None)

    async def _start_components(self, environment: ChildEnvironment) -> None:
        for name in COMPONENTS:
            self._components.append(self._python(name, [name], environment.of_component(name), name))
        for keeper in self._components:
            await keeper.start()

    async def _start_workers(self, environment: ChildEnvironment) -> None:
        """Once there is somebody to answer them: before, they would only wait and take processors from who they wait for."""
        for spec in self._workers:
            env = environment.of_worker(spec.name)
            self._worker_keepers.append(self._python(f"worker-{spec.name}", spec.command(), env, "worker"))
        for keeper in self._worker_keepers:
            await keeper.start()

    def _python(self, name: str, args: Sequence[str], env: dict[str, str], kind: str) -> Keeper:
        env = env | {RUN_VARIABLE: self._state.run}
        log, niceness, drain_s = self._logs / f"{name}.log", NICENESS.get(kind, 0), DRAIN_S[kind]
        program = Program(name, [*self._command, *args], log, env, niceness=niceness)

        async def launch() -> Child:
            return start(program)

        return self._keeper(name, launch, lambda child: child.stop((signal.SIGTERM, drain_s)))

    def _keeper(self, name: str, launch: Any, end: Any) -> Keeper:
        return Keeper(name, self._logs / f"{name}.log", launch, end, self._notify, self._write_state)

    async def _gateway_ready(self) -> None:
        pause_s = 0.01
        host = self.settings.host if config.is_loopback(self.settings.host) else "127.0.0.1"
        try:
            async with asyncio.timeout(_READY_S):
                while await http_status(host.strip("[]"), self.settings.port, "/ready") != 200:
                    for keeper in self._components:
                        if keeper.ends_in_a_row >= _HOPELESS:
                            said = " | ".join(last_lines(keeper.log, 3))
                            raise Unavailable(f"{keeper.name} does not stay up: {said} (see {keeper.log})")
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.3, 0.1)
        except TimeoutError:
            raise Unavailable(
                f"not ready after {_READY_S:.0f} s: ask {self.url}/readyz?verbose, see {self._logs}"
            ) from None

    # -- housekeeping

    def _choose_gateway_port(self) -> None:
        if self.settings.port == 0:
            self.settings = replace(self.settings, port=choose(1, [self._state.past_port("gateway")])[0])
            return
        family = socket.AF_INET6 if ":" in self.settings.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.settings.host.strip("[]"), self.settings.port))
            except OSError as error:
                raise ConfigError(
                    f"cannot listen on {self.settings.host}:{self.settings.port} ({error.strerror}): choose another --port"
                ) from None

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            for path in self._logs.glob("*.log"):
                turn_over(path)
            if self._adopts:
                end_orphans()
            await self._heal_nats()

    async def _heal_nats(self) -> None:
        """A store that met a full or broken disk stays refused until its server starts anew, also when the disk is well again
        (its ``/healthz`` says so): three looks in a row, then it is started again. What it acknowledged was flushed before."""
        if self._nats is None or self._nats.child is None or not self._nats.monitor_port:
            return
        status = await http_status("127.0.0.1", self._nats.monitor_port, "/healthz")
        self._sick_looks = self._sick_looks + 1 if status is not None and status >= 500 else 0
        if self._sick_looks < _SICK_LOOKS or shutil.disk_usage(self._data).free < _HEAL_FREE_BYTES:
            return
        self._sick_looks = 0
        self._notify(Notice("nats", "ended", "its store is not healthy; starting it again"))
        self._nats.child.signal(signal.SIGKILL)

    def _write_state(self) -> None:
        if self._adopts:
            end_orphans()
        keepers = (*self._servers, *self._components, *self._worker_keepers)
        self._state.write({"url": self.url, "port": self.settings.port}, self._nats, self._postgres, keepers)
