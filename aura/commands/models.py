"""Commands on models: the same protocol as for jobs (``handler.py``), for an entity that changes rarely and is not cached.

A registration adds: the roles of a model are the union of what its workers declare (at most :data:`MAX_ROLES`, the first stay), so
workers that declare different roles do not take turns at rewriting them. There are at most :data:`MAX_MODELS` models: each is a
durable consumer on the server. Counted are those registered in the log, and those this process has made a pool for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aura.clock import Clock, rfc3339
from aura.commands.handler import MAX_CONFLICTS, Caller
from aura.domain import model as domain
from aura.errors import InvalidRequest, PoisonEvent, Refused, Unavailable, WrongExpectedSequence
from aura.events import catalogue, envelope, subjects
from aura.ids import IdSource
from aura.log.store import Append, EventStore

MAX_MODELS = 1_000
MAX_ROLES = 16


def joined(state: domain.ModelState | None, roles: Sequence[str]) -> tuple[str, ...]:
    """The roles of a model that declares ``roles`` (again): what is known first, in its order."""
    known = state.roles if state is not None else ()
    return (*known, *sorted(set(roles) - set(known)))[:MAX_ROLES]


class ModelHandler:
    """Executes commands on models."""

    def __init__(self, store: EventStore, clock: Clock, ids: IdSource) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._named: set[str] = set()
        self._read_to = 0

    async def admit(self, model: str) -> None:
        """Count a model that is about to get a pool. Raises ``InvalidRequest`` for a bad name, and for one model too many."""
        subjects.check_name(model, "model")
        if model in self._named:
            return
        registered = subjects.model_event("*", catalogue.ModelRegistered.TYPE)
        async for batch in self._store.read(self._read_to + 1, subject=registered):
            self._named.update(subjects.parse(recorded.subject).entity for recorded in batch)
            self._read_to = batch[-1].seq
        if model not in self._named and len(self._named) >= MAX_MODELS:
            raise InvalidRequest(f"there are {MAX_MODELS} models; no more are made", field="model")
        self._named.add(model)

    async def load(self, model: str, *, consistent: bool = False) -> tuple[int, domain.ModelState | None]:
        """Sequence and state of a model; ``(0, None)`` when it has no events."""
        last = await self._store.last(subjects.model_guard(model), consistent=consistent)
        if last is None:
            return 0, None
        carried = domain.from_json(last.decode().get("state") or {})
        return last.seq, carried if carried is not None else await self._fold(model)

    async def execute(self, model: str, command: domain.ModelCommand, caller: Caller) -> int:
        """Decide and append; returns the sequence at which it is so (0: nothing ever happened to the model).

        Raises ``InvalidRequest`` for a bad name, ``Conflict``, ``Unavailable``.
        """
        subjects.check_name(model, "model")
        seq, state = await self.load(model)
        if state is None and isinstance(command, domain.RegisterModel):
            await self.admit(model)
        fresh = False
        for _ in range(MAX_CONFLICTS):
            if isinstance(command, domain.RegisterModel):
                command = replace(command, roles=joined(state, command.roles))
            try:
                events = domain.decide(state, command, now=self._clock.now())
            except Refused:
                if fresh:
                    raise
                events = []
            if not events:
                if fresh:
                    return seq
            else:
                try:
                    return await self._store.append(self._seal(model, events[0], state, seq, caller))
                except WrongExpectedSequence:
                    pass
            seq, state = await self.load(model, consistent=True)
            fresh = True
        raise Unavailable("the model is changing too fast; try again")

    def _seal(
        self, model: str, event: catalogue.ModelEvent, state: domain.ModelState | None, seq: int, caller: Caller
    ) -> Append:
        event_id = self._ids.uuid7()
        stamp = envelope.Stamp(rfc3339(self._clock.now()), caller.actor, caller.correlation_id, caller.causation_id)
        body = envelope.seal(
            event,
            event_id=event_id,
            stamp=stamp,
            ids={"model": model},
            state=domain.to_json(domain.evolve(state, event)),
        )
        return Append(subjects.model_event(model, event.TYPE), subjects.model_guard(model), seq, event_id, body)

    async def _fold(self, model: str) -> domain.ModelState | None:
        state: domain.ModelState | None = None
        async for batch in self._store.read(subject=subjects.model_guard(model)):
            for recorded in batch:
                event, _ = envelope.unseal(recorded.body, seq=recorded.seq, subject=recorded.subject)
                if type(event) not in catalogue.MODEL_EVENTS:
                    raise PoisonEvent("not a model event", seq=recorded.seq, subject=recorded.subject)
                state = domain.evolve(state, event)  # type: ignore[arg-type]  # membership was checked above
        return state
