"""How a command finds the ``aura up`` that runs on a data folder: ``runtime.json``, written by ``runtime.supervisor``.

::

    {"version": 1,
     "run",                                      names this run; see ``runtime.state``
     "supervisor": {"pid", "start"} | null,      null after a clean stop
     "nats": {"url", "port", "monitor_port"},    absent with an external server; ports are kept for the next start
     "postgres": {"port", "host", "socket_dir", "database"},
     "gateway": {"url"},
     "children": {name: {"pid", "start"}}}

No secrets: those are in ``credentials/``. The file is believed only while the process it names lives (pid *and* start time,
since a pid is soon given to another process), so what a ``kill -9`` leaves behind misleads nobody.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: The file's name in the data folder.
RUNTIME_FILE = "runtime.json"


def process_start(pid: int) -> int | None:
    """The kernel's start time of ``pid`` (ticks since boot; 0 where it cannot be told), ``None`` when there is none.

    A pid alone does not name a process: it may have been given to another one.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return 0
    after_name = stat.rpartition(")")[2].split()
    return None if after_name[0] in "ZX" else int(after_name[19])


def read_runtime(data_dir: Path) -> dict[str, Any] | None:
    """What ``runtime.json`` says (JSON object), whether or not its ``aura up`` still runs; ``None`` without a readable one."""
    try:
        state = json.loads((data_dir / RUNTIME_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def running(data_dir: Path) -> dict[str, Any] | None:
    """``runtime.json`` of an ``aura up`` that runs on ``data_dir`` now, else ``None``."""
    state = read_runtime(data_dir)
    supervisor = state and state.get("supervisor")
    if not supervisor or process_start(int(supervisor["pid"])) != supervisor["start"]:
        return None
    return state
