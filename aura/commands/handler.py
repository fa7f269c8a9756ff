"""The one place where ``decide`` meets the log: load → decide → append → bounded retry.

Protocol of :meth:`JobHandler.execute`:

1. Load the head (cache, else one read).
2. A remembered idempotency key answers at once: the same body → the first answer, another body → ``KeyReused``.
3. ``decide``. A refusal or "already so" that rests on a possibly stale head is decided again on a consistent read.
4. Append under the job's guard with the head's sequence. ``WrongExpectedSequence`` → somebody was first: reload, decide anew,
   at most :data:`MAX_CONFLICTS` times, then ``Unavailable``. The event's id is made once per decision; the store resolves lost
   acknowledgements with that id, so a command is never applied twice (G2).

A caller that got ``Unavailable`` does not know the outcome and repeats with the same idempotency key.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aura.clock import Clock, rfc3339
from aura.commands.heads import HeadCache, JobHead, load_job
from aura.domain import job_state
from aura.domain.job import decide, evolve
from aura.domain.job_commands import JobCommand
from aura.domain.job_state import JobState, seen_key
from aura.errors import KeyReused, Refused, Unavailable, WrongExpectedSequence
from aura.events import envelope, subjects
from aura.events.catalogue import Event, JobAssigned, JobEvent
from aura.ids import IdSource
from aura.log.store import Append, EventStore

_TRACE_ID = re.compile(r"[0-9a-f]{32}\Z")
#: How often one command may lose the race for its job before it is answered 503.
MAX_CONFLICTS = 16


@dataclass(frozen=True, slots=True)
class KeyUse:
    """Keyed hashes (``ContentStore.fingerprint``) of an idempotency key and of the request it came with."""

    key: str
    body: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and for which request. ``actor`` is well formed (``envelope.check_actor``).

    ``owner``: where callers are authenticated over HTTP, whose leases are its own. ``projects``: those it is limited to (``None`` =
    none are foreign); what is asked about one named job or project was checked before.
    """

    actor: str
    correlation_id: str
    causation_id: str
    idempotency_key: str | None = None
    owner: str | None = None
    projects: frozenset[int] | None = None

    @property
    def trace_id(self) -> str | None:
        """The correlation id, where it is a W3C trace id."""
        return self.correlation_id if _TRACE_ID.match(self.correlation_id) else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command led to. ``event`` is ``None`` when it was already so, or (``repeated``) when a key was seen before;
    ``seq`` is the sequence of the event that made it so."""

    head: JobHead
    seq: int
    event: Event | None
    repeated: bool = False


#: A command, or how to make one from the head it will be decided on.
Intent = JobCommand | Callable[[JobHead], Awaitable[JobCommand]]


class JobHandler:
    """Executes commands on jobs. Safe to use from many tasks at once, and from many processes."""

    def __init__(self, store: EventStore, clock: Clock, ids: IdSource, heads: HeadCache | None = None) -> None:
        self.store = store
        self.clock = clock
        self.ids = ids
        self.heads = heads if heads is not None else HeadCache()

    async def head(self, job_id: str, *, consistent: bool = False) -> JobHead:
        """The job's head. Raises ``NotFound``, ``Unavailable``."""
        if not consistent:
            known = self.heads.get(job_id)
            if known is not None:
                return known
        head = await load_job(self.store, job_id, consistent=consistent)
        self.heads.put(head)
        return head

    async def execute(self, job_id: str, intent: Intent, caller: Caller, key: KeyUse | None = None) -> Outcome:
        """Decide and append. Raises ``NotFound``, ``Conflict``, ``Fenced``, ``Forbidden``, ``KeyReused``, ``Unavailable``."""
        head = await self.head(job_id)
        fresh = False
        for _ in range(MAX_CONFLICTS):
            if key is not None and (seen := head.state.key_seen(key.key)) is not None:
                if not seen.of_request(key.body):
                    raise KeyReused("this Idempotency-Key was used with another request")
                return Outcome(head, seen.seq, None, repeated=True)
            try:
                command = await intent(head) if callable(intent) else intent
                events = decide(head.state, command, now=self.clock.now())
            except Refused:
                if fresh:
                    raise
                events = []
            if not events:
                if fresh:
                    return Outcome(head, head.seq, None)
                head, fresh = await self.head(job_id, consistent=True), True
                continue
            append, state = self.prepare(head, events[0], caller, key)
            try:
                seq = await self.store.append(append)
            except WrongExpectedSequence:
                self.heads.forget(job_id)
                head, fresh = await self.head(job_id, consistent=True), True
                continue
            return self.committed(head, events[0], state, seq)
        raise Unavailable("the job is changing too fast; try again")

    def prepare(
        self, head: JobHead, event: JobEvent, caller: Caller, key: KeyUse | None = None
    ) -> tuple[Append, JobState]:
        """The guarded append of one event that was decided on ``head``, and the state it carries."""
        state = evolve(head.state, event)
        if key is not None:
            state = state.remembering(seen_key(key.key, key.body))
        state = job_state.fitting(state)
        return self.seal(head.project, head.job_id, event, state, caller, expected_seq=head.seq), state

    def seal(
        self, project: int, job_id: str, event: Event, state: JobState, caller: Caller, *, expected_seq: int
    ) -> Append:
        """One job event, ready to append."""
        event_id = self.ids.uuid7()
        stamp = envelope.Stamp(
            ts=rfc3339(self.clock.now()),
            actor=caller.actor,
            correlation_id=state.trace or caller.correlation_id,
            causation_id=caller.causation_id,
        )
        body = envelope.seal(
            event,
            event_id=event_id,
            stamp=stamp,
            ids={"project_id": project, "job_id": job_id},
            state=job_state.to_json(state),
        )
        model = event.assigned_model if isinstance(event, JobAssigned) else None
        return Append(
            subject=subjects.job_event(project, job_id, event.TYPE, model=model),
            guard=subjects.job_guard(project, job_id),
            expected_seq=expected_seq,
            event_id=event_id,
            body=body,
        )

    def committed(self, head: JobHead, event: Event, state: JobState, seq: int) -> Outcome:
        """Remember the new head."""
        new = JobHead(head.project, head.job_id, seq, job_state.placed(state, seq))
        self.heads.put(new)
        return Outcome(new, seq, event)
