"""What processes cost, from /proc: processor time and memory. Linux only.

Processor time per job hardly depends on how busy the machine is, so it tells where to look even when the clock does not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all its descendants that live now."""
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text("ascii").split())
        except OSError:
            continue
    return found


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and its descendants; those of ended children included."""
    total = 0.0
    for one in family(pid) if pid != os.getpid() else [pid]:
        try:
            fields = Path(f"/proc/{one}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICK
    return total


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB. PSS counts a page shared by n processes as 1/n in each, so a sum of PSS is what the machine really has less."""

    pss: float
    rss: float


def memory(pid: int) -> Memory:
    """Of a process and its descendants."""
    pss = rss = 0
    for one in family(pid) if pid != os.getpid() else [pid]:
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text("ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("Pss:"):
                pss += int(line.split()[1])
            elif line.startswith("Rss:"):
                rss += int(line.split()[1])
    return Memory(pss / 1024, rss / 1024)


class CpuMeter:
    """Processor seconds by name since it was made. The supervisor's own time is told without its children's."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {name: cpu_s(pid) for name, pid in self._pids.items() if name != "supervisor"}

    def per(self, count: int) -> dict[str, float]:
        """Milliseconds per ``count``, most expensive first."""
        now = self._now()
        spent = {name: (now[name] - before) * 1000 / count for name, before in self._before.items() if name in now}
        return dict(sorted(spent.items(), key=lambda item: -item[1]))

    def text(self, count: int) -> str:
        """``gateway 0.52 + nats 0.31 + … = 1.4 ms of processor time per job``."""
        spent = self.per(count)
        parts = " + ".join(f"{name} {ms:.2f}" for name, ms in spent.items())
        return f"{parts} = {sum(spent.values()):.2f} ms of processor time each"
