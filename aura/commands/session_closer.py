"""Ends sessions whose jobs have ended, whoever ended the jobs: a worker, a person, the scheduler.

::

    job's last event ──tail──▶ observe ──session known?──▶ settle (SessionOperations.settle) ──refused by nobody──▶ session's last event
    start, and every minute ──▶ sweep: every session that the read model calls RUNNING ──▶ settle, and known from now on

Invariants

* ``settle`` reads session and job consistently, decides, and appends under the session's guard: any number of processes may do it at
  any time, and the session ends once.
* Nothing is remembered that cannot be found again. A process that dies between the job's end and the session's leaves a session that
  is RUNNING in the log and in the read model, and the next sweep, of this process or another, ends it.
* A session is known before its job is looked at, so a job that ends during a sweep is seen by the tail or by the look.
* One session stands for itself: whatever is wrong with it (an event that cannot be read, say), those behind it are settled.

Failure cases: the log does not answer → the sweep gives up, and a minute later asks again. A session that cannot be settled → said in the
log at each sweep, and counted. The read model is behind → sessions that it does not have yet were started within the reach of the tail.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from aura.commands.handler import Caller
from aura.commands.sessions import SessionOperations
from aura.errors import AuraError, LogRegression, Unavailable
from aura.ids import IdSource
from aura.log.store import Recorded

log = structlog.get_logger("aura.commands")

ACTOR = "system:sessions"
#: RUNNING sessions remembered; the sweep finds those beyond.
MAX_KNOWN = 100_000
#: Sessions settled at once.
AT_ONCE = 16
#: So many sessions in a row that were not settled because something does not answer: it is not they, and a sweep ends.
MAX_UNANSWERED = 2 * AT_ONCE
_ENDS = frozenset({"completed", "failed", "lease_expired", "cancelled", "accepted", "rejected"})
_SESSION_ENDS = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class RunningSession:
    """A session that has not ended, and its job."""

    project: int
    session_id: str
    job_id: str


class SessionCloser:
    """See the module docstring. ``check`` raises when the log is not ours any more."""

    def __init__(self, sessions: SessionOperations, ids: IdSource, check: Callable[[], None]) -> None:
        self._sessions = sessions
        self._ids = ids
        self._check = check
        self._known: OrderedDict[str, RunningSession] = OrderedDict()
        self._tasks: set[asyncio.Task[object]] = set()
        self._places = asyncio.Semaphore(AT_ONCE)

    def observe(self, batch: list[Recorded]) -> None:
        """Take a batch of the tail. Never blocks: what has to be written is written by a task."""
        look: dict[str, None] = {}
        for recorded in batch:
            subject = recorded.subject
            if subject.startswith("aura.job."):
                tokens = subject.split(".", 5)
                if tokens[4] in _ENDS and tokens[3] in self._known:
                    look[tokens[3]] = None
            elif subject.startswith("aura.session."):
                tokens = subject.split(".")
                if tokens[4] == "started":
                    look |= self._learn(recorded, int(tokens[2]), tokens[3])
                elif tokens[4] in _SESSION_ENDS:
                    self._known.pop(str(_state(recorded).get("job_id")), None)
        for job_id in look:  # a session that ended in this very batch needs nothing
            if (known := self._known.get(job_id)) is not None:
                self._settle_soon(known)

    async def sweep(self, running: AsyncIterator[list[RunningSession]]) -> int:
        """Settle every session given; returns how many have ended. Those that cannot be settled are told of and passed over. Raises
        ``LogRegression``, and ``Unavailable`` when the log does not answer for :data:`MAX_UNANSWERED` sessions in a row."""
        ended = failed = unanswered = 0
        async for page in running:
            for one in page:
                self._remember(one)
            for start in range(0, len(page), AT_ONCE):
                self._check()
                for outcome in await asyncio.gather(
                    *(self._settle_quietly(one) for one in page[start : start + AT_ONCE])
                ):
                    unanswered = unanswered + 1 if isinstance(outcome, Unavailable) else 0
                    if isinstance(outcome, Exception):
                        failed += 1
                        if isinstance(outcome, LogRegression) or unanswered == MAX_UNANSWERED:
                            raise outcome
                    else:
                        ended += outcome
        if failed:
            log.warning("sessions.not_settled", count=failed)
        return ended

    async def stop(self) -> None:
        """Give up what is under way; the next sweep finishes it. Safe twice."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _learn(self, recorded: Recorded, project: int, session_id: str) -> dict[str, None]:
        """Remember a session; one that a worker started is looked at, since its job may have ended just before."""
        state = _state(recorded)
        job_id = state.get("job_id")
        if not isinstance(job_id, str):
            return {}
        self._remember(RunningSession(project, session_id, job_id))
        return {job_id: None} if state.get("attempt") else {}

    def _remember(self, one: RunningSession) -> None:
        self._known[one.job_id] = one
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _settle_soon(self, one: RunningSession) -> None:
        task = asyncio.get_running_loop().create_task(self._settle_quietly(one))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle_quietly(self, one: RunningSession) -> bool | Exception:
        """Whether it has ended, or why that is not known (it was said in the log)."""
        try:
            return await self._settle(one)
        except AuraError as error:
            log.warning("session.not_settled", session_id=one.session_id, code=error.code, detail=error.detail)
            return error
        except Exception as error:  # a state that no version of us wrote; the others must not wait for its mending
            log.exception("session.not_settled", session_id=one.session_id)
            return error

    async def _settle(self, one: RunningSession) -> bool:
        async with self._places:
            self._check()
            request = self._ids.uuid7()
            head = await self._sessions.settle(one.project, one.session_id, Caller(ACTOR, request, request))
        ended = head is None or head.state.status.ended
        if ended:
            self._known.pop(one.job_id, None)
        return ended


def _state(recorded: Recorded) -> dict[str, Any]:
    """The state that a session's event carries; empty for one that cannot be read."""
    try:
        state: Any = recorded.decode().get("state")
    except (ValueError, AttributeError):
        return {}
    return state if isinstance(state, dict) else {}
