"""The projection ``sessions``: one row per agent workflow session, and one per agent of it.

Columns of ``sessions`` come from the carried state of the session's last event (always) and from single events (times, error, result);
an agent's row is written anew when the agent starts (``started_seq`` is given) and changed when it ends. ``None`` means "as it was", ``""``
and ``-1`` empty a column (``write_sessions.sql``).
"""

from __future__ import annotations

from typing import Any

from aura.projections.decoding import LogEvent
from aura.projections.projection import Projection, Table, Write

_ENDS = frozenset({"session.completed", "session.failed", "session.cancelled"})
#: What empties the columns of an end when the session runs again.
_NOT_ENDED = {"error_code": "", "message": "", "ended_by": "", "reason": "", "output_bytes": -1}


class SessionsFold:
    """One batch of session events."""

    def __init__(self, some_seq: int) -> None:
        del some_seq  # nothing here is kept per block
        self._sessions: dict[tuple[int | None, str], dict[str, Any]] = {}
        self._agents: dict[tuple[int | None, str, str], dict[str, Any]] = {}

    def add(self, event: LogEvent) -> None:
        state = event.state
        key = event.project, event.entity
        carried = {
            "project_id": event.project,
            "session_id": event.entity,
            "workflow": state["workflow"],
            "job_id": state["job_id"],
            "status": state["status"],
            "attempt": state.get("attempt", 0),
            "updated_at": event.body.ts,
            "seq": event.seq,
            "state": state,
        }
        own = _own(event)
        agent = _agent(event) if event.type.startswith("session.agent_") else None
        row = self._sessions.setdefault(key, {})
        first = {name: row[name] for name in ("started_seq", "started_at", "input_bytes") if row.get(name) is not None}
        row.update(carried | own | first)
        if agent is not None:
            name = (*key, agent["agent"])
            if event.type == "session.agent_started":
                self._agents[name] = agent
            else:
                self._agents.setdefault(name, {}).update(agent)

    def writes(self) -> list[Write]:
        found = []
        if self._sessions:
            found.append(Write("projections/sessions/write_sessions", list(self._sessions.values())))
        if self._agents:
            found.append(Write("projections/sessions/write_agents", list(self._agents.values())))
        return found


def _own(event: LogEvent) -> dict[str, Any]:
    """The columns that one type of event settles."""
    flat = event.flat
    if event.type == "session.started":
        content = flat.get("input")
        return {
            "started_seq": event.seq,
            "started_at": event.body.ts,
            "input_bytes": content["bytes"] if content else None,
            "ended_at": None,
            **_NOT_ENDED,
        }
    if event.type not in _ENDS:
        return {}
    output = flat.get("output")
    return {
        "ended_at": event.body.ts,
        "error_code": flat.get("error_code") or "",
        "message": flat.get("message") or "",
        "ended_by": flat.get("by") or "",
        "reason": flat.get("reason") or "",
        "output_bytes": output["bytes"] if output else -1,
    }


def _agent(event: LogEvent) -> dict[str, Any]:
    flat, state = event.flat, event.state
    row: dict[str, Any] = {
        "project_id": event.project,
        "session_id": event.entity,
        "agent": flat["agent"],
        "attempt": flat.get("attempt") or state.get("attempt", 0),
        "seq": event.seq,
    }
    if event.type == "session.agent_started":
        return row | {"status": "RUNNING", "started_at": event.body.ts, "started_seq": event.seq}
    output = flat.get("output")
    done = event.type == "session.agent_completed"
    return row | {
        "status": "COMPLETED" if done else "FAILED",
        "ended_at": event.body.ts,
        "duration_ms": flat.get("duration_ms"),
        "error_code": flat.get("error_code"),
        "message": flat.get("message"),
        "output_bytes": output["bytes"] if output else None,
        "output_digest": output["digest"] if output else None,
        "output_part": output.get("part") if output else None,
    }


SESSIONS = Projection(
    name="sessions",
    tables=(
        Table("sessions", ("project_id", "session_id")),
        Table("session_agents", ("project_id", "session_id", "agent")),
    ),
    fold=SessionsFold,
    kinds=frozenset({"session"}),
)
