"""Are the read models what the log says? Is every carried state what its history leads to?

* :func:`verify` builds a projection a second time beside the live one, compares every row at one sequence, and drops it again.
* :func:`verify_states` folds every entity with the deciders and compares with the ``state`` each event carries. Only states of
  today's version are compared (DECISIONS.md, Loading); the remembered idempotency keys come from commands, not from events, and
  are left out. Memory grows with the number of entities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from aura.domain import job, job_state, model, session
from aura.domain.job_state import JobState
from aura.domain.model import ModelState
from aura.domain.session import SessionState
from aura.errors import PoisonEvent
from aura.events import envelope, subjects
from aura.events.catalogue import JOB_EVENTS, MODEL_EVENTS, SESSION_EVENTS
from aura.log.store import Recorded
from aura.projections.decoding import LogEvent
from aura.projections.projection import LogSource, Projection
from aura.projections.rebuild import Progress, Rebuilt, rebuild

_EXAMPLES = 10


@dataclass(slots=True)
class StateReport:
    """``examples``: the first sequences whose carried state is not the fold. ``unreadable`` events could not be folded at all."""

    events: int = 0
    compared: int = 0
    mismatches: int = 0
    unreadable: int = 0
    examples: list[int] = field(default_factory=list)


async def verify(
    projection: Projection,
    source: LogSource,
    conninfo: str,
    *,
    decode: Callable[[Recorded], LogEvent],
    forgetful: bool = False,
    progress: Progress | None = None,
) -> Rebuilt:
    """Compare a projection with a rebuild of itself; ``differences`` 0 records the sequence as verified."""
    return await rebuild(
        projection, source, conninfo, decode=decode, forgetful=forgetful, switch=False, progress=progress
    )


async def verify_states(
    source: LogSource, *, to_seq: int | None = None, progress: Progress | None = None
) -> StateReport:
    """Fold the whole log and compare. ``progress(seq, of)`` per batch. Raises ``Unavailable``."""
    report = StateReport()
    identity = await source.identity()
    end = identity.last_seq if to_seq is None else min(to_seq, identity.last_seq)
    folder = _Folder(report)
    async for batch in source.read(identity.first_seq, to_seq=end):
        for recorded in batch:
            folder.take(recorded)
        if progress is not None:
            progress(batch[-1].seq, end)
    return report


class _Folder:
    def __init__(self, report: StateReport) -> None:
        self._report = report
        self._jobs: dict[str, JobState] = {}
        self._models: dict[str, ModelState] = {}
        self._sessions: dict[tuple[int | None, str], SessionState] = {}

    def take(self, recorded: Recorded) -> None:
        report = self._report
        report.events += 1
        try:
            subject = subjects.parse(recorded.subject)
            event, flat = envelope.unseal(recorded.body, seq=recorded.seq, subject=recorded.subject)
        except (PoisonEvent, ValueError):
            report.unreadable += 1
            return
        carried = flat.get("state")
        folded: JobState | ModelState | SessionState
        told: JobState | ModelState | SessionState | None
        if subject.kind == "job" and type(event) in JOB_EVENTS:
            folded = job.evolve(self._jobs.get(subject.entity), event)  # type: ignore[arg-type]  # just checked
            self._jobs[subject.entity] = folded
            told = job_state.from_json(carried) if isinstance(carried, dict) else None
            told = replace(told, keys=()) if told is not None else None
        elif subject.kind == "model" and type(event) in MODEL_EVENTS:
            folded = model.evolve(self._models.get(subject.entity), event)  # type: ignore[arg-type]  # just checked
            self._models[subject.entity] = folded
            told = model.from_json(carried) if isinstance(carried, dict) else None
        elif subject.kind == "session" and type(event) in SESSION_EVENTS:
            key = subject.project, subject.entity
            folded = session.evolve(self._sessions.get(key), event)  # type: ignore[arg-type]  # just checked
            self._sessions[key] = folded
            told = session.from_json(carried) if isinstance(carried, dict) else None
        else:
            return
        if told is None:
            return
        report.compared += 1
        if told != folded:
            report.mismatches += 1
            if len(report.examples) < _EXAMPLES:
                report.examples.append(recorded.seq)
