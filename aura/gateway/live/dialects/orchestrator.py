"""An agent workflow as five kinds of message: ``agent_status, progress, complete, error, heartbeat``. Pure.

Each message has ``type``, ``timestamp`` (of the event or record it tells) and ``session_id``. A session's events come from the log, its
progress from the output of its job; the job's feed has already merged them. ``complete`` carries the job's result, which a pure
translator cannot fetch: :attr:`Orchestrator.ending` says that it is due, the shell fetches it, :meth:`Orchestrator.complete` words it.

A session that was retried is told on: ``session.started`` begins a run anew, so only the newest run's end is the end.

The session's last event may be committed before the job's: nothing is complete until both have come, because only the job's says how
much progress there is to wait for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import orjson

from aura.domain.job_state import JobStatus
from aura.gateway.live.dialects.job import Position, Shown
from aura.gateway.live.fanout.frames import sse_event, ws_text
from aura.gateway.live.fanout.outlet import Wire
from aura.gateway.live.taps import OutputFrame

_CLOSED = frozenset(status.value for status in JobStatus if status.closed)
_PROGRESS = b'{"type":"job.progress"'
_FAILED = "The workflow could not be finished."
_CANCELLED = "The workflow was cancelled."

Ending = Literal["completed", "failed", "cancelled"]


class Orchestrator:
    """One client's telling. ``wire`` is its framing."""

    by_time: ClassVar[bool] = True

    def __init__(self, session_id: str, wire: Wire) -> None:
        self._session_id = session_id
        self._wire = wire
        self._agent = ""
        self._last: Mapping[str, Any] = {}
        self.ending: Ending | None = None
        """How the newest run of the session ended."""
        self._job_closed = False

    @property
    def over(self) -> bool:
        return self.ending is not None and self._job_closed

    def tell(self, frame: Shown, flat: Mapping[str, Any] | None, position: Position) -> bytes:
        if isinstance(frame, OutputFrame):
            if not frame.note.text.startswith(_PROGRESS):
                return b""
            return self._bytes(self._progress(orjson.loads(frame.note.text)), position)
        message = self._event(flat or {})
        return self._bytes(message, position) if message is not None else b""

    def skip(self, flat: Mapping[str, Any]) -> None:
        self._event(flat)

    def caught_up(self) -> Sequence[bytes]:
        return ()

    def join(self, parts: Sequence[bytes]) -> bytes:
        return b"".join(parts)

    def _event(self, flat: Mapping[str, Any]) -> dict[str, Any] | None:
        match flat.get("type"):
            case "session.started":
                self._agent = _text(flat.get("workflow"))
                self.ending, self._last = None, {}
            case "session.agent_started":
                self._agent = _text(flat.get("agent"))
                return self._status(flat, "Started", 0, {})
            case "session.agent_completed":
                self._agent = _text(flat.get("agent"))
                return self._status(flat, "Completed", 100, {"duration_ms": flat.get("duration_ms")})
            case "session.agent_failed":
                return self._error(flat, _text(flat.get("message")) or _FAILED, _text(flat.get("error_code")))
            case "session.completed":
                self.ending, self._last = "completed", flat
            case "session.failed":
                self.ending, self._last = "failed", flat
            case "session.cancelled":
                self.ending, self._last = "cancelled", flat
            case str() as kind if kind.startswith("job."):
                self._job_closed = _is_closed(flat)
            case _:
                pass
        return None

    def _base(self, kind: str, timestamp: object) -> dict[str, Any]:
        return {"type": kind, "timestamp": timestamp, "session_id": self._session_id}

    def _status(self, flat: Mapping[str, Any], status: str, progress: int, data: dict[str, Any]) -> dict[str, Any]:
        found = self._base("agent_status", flat.get("ts"))
        return found | {"agent": self._agent, "status": status, "progress": progress, "data": data}

    def _progress(self, record: Mapping[str, Any]) -> dict[str, Any]:
        data = record.get("data")
        return self._base("progress", record.get("ts")) | {
            "agent": record.get("agent") or self._agent,
            "status": record.get("step") or "",
            "progress": record.get("percent", 0),
            "data": data if isinstance(data, dict) else {},
        }

    def _error(self, flat: Mapping[str, Any], error: str, details: str) -> dict[str, Any]:
        return self._base("error", flat.get("ts")) | {"error": error, "details": details}

    # --- what the shell says

    def heartbeat(self, timestamp: str) -> bytes:
        """Every 30 seconds."""
        return self._bytes(self._base("heartbeat", timestamp) | {"message": "ping"}, None)

    def complete(self, result: Any, position: Position) -> bytes:
        """The last message: the result, or why there is none."""
        flat = self._last
        if self.ending == "completed":
            done = {
                "agent": self._agent,
                "status": "Complete",
                "progress": 100,
                "data": {} if result is None else result,
            }
            return self._bytes(self._base("complete", flat.get("ts")) | done, position)
        if self.ending == "cancelled":
            return self._bytes(self._error(flat, _CANCELLED, "cancelled"), position)
        message = _text(flat.get("message")) or _FAILED
        return self._bytes(self._error(flat, message, _text(flat.get("error_code"))), position)

    def _bytes(self, message: dict[str, Any], position: Position | None) -> bytes:
        text = orjson.dumps(message)
        if self._wire == "ws":
            return ws_text(text)
        return sse_event(text, position.event_id if position is not None else None)


def _is_closed(flat: Mapping[str, Any]) -> bool:
    """Whether a job's event left it closed."""
    state = flat.get("state")
    status = state.get("status") if isinstance(state, Mapping) else None
    return isinstance(status, str) and status in _CLOSED


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
