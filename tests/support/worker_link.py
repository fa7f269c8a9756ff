"""A worker's link without a network: offers jobs, answers commands, keeps what was said. Faults are put in on purpose."""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from aura.errors import AuraError
from aura.events.subjects import OutputKind
from aura.worker.link import Assigned, Ended

#: The trace context of every claim of the scripted link.
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-0001a3ce929d0e0e-01"


@dataclass
class Offer:
    """One delivered assignment."""

    seq: int
    job_id: str
    settled: str = ""

    def ack(self) -> None:
        self.settled = "ack"

    def nak(self) -> None:
        self.settled = "nak"


@dataclass
class MemoryOutput:
    """Keeps records; ``closed`` after ``discard``."""

    records: list[tuple[OutputKind, dict[str, Any]]] = field(default_factory=list)
    closed: bool = False

    @property
    def count(self) -> int:
        return len(self.records)

    def join(self, text: str, final: bool) -> bool:
        return False

    async def write(self, kind: OutputKind, record: dict[str, Any]) -> None:
        assert not self.closed, "written after discard"
        self.records.append((kind, record))

    async def flush(self) -> None:
        pass

    def discard(self) -> None:
        self.closed = True

    def text(self) -> str:
        return "".join(record["chunk"] for kind, record in self.records if kind == "stream")

    def lines(self) -> list[str]:
        return [record["line"] for kind, record in self.records if kind == "log"]


class MemoryLink:
    """See the module docstring. ``wait_for(command, n)`` waits until a command was sent ``n`` times."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any], str | None]] = []
        self.faults: dict[str, deque[AuraError]] = defaultdict(deque)
        self.payloads: dict[str, Any] = {}
        self.outputs: dict[tuple[str, int], MemoryOutput] = {}
        self.attempts: dict[str, int] = defaultdict(int)
        self.beats: dict[str, list[str]] = {"cancelled": [], "fenced": []}
        self.health: list[dict[str, Any]] = []
        self.taken: list[int] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.stopped = False
        self._seq = 0
        self._changed = asyncio.Condition()

    async def start(
        self,
        on_assigned: Callable[[Assigned], None],
        on_ended: Callable[[Ended], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        self.on_assigned, self.on_ended, self.on_reconnect = on_assigned, on_ended, on_reconnect

    async def call(self, name: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        orjson.dumps(body)  # what JSON cannot hold is a TypeError, as over a network
        self.calls.append((name, dict(body), key))
        async with self._changed:
            self._changed.notify_all()
        if name in self.gates:
            await self.gates[name].wait()
        if self.faults[name]:
            raise self.faults[name].popleft()
        if name == "claim":
            self.attempts[body["job_id"]] += 1
            return self._claimed(body["job_id"])
        if name == "heartbeat":
            return {**self.beats}
        return {"ok": True, "seq": self.next_seq()}

    def _claimed(self, job_id: str) -> dict[str, Any]:
        return {
            "job_id": job_id,
            "project_id": 1,
            "attempt": self.attempts[job_id],
            "lease_ttl_s": 10,
            "payload": self.payloads.get(job_id),
            "seq": self.next_seq(),
            "traceparent": TRACEPARENT,
            "data_key": base64.b64encode(bytes(32)).decode(),
        }

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def offer(self, job_id: str, payload: Any = None) -> Offer:
        """Deliver an assignment."""
        self.payloads[job_id] = payload
        offer = Offer(self.next_seq(), job_id)
        self.on_assigned(offer)
        return offer

    def end(self, job_id: str, how: Any = "cancelled", attempt: int | None = None) -> None:
        """A committed event that ends the job or a lease."""
        self.on_ended(Ended(how, job_id, self.next_seq(), attempt))

    def sent(self, name: str) -> list[dict[str, Any]]:
        """Bodies of the commands of that name."""
        return [body for called, body, _ in self.calls if called == name]

    def keys(self, name: str) -> list[str | None]:
        return [key for called, _, key in self.calls if called == name]

    async def wait_for(self, name: str, times: int = 1) -> list[dict[str, Any]]:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.sent(name)) >= times)
        return self.sent(name)

    def take(self, free: int) -> None:
        self.taken.append(free)

    async def stop_pulling(self) -> None:
        self.taken.append(0)

    async def report_health(self, report: dict[str, Any]) -> None:
        self.health.append(report)

    def output(self, project: int, job_id: str, attempt: int, data_key: bytes) -> MemoryOutput:
        made = MemoryOutput()
        self.outputs[job_id, attempt] = made
        return made

    async def stop(self) -> None:
        self.stopped = True
