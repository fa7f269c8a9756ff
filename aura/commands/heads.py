"""Heads: the last known event of recently used entities, so that most commands decide without a read.

A head may be stale: every append is guarded by the sequence it was decided on, so staleness costs a retry, never a wrong event.
A *refusal* or a "nothing to do" decided on a cached head is decided again on a consistent read before it is answered
(``handler.py``). Bounded: the least recently used entity is forgotten.

The cache is fed by our own appends and, where the process follows the log anyway (the gateway), by :meth:`HeadCache.observe`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from msgspec.structs import replace

from aura.domain import job_state
from aura.domain.job import evolve
from aura.domain.job_state import JobState
from aura.errors import NotFound, PoisonEvent
from aura.events import catalogue, envelope, subjects
from aura.log.store import EventStore, Recorded


@dataclass(frozen=True, slots=True)
class JobHead:
    """A job at the sequence of its last event."""

    project: int
    job_id: str
    seq: int
    state: JobState


class HeadCache:
    """Least-recently-used heads of jobs, at most ``limit``."""

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._heads: OrderedDict[str, JobHead | Recorded] = OrderedDict()

    def get(self, job_id: str) -> JobHead | None:
        """The head, decoded on first use; ``None`` when unknown or not decodable without folding."""
        found = self._heads.get(job_id)
        if found is None:
            return None
        self._heads.move_to_end(job_id)
        if isinstance(found, JobHead):
            return found
        head = carried_head(found)
        if head is None:
            del self._heads[job_id]
            return None
        self._heads[job_id] = head
        return head

    def put(self, head: JobHead) -> None:
        """Remember a head unless a newer one is known."""
        self._store(head.job_id, head.seq, head)

    def observe(self, recorded: Recorded) -> None:
        """Take a committed event of any kind from the feed; only jobs that are remembered, or new, cost anything."""
        if recorded.subject.startswith("aura.job."):
            self._store(recorded.subject.split(".", 4)[3], recorded.seq, recorded)

    def forget(self, job_id: str) -> None:
        """Drop a head that proved stale."""
        self._heads.pop(job_id, None)

    def clear(self) -> None:
        """Forget all: the log is another one (new epoch)."""
        self._heads.clear()

    def _store(self, job_id: str, seq: int, value: JobHead | Recorded) -> None:
        known = self._heads.get(job_id)
        if known is not None:
            if known.seq < seq:
                self._heads[job_id] = value
                self._heads.move_to_end(job_id)
            return
        self._heads[job_id] = value
        if len(self._heads) > self._limit:
            self._heads.popitem(last=False)


def carried_head(recorded: Recorded) -> JobHead | None:
    """The head that an event carries; ``None`` when its ``state`` has another version. Raises ``PoisonEvent``."""
    where = subjects.parse(recorded.subject)
    try:
        flat = recorded.decode()
        state = job_state.from_json(flat.get("state") or {})
    except (ValueError, KeyError, TypeError) as error:
        raise PoisonEvent("no readable state", seq=recorded.seq, subject=recorded.subject) from error
    if state is None or where.project is None:
        return None
    return JobHead(where.project, where.entity, recorded.seq, job_state.placed(state, recorded.seq))


async def load_job(store: EventStore, job_id: str, *, consistent: bool = False) -> JobHead:
    """Load a job: one read, or a fold of its history when the carried state has another version. Raises ``NotFound``."""
    last = await store.last(subjects.job_anywhere(job_id), consistent=consistent)
    if last is None:
        raise NotFound("job", job_id)
    return carried_head(last) or await fold_job(store, subjects.parse(last.subject), job_id)


async def fold_job(store: EventStore, where: subjects.Subject, job_id: str, *, to_seq: int | None = None) -> JobHead:
    """Fold a job's whole history up to ``to_seq``: the truth that the carried state is checked against."""
    project = subjects.check_project(where.project)
    state: JobState | None = None
    seq = 0
    async for batch in store.read(subject=subjects.job_guard(project, job_id), to_seq=to_seq):
        for recorded in batch:
            event, flat = envelope.unseal(recorded.body, seq=recorded.seq, subject=recorded.subject)
            state = step(state, event, flat, recorded.seq)
            seq = recorded.seq
    if state is None:
        raise NotFound("job", job_id)
    return JobHead(project, job_id, seq, state)


def step(state: JobState | None, event: catalogue.Event, flat: dict[str, object], seq: int) -> JobState:
    """One step of the fold, idempotency keys included (they are facts of the event's state, not of its own fields)."""
    if type(event) not in catalogue.JOB_EVENTS:
        raise PoisonEvent("not a job event", seq=seq)
    folded = evolve(state, event)  # type: ignore[arg-type]  # membership of JOB_EVENTS was checked above
    carried = flat.get("state")
    if isinstance(carried, dict):
        used = carried.get("keys") or []
        if used and str(used[-1]).endswith(".0"):
            key, body, _ = str(used[-1]).split(".")
            folded = folded.remembering(job_state.seen_key(key, body))
        if carried.get("v") == job_state.STATE_VERSION and len(used) < len(folded.keys):
            # What 512 bytes could not hold is forgotten, in the longer form of its time: the carried state says how many it kept.
            folded = replace(folded, keys=folded.keys[len(folded.keys) - len(used) :])
    return job_state.placed(job_state.fitting(folded), seq)
