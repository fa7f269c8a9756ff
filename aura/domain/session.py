"""The session decider: one run of an agent workflow, and where its agents are. Pure.

::

    (none) ─started→ RUNNING ─completed→ COMPLETED
                      │ ↑ │ ─failed────→ FAILED ───┐
                      │ │ └─cancelled──→ CANCELLED ─┤
                      │ └────────started────────────┘ (its job was retried: a later attempt reports)
                      └ agent_started, agent_completed, agent_failed

A session belongs to one job for life and ends when that job ends (``commands/session_end.py``); its agents speak through the worker
that leases the job. ``attempt`` is the job's newest attempt heard of: an older one is refused with ``Fenced``, a newer one begins with
no agents, so that what a dead worker left running is never taken for what runs now.

Invariants: an agent completes or fails only after it started in the same attempt; a session that has ended says nothing more until a
later attempt starts it again; the carried state fits 512 bytes (a workflow with more agents than that is refused); a session has at
most :data:`MAX_EVENTS` events (G12), of which the last tenth is kept for ending it.

``decide`` refuses by raising :class:`~aura.errors.Conflict` or :class:`~aura.errors.Fenced`; ``[]`` means "already so". ``evolve`` is
total.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

import orjson
from msgspec import Struct
from msgspec.structs import replace

from aura.errors import Conflict, Fenced
from aura.events import catalogue as e
from aura.events.catalogue import ContentRef

STATE_VERSION = 1
MAX_STATE_BYTES = 512
MAX_EVENTS = 10_000
_REPEATABLE_EVENTS = MAX_EVENTS * 9 // 10
#: What a state may take with one more agent: the numbers in it still grow.
_ROOM = MAX_STATE_BYTES - 8


class SessionStatus(StrEnum):
    """Where a session is."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Nothing more comes unless its job is retried."""
        return self is not SessionStatus.RUNNING


class AgentStatus(StrEnum):
    """Where an agent of the current attempt is."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class SessionState(Struct, frozen=True):
    """What the decider knows. ``attempt`` 0: no worker has reported yet. ``agents`` are those of that attempt."""

    status: SessionStatus
    job_id: str
    workflow: str = ""
    attempt: int = 0
    agents: tuple[tuple[str, AgentStatus], ...] = ()
    count: int = 1

    def agent(self, name: str) -> AgentStatus | None:
        """Where one agent is; ``None`` when it has not started in this attempt."""
        return next((status for known, status in self.agents if known == name), None)


@dataclass(frozen=True, slots=True)
class StartSession:
    """A job's workflow begins. ``attempt`` 0: it was only submitted."""

    job_id: str
    workflow: str
    attempt: int = 0
    input: ContentRef | None = None


@dataclass(frozen=True, slots=True)
class StartAgent:
    """An agent takes over."""

    job_id: str
    attempt: int
    agent: str


@dataclass(frozen=True, slots=True)
class CompleteAgent:
    """It hands back."""

    job_id: str
    attempt: int
    agent: str
    duration_ms: int
    output: ContentRef | None = None


@dataclass(frozen=True, slots=True)
class FailAgent:
    """It failed or took too long. ``message`` is for people and stays in the log: no internals, no content."""

    job_id: str
    attempt: int
    agent: str
    error_code: str
    message: str


@dataclass(frozen=True, slots=True)
class CompleteSession:
    """Its job is COMPLETED."""

    output: ContentRef | None = None


@dataclass(frozen=True, slots=True)
class FailSession:
    """Its job is FAILED."""

    error_code: str
    message: str


@dataclass(frozen=True, slots=True)
class CancelSession:
    """Its job is CANCELLED."""

    by: str
    reason: str = ""


AgentCommand = StartAgent | CompleteAgent | FailAgent
EndCommand = CompleteSession | FailSession | CancelSession
SessionCommand = StartSession | AgentCommand | EndCommand


def decide(state: SessionState | None, command: SessionCommand, *, now: datetime) -> list[e.SessionEvent]:
    """The events that ``command`` leads to. Raises ``Conflict`` (with the status), ``Fenced``."""
    del now  # no rule of a session depends on the time
    if isinstance(command, StartSession):
        return _start(state, command)
    if state is None:
        raise Conflict("the session has not started")
    match command:
        case StartAgent() | CompleteAgent() | FailAgent():
            return _agent(state, command)
        case CompleteSession(output):
            return _end(state, SessionStatus.COMPLETED, e.SessionCompleted(output=output))
        case FailSession(error_code, message):
            return _end(state, SessionStatus.FAILED, e.SessionFailed(error_code=error_code, message=message))
        case CancelSession(by, reason):
            return _end(state, SessionStatus.CANCELLED, e.SessionCancelled(by=by, reason=reason))
        case _:
            assert_never(command)


def _start(state: SessionState | None, command: StartSession) -> list[e.SessionEvent]:
    if state is not None:
        _own(state, command.job_id)
        if command.attempt < state.attempt:
            raise _fenced(state, command.attempt)
        if not state.status.ended:
            return []
        if command.attempt == state.attempt:
            raise Conflict(f"a session that is {state.status} cannot be started", status=state.status)
    attempt = command.attempt or None
    return [
        e.SessionStarted(workflow=command.workflow, job_id=command.job_id, attempt=attempt, input=command.input),
    ]


def _agent(state: SessionState, command: AgentCommand) -> list[e.SessionEvent]:
    _own(state, command.job_id)
    if state.status.ended:
        raise Conflict(f"the session is {state.status}", status=state.status)
    if command.attempt < state.attempt:
        raise _fenced(state, command.attempt)
    known = state.agent(command.agent) if command.attempt == state.attempt else None
    events: list[e.SessionEvent] = []
    match command:
        case StartAgent(agent=agent, attempt=attempt):
            if known is not AgentStatus.RUNNING:
                events = [e.SessionAgentStarted(agent=agent, attempt=attempt)]
        case CompleteAgent(agent=agent, attempt=attempt, duration_ms=duration_ms, output=output):
            _after_start(state, known, AgentStatus.COMPLETED, agent)
            if known is AgentStatus.RUNNING:
                events = [
                    e.SessionAgentCompleted(agent=agent, attempt=attempt, duration_ms=duration_ms, output=output),
                ]
        case FailAgent(agent=agent, attempt=attempt, error_code=code, message=message):
            _after_start(state, known, AgentStatus.FAILED, agent)
            if known is AgentStatus.RUNNING:
                events = [e.SessionAgentFailed(agent=agent, attempt=attempt, error_code=code, message=message)]
        case _:
            assert_never(command)
    if events and state.count >= _REPEATABLE_EVENTS:
        raise Conflict(f"the session has {state.count} events; the limit is {MAX_EVENTS}", status=state.status)
    if events and known is None and len(orjson.dumps(to_json(evolve(state, events[0])))) > _ROOM:
        raise Conflict("the session has too many agents", status=state.status)
    return events


def _after_start(state: SessionState, known: AgentStatus | None, wanted: AgentStatus, agent: str) -> None:
    if known not in (AgentStatus.RUNNING, wanted):
        raise Conflict(f"the agent {agent} is not running", status=state.status)


def _end(state: SessionState, wanted: SessionStatus, event: e.SessionEvent) -> list[e.SessionEvent]:
    if state.status is wanted:
        return []
    if state.status.ended:
        raise Conflict(f"a session that is {state.status} cannot become {wanted}", status=state.status)
    return [event]


def _own(state: SessionState, job_id: str) -> None:
    if state.job_id != job_id:
        raise Conflict("the session belongs to another job", status=state.status)


def _fenced(state: SessionState, attempt: int) -> Fenced:
    return Fenced(
        f"attempt {attempt} is not the current one", status=state.status, attempt=attempt, current=state.attempt
    )


def evolve(state: SessionState | None, event: e.SessionEvent) -> SessionState:
    """The state after ``event``. Total; a history that does not begin with ``session.started`` folds from an empty session."""
    count = 1 if state is None else state.count + 1
    if isinstance(event, e.SessionStarted):
        if state is None:
            job_id = event.job_id or ""
            return SessionState(SessionStatus.RUNNING, job_id, event.workflow, event.attempt or 0, count=count)
        return replace(
            state, status=SessionStatus.RUNNING, attempt=event.attempt or state.attempt, agents=(), count=count
        )
    state = replace(state, count=count) if state is not None else SessionState(SessionStatus.RUNNING, "", count=count)
    match event:
        case e.SessionAgentStarted():
            return _with_agent(state, event, AgentStatus.RUNNING)
        case e.SessionAgentCompleted():
            return _with_agent(state, event, AgentStatus.COMPLETED)
        case e.SessionAgentFailed():
            return _with_agent(state, event, AgentStatus.FAILED)
        case e.SessionCompleted():
            return replace(state, status=SessionStatus.COMPLETED)
        case e.SessionFailed():
            return replace(state, status=SessionStatus.FAILED)
        case e.SessionCancelled():
            return replace(state, status=SessionStatus.CANCELLED)
        case _:
            assert_never(event)


def _with_agent(
    state: SessionState, event: e.SessionAgentStarted | e.SessionAgentCompleted | e.SessionAgentFailed, now: AgentStatus
) -> SessionState:
    attempt = event.attempt if event.attempt is not None else state.attempt
    known = dict(state.agents) if attempt == state.attempt else {}
    known[event.agent] = now
    return replace(state, attempt=attempt, agents=tuple(known.items()))


def to_json(state: SessionState) -> dict[str, Any]:
    """The carried form; an agent's status is its first letter."""
    flat: dict[str, Any] = {
        "v": STATE_VERSION,
        "status": state.status.value,
        "job_id": state.job_id,
        "workflow": state.workflow,
    }
    if state.attempt:
        flat["attempt"] = state.attempt
    if state.agents:
        flat["agents"] = {name: status.value[0] for name, status in state.agents}
    flat["n"] = state.count
    return flat


_LETTERS = {status.value[0]: status for status in AgentStatus}


def from_json(flat: Mapping[str, Any]) -> SessionState | None:
    """Inverse of :func:`to_json`; ``None`` for another version of the state."""
    if flat.get("v") != STATE_VERSION:
        return None
    return SessionState(
        status=SessionStatus(flat["status"]),
        job_id=flat["job_id"],
        workflow=flat["workflow"],
        attempt=flat.get("attempt", 0),
        agents=tuple((name, _LETTERS[letter]) for name, letter in flat.get("agents", {}).items()),
        count=flat["n"],
    )
