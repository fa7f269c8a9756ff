"""What the planner holds per open job, what it decides, and the shapes in which a snapshot hands jobs and models to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from aura.commands.heads import JobHead
from aura.domain.job_commands import JobCommand
from aura.domain.job_state import JobState
from aura.domain.model import ModelCommand

if TYPE_CHECKING:
    from aura.scheduler.pools import Pool
    from aura.scheduler.ready import Lane


@dataclass(frozen=True, slots=True)
class OpenJob:
    """An open job as a snapshot knows it, at the snapshot's checkpoint.

    ``state`` is the carried state of its last event (sequence ``seq``), ``created_seq`` the place in line. ``since_ns`` is the
    store time of the event that led to the present status. ``unmet_deps`` are the jobs it depends on that are not COMPLETED,
    ``failed_deps`` those of them that are FAILED or CANCELLED; both only matter while the job is QUEUED. ``assigned_by`` is
    ``reason.policy`` of the last assignment.
    """

    project: int
    job_id: str
    seq: int
    state: Mapping[str, Any]
    created_seq: int
    since_ns: int
    unmet_deps: tuple[str, ...] = ()
    failed_deps: tuple[str, ...] = ()
    concurrency_key: str | None = None
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    assigned_by: str | None = None


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model as a snapshot knows it: the carried state of its last event and how its attempts have ended so far."""

    name: str
    state: Mapping[str, Any]
    succeeded: int = 0
    failed: int = 0
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SnapshotData:
    """All open jobs and all models at one checkpoint. ``stored_at_ns`` is the store time of the event at ``seq`` (0: none),
    ``sha256`` that of its bytes (empty: none, or not known)."""

    epoch: str
    seq: int
    stored_at_ns: int
    jobs: Iterable[OpenJob]
    models: Iterable[KnownModel]
    sha256: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class JobDecision:
    """A command on a job, decided on exactly this head: it is appended at that sequence or not at all."""

    head: JobHead
    command: JobCommand


@dataclass(frozen=True, slots=True, eq=False)
class ModelDecision:
    """A command on a model."""

    model: str
    command: ModelCommand


Decision = JobDecision | ModelDecision


class Fate(Enum):
    """What became of a decision.

    ``COMMITTED`` and ``MOVED_ON``: an event of the entity later than the head is in the log; it will arrive and say how things
    stand. ``REFUSED``: the decider said no (or nothing was sent), so nothing will arrive. ``UNKNOWN``: the log did not answer; it
    may have stored it.
    """

    COMMITTED = "committed"
    MOVED_ON = "moved on"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class JobRow:
    """One open job. ``ticket`` is its valid place in a ready queue (0: in none), ``pending`` the decision under way."""

    __slots__ = (
        "failed_deps",
        "job_id",
        "key",
        "lane",
        "lease_until",
        "manual",
        "offers",
        "order",
        "pending",
        "pool",
        "project",
        "queue_timeout_s",
        "queue_until",
        "seq",
        "since_ns",
        "state",
        "ticket",
        "timeout_at",
        "timeout_s",
        "trace",
        "unmet",
        "waiting_ns",
    )

    def __init__(
        self, project: int, job_id: str, seq: int, state: JobState, order: int, since_ns: int, trace: str | None
    ) -> None:
        self.project = project
        self.job_id = job_id
        self.seq = seq
        self.state = state
        #: Kept apart, so that many jobs can share a state.
        self.trace = trace
        self.order = order
        #: Store time of the event that led to the present status, and of the one since when the job waits for a start.
        self.since_ns = since_ns
        self.waiting_ns = since_ns
        self.key: tuple[int, str] | None = None
        self.timeout_s: float | None = None
        self.queue_timeout_s: float | None = None
        self.unmet: set[str] | None = None
        self.failed_deps: set[str] | None = None
        self.manual = False
        #: How often it was offered again since it was assigned.
        self.offers = 0
        #: Deadlines on the monotonic clock: of the lease, of the attempt, of the wait (0: not waiting yet).
        self.lease_until = 0.0
        self.timeout_at = 0.0
        self.queue_until = 0.0
        self.pending: JobDecision | None = None
        #: Where it is counted: as assigned, in progress, or (``pending``) reserved.
        self.pool: Pool | None = None
        #: The queue in which it waits for a slot or for its key.
        self.lane: Lane | None = None
        self.ticket = 0

    def head(self) -> JobHead:
        """What a decision on this job is decided on."""
        return JobHead(self.project, self.job_id, self.seq, replace(self.state, trace=self.trace))
