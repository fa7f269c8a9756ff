"""``runtime.json`` from the writing side (its shape: ``aura.running``), and the end of what an earlier supervisor left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aura import running
from aura.errors import Unavailable
from aura.ids import IdSource
from aura.runtime.embedded_nats import EmbeddedNats
from aura.runtime.embedded_postgres import EmbeddedPostgres
from aura.runtime.files import write_private
from aura.runtime.keeper import Keeper
from aura.runtime.postgres_cluster import DATABASE

RUN_VARIABLE = "AURA_UP_RUN"
_TRIES, _PAUSE_S = 1000, 0.01


class RuntimeState:
    """What is known of this data folder's servers: from the last run (:attr:`past`), and then of this one."""

    def __init__(self, data_dir: Path, ids: IdSource) -> None:
        self._data_dir = data_dir
        #: Names this run; in the environment of every component, and so of whatever it starts.
        self.run = ids.uuid7()
        self.past: dict[str, Any] = running.read_runtime(data_dir) or {}

    def past_port(self, part: str, name: str = "port") -> int | None:
        """A port of the last run, to be used again."""
        found = self.past.get(part, {}).get(name)
        return found if isinstance(found, int) else None

    async def end_leftovers(self) -> None:
        """End what an earlier supervisor left: its children (it was killed, and so were they) and what those had started."""
        if self.past.get("supervisor") is None and not self.past.get("children"):
            return
        left = [(int(child["pid"]), child["start"]) for child in self.past.get("children", {}).values()]
        for _ in range(_TRIES):
            alive = {pid for pid, began in left if running.process_start(pid) == began} | self._of_past_run()
            if not alive:
                return
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(_PAUSE_S)
        raise Unavailable(f"processes of an earlier run do not end: {left}")

    def _of_past_run(self) -> set[int]:
        past = self.past.get("run")
        if not isinstance(past, str):
            return set()
        found = set()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{RUN_VARIABLE}={past}".encode() in environment.read_bytes().split(b"\0"):
                    found.add(int(environment.parent.name))
            except OSError:  # ended, or another user's
                continue
        return found

    def write(
        self,
        gateway: dict[str, Any],
        nats: EmbeddedNats | None,
        postgres: EmbeddedPostgres | None,
        keepers: Iterable[Keeper] | None,
    ) -> None:
        """Say how things stand; ``keepers`` is ``None`` after the end. Ports outlive it, for the next start."""
        pid = os.getpid()
        state: dict[str, Any] = {
            "version": 1,
            "run": self.run,
            "supervisor": None if keepers is None else {"pid": pid, "start": running.process_start(pid)},
            "gateway": gateway,
            "children": {
                keeper.name: {"pid": keeper.child.pid, "start": running.process_start(keeper.child.pid)}
                for keeper in keepers or ()
                if keeper.child is not None
            },
        }
        if nats is not None and nats.port:
            state["nats"] = {"url": nats.url, "port": nats.port, "monitor_port": nats.monitor_port}
        elif "nats" in self.past:
            state["nats"] = self.past["nats"]
        if postgres is not None and postgres.port:
            folder = None if postgres.socket_folder is None else str(postgres.socket_folder)
            address = {"host": "127.0.0.1", "port": postgres.port, "socket_dir": folder}
            state["postgres"] = {**address, "database": DATABASE}
        elif "postgres" in self.past:
            state["postgres"] = self.past["postgres"]
        write_private(self._data_dir / running.RUNTIME_FILE, json.dumps(state, indent=1))
