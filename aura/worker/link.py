"""What a worker needs of the world, as ports: commands, its pool, its output, its health.

``nats_link.py`` is the adapter for a real system. The worker's own logic (``attempt.py``, ``worker.py``) knows only these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from aura.events.subjects import OutputKind

#: ``cancelled``: a person ended the job. ``lease_expired``: the scheduler gave the attempt up.
EndedHow = Literal["cancelled", "lease_expired"]


class Assigned(Protocol):
    """One job offered to this worker: a delivered ``job.assigned`` of its pool."""

    @property
    def seq(self) -> int:
        """Sequence of the ``assigned`` event: the same for every delivery of it."""

    @property
    def job_id(self) -> str:
        """Which job."""

    def ack(self) -> None:
        """Settled: claimed, or refused for good. Never blocks."""

    def nak(self) -> None:
        """Not taken: offer it to somebody else now. Never blocks."""


class Output(Protocol):
    """The one writer of an attempt's output. Records are numbered and kept in the order of the calls."""

    @property
    def count(self) -> int:
        """How many records were accepted so far."""

    async def write(self, kind: OutputKind, record: dict[str, Any]) -> None:
        """Accept one record; waits only while too much is unwritten. Raises ``Fenced`` when another attempt took over."""

    def join(self, text: str, final: bool) -> bool:
        """Add ``text`` to a record of the stream that waits to be stored, which costs least. ``False``: it has to be written."""

    async def flush(self) -> None:
        """Return when everything accepted is stored, however long that takes. Raises ``Fenced``."""

    def discard(self) -> None:
        """Write nothing more. Safe at any time, also twice."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A committed event that ends an attempt from outside. ``seq`` is its place in the log."""

    how: EndedHow
    job_id: str
    seq: int
    attempt: int | None
    """Which attempt's lease expired; ``None`` for a cancellation, which ends any."""


class Link(Protocol):
    """A worker's connection to the system. Everything reconnects for ever."""

    async def start(
        self,
        on_assigned: Callable[[Assigned], None],
        on_ended: Callable[[Ended], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        """Connect and listen for ends; pulls nothing before :meth:`take`. Raises ``Unavailable``, ``ConfigError``."""

    async def call(self, name: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """One worker command. ``key`` makes it safe to repeat. Raises what the command raises, ``Unavailable`` for no answer."""

    def take(self, free: int) -> None:
        """How many more jobs may be delivered from now on. Never blocks."""

    async def stop_pulling(self) -> None:
        """Nothing more is delivered from now on; what was, comes again elsewhere unless it is settled. Safe twice."""

    async def report_health(self, report: dict[str, Any]) -> None:
        """Publish one health heartbeat. Best effort."""

    def output(self, project: int, job_id: str, attempt: int, data_key: bytes) -> Output:
        """The writer of an attempt's output; costs nothing until the first record."""

    async def stop(self) -> None:
        """Close. Safe twice."""
