"""The model decider: a model is a pool of workers that share a name. Pure.

::

    (none) ─registered→ REGISTERED ─online→ ONLINE ⇄ DEGRADED ─offline→ OFFLINE ─online→ ONLINE
    any of them ─paused→ the same, paused: gets nothing new ─resumed→ as before

Health changes are facts that the scheduler's leader concludes from heartbeats (``log/health.py``); heartbeats themselves are not
in the log. A model that was never seen stays REGISTERED (or has no events at all) and may still be given work (DECISIONS.md,
Pools); one that was seen and went OFFLINE gets nothing new. Saying what is already so is ``[]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from aura.errors import Conflict
from aura.events import catalogue as e

STATE_VERSION = 1


class ModelStatus(StrEnum):
    """Where a model is."""

    REGISTERED = "registered"
    ONLINE = "online"
    DEGRADED = "degraded"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the decider knows. ``slots`` is what the last registration declared, per worker."""

    status: ModelStatus
    slots: int = 1
    roles: tuple[str, ...] = ()
    paused: bool = False


@dataclass(frozen=True, slots=True)
class RegisterModel:
    """Declare a model; declaring it again with other facts is a new registration."""

    slots: int = 1
    roles: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ReportOnline:
    """A worker of it is heartbeating and well."""


@dataclass(frozen=True, slots=True)
class ReportDegraded:
    """Heartbeats report trouble."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReportOffline:
    """Nobody heard of for three intervals (or all workers said goodbye)."""

    reason: str
    last_seen: str | None = None


@dataclass(frozen=True, slots=True)
class PauseModel:
    """Stop new assignments."""

    by: str


@dataclass(frozen=True, slots=True)
class ResumeModel:
    """Let assignments go on."""

    by: str


ModelCommand = RegisterModel | ReportOnline | ReportDegraded | ReportOffline | PauseModel | ResumeModel


def decide(state: ModelState | None, command: ModelCommand, *, now: datetime) -> list[e.ModelEvent]:
    """The events that ``command`` leads to. Raises ``Conflict`` for anything but a registration of an unknown model."""
    del now  # no rule of a model depends on the time
    if isinstance(command, RegisterModel):
        if state is not None and (state.slots, state.roles) == (command.slots, command.roles):
            return []
        return [e.ModelRegistered(roles=list(command.roles), slots=command.slots, labels=dict(command.labels))]
    if state is None:
        raise Conflict("the model is not registered")
    match command:
        case ReportOnline():
            return [] if state.status is ModelStatus.ONLINE else [e.ModelOnline()]
        case ReportDegraded(reason):
            return [] if state.status is ModelStatus.DEGRADED else [e.ModelDegraded(reason=reason)]
        case ReportOffline(reason, last_seen):
            if state.status in (ModelStatus.OFFLINE, ModelStatus.REGISTERED):
                return []
            return [e.ModelOffline(reason=reason, last_seen=last_seen)]
        case PauseModel(by):
            return [] if state.paused else [e.ModelPaused(by=by)]
        case ResumeModel(by):
            return [e.ModelResumed(by=by)] if state.paused else []
        case _:
            assert_never(command)


def evolve(state: ModelState | None, event: e.ModelEvent) -> ModelState:
    """The state after ``event``. Total."""
    state = state if state is not None else ModelState(status=ModelStatus.REGISTERED)
    match event:
        case e.ModelRegistered(roles=roles, slots=slots):
            return replace(state, slots=slots, roles=tuple(roles))
        case e.ModelOnline():
            return replace(state, status=ModelStatus.ONLINE)
        case e.ModelDegraded():
            return replace(state, status=ModelStatus.DEGRADED)
        case e.ModelOffline():
            return replace(state, status=ModelStatus.OFFLINE)
        case e.ModelPaused():
            return replace(state, paused=True)
        case e.ModelResumed():
            return replace(state, paused=False)
        case _:
            assert_never(event)


def to_json(state: ModelState) -> dict[str, Any]:
    """The carried form."""
    return {
        "v": STATE_VERSION,
        "status": state.status.value,
        "slots": state.slots,
        "roles": list(state.roles),
        "paused": state.paused,
    }


def from_json(flat: Mapping[str, Any]) -> ModelState | None:
    """Inverse of :func:`to_json`; ``None`` for another version of the state."""
    if flat.get("v") != STATE_VERSION:
        return None
    return ModelState(ModelStatus(flat["status"]), flat["slots"], tuple(flat["roles"]), flat["paused"])
