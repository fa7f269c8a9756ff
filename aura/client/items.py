"""What a client gets: answers and the items of live feeds. Values; every one keeps the JSON it came from in ``flat``.

Clients ignore fields and types that they do not know: a newer gateway may say more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Statuses in which a job wants nothing more (SUBMITTED waits for a person's verdict).
CLOSED = frozenset({"COMPLETED", "SUBMITTED", "FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Submitted:
    """A stored PRD. ``job_ids`` in the order of its tasks; ``seq`` is the log's sequence after it."""

    root_job_id: str
    job_ids: tuple[str, ...]
    seq: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A job, or a root job (``flat["is_root"]``), as the read model has it at ``seq``."""

    id: str
    project_id: int
    status: str
    title: str
    role: str
    assigned_model: str | None
    seq: int
    flat: dict[str, Any] = field(repr=False, compare=False)

    @property
    def closed(self) -> bool:
        """It ended; only a retry or a verdict changes it."""
        return self.status in CLOSED

    @classmethod
    def of(cls, row: dict[str, Any]) -> Job:
        """From an answer of ``GET /jobs``."""
        return cls(
            id=row["id"],
            project_id=row["project_id"],
            status=row["status"],
            title=str(row.get("title") or ""),
            role=str(row.get("role") or ""),
            assigned_model=row.get("assigned_model"),
            seq=int(row.get("seq") or 0),
            flat=row,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """A committed event. ``flat`` is the stored object (EVENTS.md), ``subject`` where it is stored ("" where a feed does not say)."""

    seq: int
    type: str
    subject: str
    flat: dict[str, Any] = field(repr=False)

    @property
    def status(self) -> str | None:
        """The status of the job, model or session that the event led to."""
        state = self.flat.get("state")
        found = state.get("status") if isinstance(state, dict) else None
        return found if isinstance(found, str) else None

    @property
    def closes(self) -> str | None:
        """The closed status that the event left its job in, else ``None``."""
        status = self.status
        return status if status in CLOSED and self.type.startswith(("job.", "archive.")) else None


@dataclass(frozen=True, slots=True)
class Note:
    """Something live only (a heartbeat): it has no sequence, is not in the log, and is not made up for after an interruption."""

    type: str
    subject: str
    flat: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reset:
    """The feed could not go on where it was (another log, a cursor that the log does not reach): what lies between is unknown. It
    continues after ``seq`` of the log ``epoch``; whoever keeps a picture draws it anew. ``seq`` 0: everything comes again, from the start
    (that is how a watched job goes on)."""

    epoch: str
    reason: str
    seq: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a job's output text. ``i`` counts an attempt's records of all kinds from 0."""

    attempt: int
    i: int
    text: str
    final: bool
    flat: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that a job logged."""

    attempt: int
    i: int
    level: str
    line: str
    flat: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job says it is (0–100), and in an agent's name if it says so."""

    attempt: int
    i: int
    percent: float
    step: str
    flat: dict[str, Any] = field(repr=False)


Record = Chunk | LogLine | Progress


def record_of(flat: dict[str, Any]) -> Record | None:
    """A message of ``/ws/job`` that is output; ``None`` for a kind that this version does not know."""
    attempt, i = int(flat["attempt"]), int(flat["i"])
    match flat.get("type"):
        case "job.stream":
            return Chunk(attempt, i, str(flat.get("chunk", "")), bool(flat.get("final")), flat)
        case "job.log":
            return LogLine(attempt, i, str(flat.get("level", "INFO")), str(flat.get("line", "")), flat)
        case "job.progress":
            return Progress(attempt, i, float(flat.get("percent") or 0.0), str(flat.get("step") or ""), flat)
        case _:
            return None
