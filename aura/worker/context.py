"""What a handler gets: the job, and the ways to speak while it works."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import orjson

from aura.errors import InvalidRequest
from aura.events.limits import MAX_DATA
from aura.events.subjects import check_name

if TYPE_CHECKING:
    from aura.events.catalogue import StageStatus
    from aura.worker.attempt import Attempt

Level = Literal["DEBUG", "INFO", "PROGRESS", "SUCCESS", "WARNING", "ERROR"]
LEVELS: frozenset[str] = frozenset({"DEBUG", "INFO", "PROGRESS", "SUCCESS", "WARNING", "ERROR"})
#: Most characters in one record; longer text is split over several.
MAX_CHUNK = 64 * 1024


class Snoozed(BaseException):
    """Ends a handler on :meth:`JobContext.snooze`. Not an ``Exception``, so that ``except Exception`` does not swallow it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Submitted(dict[str, Any]):
    """Returned instead of a plain ``dict``: the details of a result that waits for a person's verdict (accept or reject)."""


class JobContext:
    """One attempt of one job, in the hands of its handler.

    ``payload`` is the task's payload (any JSON), ``attempt`` counts from 1, ``job_id`` and ``model`` are names, ``seq`` is the
    sequence of the claim (``GET /jobs/{id}?min_seq=`` then sees at least that). ``traceparent`` is the W3C trace context that the request
    began which submitted the job: pass it on to what the handler calls. ``None`` when the job has none.
    """

    __slots__ = (
        "_attempt",
        "_cancelled",
        "attempt",
        "job_id",
        "model",
        "payload",
        "project_id",
        "seq",
        "traceparent",
        "worker_id",
    )

    def __init__(self, attempt: Attempt, claim: dict[str, Any], *, model: str, worker_id: str) -> None:
        self.payload: Any = claim["payload"]
        self.job_id: str = claim["job_id"]
        self.project_id: int = claim["project_id"]
        self.attempt: int = claim["attempt"]
        self.seq: int = claim["seq"]
        self.traceparent: str | None = claim.get("traceparent")
        self.model = model
        self.worker_id = worker_id
        self._attempt = attempt
        self._cancelled: asyncio.Event | None = None

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the job was cancelled, its lease lost, or the worker's grace is over. By default the handler's task is
        cancelled too (``Worker(cancel_tasks=False)`` leaves it to this event)."""
        if self._cancelled is None:
            self._cancelled = asyncio.Event()
            if self._attempt.interrupted is not None:
                self._cancelled.set()
        return self._cancelled

    def signal_cancelled(self) -> None:
        """For the worker: set :attr:`cancelled` if anybody looks at it."""
        if self._cancelled is not None:
            self._cancelled.set()

    async def stream(self, text: str, *, final: bool = False) -> None:
        """Add ``text`` to the job's output. Returns at once unless the output is far behind (back-pressure)."""
        text = _sound(text)
        if self._attempt.join(text, final):
            return
        for start in range(0, len(text) or 1, MAX_CHUNK):
            piece = text[start : start + MAX_CHUNK]
            last = start + MAX_CHUNK >= len(text)
            if piece or final:
                await self._attempt.write("stream", {"chunk": piece, "final": final and last})

    async def log(self, line: str, level: Level = "INFO") -> None:
        """Add one log line. Raises ``InvalidRequest`` for an unknown level."""
        if level not in LEVELS:
            raise InvalidRequest(f"level must be one of {', '.join(sorted(LEVELS))}", field="level")
        line = _sound(line)
        for start in range(0, len(line) or 1, MAX_CHUNK):
            await self._attempt.write("log", {"level": level, "line": line[start : start + MAX_CHUNK]})

    async def progress(
        self, percent: float, step: str = "", agent: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Say how far the job is: ``percent`` 0–100 (clamped), ``step`` what is being done (≤ 300 characters). In a workflow ``agent``
        names who says so (1–64 of ``A-Za-z0-9_-``); ``data`` is a JSON object (≤ 4 KiB) for whoever watches. Raises ``InvalidRequest``."""
        record: dict[str, Any] = {"percent": min(100.0, max(0.0, float(percent))), "step": _sound(step)[:300]}
        if agent is not None:
            record["agent"] = check_name(agent, "agent")
        if data is not None:
            record["data"] = _small(data)
        await self._attempt.write("progress", record)

    async def session(self, event: str, **fields: Any) -> dict[str, Any]:
        """Report one step of the session that the job belongs to: an event in the log (``started``, ``agent_started``, ``agent_completed``,
        ``agent_failed``; fields as in ``commands/requests.SessionReport``). The answer is ``{session_id, status, seq}``, or ``{}``
        once the attempt is no longer ours. Raises ``Refused``."""
        return await self._attempt.tell_session(event, fields)

    async def stage(self, name: str, status: StageStatus = "running") -> None:
        """Report one stage of a pipeline (``not_run``, ``running``, ``done``, ``failed``): an event in the log."""
        await self._attempt.change_stage(name, status)

    async def snooze(self, seconds: float) -> NoReturn:
        """Give the job back, to be run again after ``seconds``; spends no attempt. Ends the handler."""
        raise Snoozed(max(0.0, seconds))


def _sound(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates (undecodable file names, broken JSON) become ``?``."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _small(data: Mapping[str, Any]) -> dict[str, Any]:
    try:
        size = len(orjson.dumps(dict(data)))
    except TypeError as error:
        raise InvalidRequest("data is not JSON that can be stored", field="data") from error
    if size > MAX_DATA:
        raise InvalidRequest(f"data is {size} bytes; the limit is {MAX_DATA}", field="data")
    return dict(data)
