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
from aura.gateway.access.principal import Principal
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
    """What ``GET /jobs`` and bulk selections filter by; ``None``, or empty for ``status`` = any. No ``projects`` at all select nothing.
    ``q`` searches titles."""

    status: tuple[str, ...] = ()
    projects: tuple[int, ...] | None = None
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

    async def list_prds(self, *, projects: tuple[int, ...] | None, limit: int, cursor: str | None = None) -> Page:
        """PRDs with progress derived from their jobs."""

    async def get_prd(self, root_job_id: str, *, as_of: int | None = None) -> Row | None:
        """One PRD with its jobs."""

    async def list_archives(self, *, projects: tuple[int, ...] | None, limit: int, cursor: str | None = None) -> Page:
        """Closed jobs with their retention."""

    async def get_archive(self, job_id: str) -> Row | None:
        """One of them."""

    async def list_sessions(
        self,
        *,
        status: tuple[str, ...] = (),
        projects: tuple[int, ...] | None,
        limit: int,
        cursor: str | None = None,
    ) -> Page:
        """Agent workflow sessions with their agents, newest first."""

    async def get_session(self, session_id: str, *, projects: tuple[int, ...] | None = None) -> Row | None:
        """The newest session of that name, of some projects or (``None``) of all."""

    async def models_health(self, *, window_s: float) -> Sequence[Row]:
        """Models heard of within the window."""

    async def model_health(self, model: str) -> Row | None:
        """One model with its history."""

    async def stats(self, *, projects: tuple[int, ...] | None = None, as_of: int | None = None) -> Row:
        """Counts, throughput, latency, success rates."""

    async def grid(self, project_id: int) -> Row:
        """Subjects × stages."""

    async def projections_status(self) -> Sequence[Row]:
        """Name, version, sequence, lag of each projection."""

    async def wait_for(self, min_seq: int, timeout_s: float) -> bool:
        """Whether the read models have ``min_seq`` within the time."""


@dataclass(slots=True)
class OutputMessage:
    """One decrypted message of output. ``seq`` is its sequence in ``AURA_OUTPUT`` (the cursor); records carry ``i``
    and ``ts``. Not frozen, as that would triple the price of making one, but nobody changes it."""

    seq: int
    attempt: int
    kind: OutputKind
    records: Sequence[Mapping[str, Any]]
    stored_at_ns: int = 0


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

    async def watch_all(self, kind: OutputKind, sink: OutputSink) -> Stop:
        """Push new messages of one kind of all jobs, best effort."""

    async def last_seq(self) -> int:
        """The newest cursor of all output; 0 for none. Raises ``Unavailable``."""

    async def newest(self, project: int, job_id: str) -> int:
        """The newest cursor of one job's output, of whatever attempt; 0 for none. Raises ``Unavailable``."""


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


OnEnd = Callable[[int, str], None]
"""``(close code, reason)``: 4401 the credentials no longer hold, 4403 they no longer suffice. Called in the event loop, once."""


class LiveAccess(Protocol):
    """Who may follow what, live (``access/live.py``). In mode ``open`` everybody may follow everything and nothing ever ends."""

    async def admit(
        self, scope: Mapping[str, Any], first_message: str | bytes | None, action: str = "log.follow"
    ) -> Principal | None:
        """At the handshake with ``first_message=None``: the principal of the request's headers, or ``None`` when the client has yet to
        send ``{"op":"auth","ticket":"…"}`` as its first message, with which this is then called again (never ``None``).

        Raises ``Unauthenticated`` (4401), ``Forbidden`` (4403), ``Overloaded``, ``Unavailable``.
        """

    def visible(self, principal: Principal) -> tuple[str, ...]:
        """The subject patterns that together are all it may follow; ``subjects.EVERYTHING`` when that is everything."""

    def may_follow(self, principal: Principal, pattern: str) -> bool:
        """Whether a pattern of a client lies within what is visible."""

    def no_ticket(self, scope: Mapping[str, Any]) -> None:
        """A client was to send a ticket and did not: a failed attempt of its address."""

    def denied(self, principal: Principal, action: str, target: str) -> None:
        """An authenticated principal was refused."""

    def watch(self, principal: Principal, on_end: OnEnd) -> Callable[[], None]:
        """Call ``on_end`` when the principal's credentials expire or are revoked. Returns how to stop, safe at any time."""


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

    def age_s(self) -> float:
        """How many seconds ago everything that the log had was delivered here."""


MakeTail = Callable[[int, Callable[[list[Recorded]], None], Callable[[AuraError], None]], Tail]
"""``(from_seq, on_batch, on_end)`` → a tail that is not started yet."""
