"""What the gateway needs from the rest, as protocols. The composition root (``cli``) binds them.

Reads answer plain JSON objects: their shapes are the read models' and are documented in ``answers.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aura.commands.handler import Caller
from aura.commands.heads import JobHead
from aura.errors import AuraError
from aura.events.subjects import OUTPUT_KINDS, OutputKind
from aura.log.store import Recorded

Row = dict[str, Any]


class Jobs(Protocol):
    """The part of ``JobHandler`` that reads need."""

    async def head(self, job_id: str, *, consistent: bool = False) -> JobHead:
        """The job's head. Raises ``NotFound``, ``Unavailable``."""


class Commands(Protocol):
    """``commands.service.CommandService``."""

    @property
    def jobs(self) -> Jobs:
        """Heads of jobs."""

    async def call(self, operation: str, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Run one operation. Raises errors of ``aura.errors``."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What ``GET /jobs`` and bulk selections filter by; ``None`` or empty = any. ``q`` searches titles."""

    status: tuple[str, ...] = ()
    project_id: int | None = None
    role: str | None = None
    model: str | None = None
    q: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first, and the opaque cursor of the next page."""

    rows: Sequence[Row]
    next_cursor: str | None = None


class Queries(Protocol):
    """The read models. ``as_of`` is a sequence: the state right after it. Unknown or tampered cursors raise
    ``InvalidRequest``."""

    async def resolve(self, time: str) -> int:
        """The greatest sequence the read models have that was stored at or before an RFC 3339 time; 0 when there is none. Raises
        ``InvalidRequest``."""

    async def list_jobs(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, as_of: int | None = None
    ) -> Page:
        """Jobs, newest first."""

    async def get_job(self, job_id: str, *, as_of: int | None = None) -> Row | None:
        """One job, with the ``seq`` of its last event."""

    async def list_prds(self, *, project_id: int | None, limit: int, cursor: str | None = None) -> Page:
        """PRDs with progress derived from their jobs."""

    async def get_prd(self, root_job_id: str, *, as_of: int | None = None) -> Row | None:
        """One PRD with its jobs."""

    async def list_archives(self, *, project_id: int | None, limit: int, cursor: str | None = None) -> Page:
        """Closed jobs with their retention."""

    async def get_archive(self, job_id: str) -> Row | None:
        """One of them."""

    async def models_health(self, *, window_s: float) -> Sequence[Row]:
        """Models heard of within the window."""

    async def model_health(self, model: str) -> Row | None:
        """One model with its history."""

    async def stats(self, *, as_of: int | None = None) -> Row:
        """Counts, throughput, latency, success rates."""

    async def grid(self, project_id: int) -> Row:
        """Subjects × stages."""

    async def projections_status(self) -> Sequence[Row]:
        """Name, version, sequence, lag of each projection."""

    async def wait_for(self, min_seq: int, timeout_s: float) -> bool:
        """Whether the read models have ``min_seq`` within the time."""


@dataclass(frozen=True, slots=True)
class OutputMessage:
    """One decrypted message of output. ``seq`` is its sequence in ``AURA_OUTPUT`` (the cursor); records carry ``i``
    and ``ts``."""

    seq: int
    attempt: int
    kind: OutputKind
    records: Sequence[Mapping[str, Any]]


OutputSink = Callable[[str, int, OutputMessage], None]
"""``(job_id, project, message)``; called in the event loop, must not block."""
Stop = Callable[[], Awaitable[None]]


class OutputReader(Protocol):
    """Output of jobs, decrypted."""

    def read(
        self,
        project: int,
        job_id: str,
        attempts: Sequence[int],
        *,
        from_cursor: int = 0,
        kinds: Sequence[OutputKind] = OUTPUT_KINDS,
    ) -> AsyncIterator[Sequence[OutputMessage]]:
        """Batches in order from ``from_cursor`` (inclusive) to the end; nothing when the key is erased.

        Raises ``Unavailable``.
        """

    async def watch(self, project: int, job_id: str, sink: OutputSink) -> Stop:
        """Push the job's new output; may lose messages (a reader notices by ``i``), never reorders. Returns how to
        stop."""

    async def watch_logs(self, sink: OutputSink) -> Stop:
        """Push new ``log`` messages of all jobs, best effort."""


class HealthFeed(Protocol):
    """Heartbeats as they arrive."""

    async def watch(self, sink: Callable[[str, bytes], None]) -> Stop:
        """Push ``(subject, JSON body)`` of every heartbeat, best effort."""


class NextJob(Protocol):
    """A pool's next job, claimed for a worker (``log/pool.py`` and the ``claim`` operation)."""

    async def __call__(
        self, model: str, worker_id: str, wait_s: float, lease_ttl_s: float | None, caller: Caller
    ) -> Row | None:
        """The answer of ``claim``, or ``None`` when nothing came within ``wait_s``. Cancelling it claims nothing
        further."""


Explain = Callable[[str], Awaitable[Row | None]]
"""``job_id`` → why the job is where it is; ``None`` when there is no such job."""

Check = Callable[[], Awaitable[str | None]]
"""A readiness check: what is wrong, or ``None``."""


class Tail(Protocol):
    """``log.tail.LogTail``."""

    async def start(self) -> None:
        """Begin to deliver."""

    async def stop(self) -> None:
        """Deliver no more. Safe twice."""


MakeTail = Callable[[int, Callable[[list[Recorded]], None], Callable[[AuraError], None]], Tail]
"""``(from_seq, on_batch, on_end)`` → a tail that is not started yet."""
