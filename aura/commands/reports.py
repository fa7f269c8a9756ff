"""What an attempt says of itself: stage, complete, fail, release.

Only the holder of the lease may report. A late result is recorded (``job.late_result_rejected``, at most once per attempt) and then
refused with ``Fenced``; the result itself is not kept. A report that is repeated by who made it, word for word, while the job is still
what it then became, gets the first answer: a client that lost the answer and sent no ``Idempotency-Key`` is told the truth.

A result or error text is written before the event that refers to it, under a name of its own: a report that then loses the race for
the job leaves a text that nothing refers to, and the text of a committed event is never overwritten.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aura.commands import requests as r
from aura.commands import results
from aura.commands.handler import Caller, Outcome
from aura.commands.heads import JobHead
from aura.commands.operation import Operations
from aura.commands.results import Report
from aura.domain import job_commands as c
from aura.domain.job import refused_late
from aura.domain.job_state import JobStatus, short_holder
from aura.domain.retry import backoff_s
from aura.errors import Forbidden, TooLarge
from aura.events import subjects
from aura.events.catalogue import (
    ContentRef,
    Event,
    JobCompleted,
    JobFailed,
    JobLateResultRejected,
    JobSubmitted,
    OutputRef,
)
from aura.log.sealing import BrokenSeal
from aura.log.store import Recorded

MAX_DETAILS = 1024 * 1024


class ReportOperations(Operations):
    """What the holder of a lease reports."""

    async def stage(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Report a stage of a pipeline."""
        job_id, request = self._job(params, r.Stage)
        command = c.ChangeStage(request.stage, request.status, request.attempt)
        key = self._key("stage", job_id, request, caller)
        return await self._status_answer(job_id, _as_holder(command, caller), key, caller)

    async def release(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Give the job back; spends no attempt."""
        job_id, request = self._job(params, r.Release)
        command = c.ReleaseJob(request.attempt, request.delay_s)
        key = self._key("release", job_id, request, caller)
        return await self._status_answer(job_id, _as_holder(command, caller), key, caller)

    async def complete(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Hand in a result: COMPLETED, or SUBMITTED with ``success: false``. Raises ``Fenced``, ``Conflict``, ``TooLarge``."""
        job_id, request = self._job(params, r.Complete)
        details = _encoded(request.details, "details")
        report = _Report(self, caller, request.attempt, request.output_count, "result", details)
        types = (JobCompleted,) if request.success else (JobSubmitted,)

        async def intent(head: JobHead) -> c.JobCommand:
            result, output = await report.kept(head)
            return c.CompleteJob(
                success=request.success,
                retention_s=self._policy.retention_s,
                attempt=request.attempt,
                result=result,
                output=output,
                repeated=await report.repeats(head, *types),
            )

        outcome = await self.jobs.execute(job_id, intent, caller, self._key("complete", job_id, request, caller))
        if report.first is not None and outcome.event is None and not outcome.repeated:
            return {"job_id": job_id, "status": outcome.head.state.status.value, "seq": report.first.seq}
        event = await self._recorded(outcome, request.attempt)
        status = JobStatus.SUBMITTED if isinstance(event, JobSubmitted) else JobStatus.COMPLETED
        return {"job_id": job_id, "status": status.value, "seq": outcome.seq}

    async def fail(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Report a failure: QUEUED again while it is retryable and attempts remain, else FAILED. Raises as :meth:`complete`."""
        job_id, request = self._job(params, r.Fail)
        report = _Report(
            self, caller, request.attempt, request.output_count, "error", _encoded(request.reason or None, "reason")
        )

        def same(event: Report) -> bool:
            return isinstance(event, JobFailed) and (event.error_code, event.retryable) == (
                request.error_code,
                request.retryable,
            )

        async def intent(head: JobHead) -> c.JobCommand:
            error, output = await report.kept(head)
            return c.FailJob(
                error_code=request.error_code,
                retryable=request.retryable,
                retention_s=self._policy.retention_s,
                retry_in_s=backoff_s(job_id, head.state.spent + 1),
                attempt=request.attempt,
                error=error,
                output=output,
                repeated=await report.repeats(head, JobFailed, same=same),
            )

        outcome = await self.jobs.execute(job_id, intent, caller, self._key("fail", job_id, request, caller))
        if report.first is not None and outcome.event is None and not outcome.repeated:
            return {"job_id": job_id, "status": outcome.head.state.status.value, "seq": report.first.seq}
        await self._recorded(outcome, request.attempt)
        return {"job_id": job_id, "status": await self._status_at(outcome), "seq": outcome.seq}

    async def _recorded(self, outcome: Outcome, attempt: int | None) -> Event:
        """The event a report led to. Raises ``Fenced`` when it was recorded as late."""
        event = await self._event_at(outcome)
        if isinstance(event, JobLateResultRejected):
            raise refused_late(outcome.head.state, attempt or 0)
        return event

    async def produced(self, head: JobHead, count: int | None) -> OutputRef:
        """What the attempt has written; ``count`` if the worker says so."""
        if count is None:
            count = await self._ports.output.count(head.project, head.job_id, head.state.attempt)
        return OutputRef(count=count)

    async def keep(self, head: JobHead, part: subjects.ReportPart, text: bytes | None) -> ContentRef | None:
        """Write a result or an error text as content, before the event that refers to it."""
        if text is None:
            return None
        return await self._ports.content.put(head.project, head.job_id, part, head.state.attempt, text)

    async def newest(self, head: JobHead, *types: type[Report]) -> tuple[Recorded, Report] | None:
        """The newest event of these types."""
        return await results.newest(self._ports.store, head, *types)

    async def text(self, head: JobHead, event: Report) -> bytes | None:
        """The JSON text an event refers to. Raises ``BrokenSeal``."""
        return await results.text(self._ports.content, head, event)


class _Report:
    """One ``complete`` or ``fail`` on its way, decided perhaps several times: its content is written once per attempt."""

    def __init__(
        self,
        operations: ReportOperations,
        caller: Caller,
        attempt: int | None,
        output_count: int | None,
        part: subjects.ReportPart,
        text: bytes | None,
    ) -> None:
        self._operations = operations
        self._caller = caller
        self._attempt = attempt
        self._output_count = output_count
        self._part = part
        self._text = text
        self._kept: dict[int, ContentRef | None] = {}
        self.first: Recorded | None = None
        """The event of the very same report, when this one is a repeat."""

    async def kept(self, head: JobHead) -> tuple[ContentRef | None, OutputRef]:
        """References to what the report brings, if its attempt holds the lease. Raises ``Forbidden``."""
        if not holds(head, self._attempt):
            return None, c.NO_OUTPUT
        check_holder(head, self._caller)
        attempt = head.state.attempt
        if attempt not in self._kept:
            self._kept[attempt] = await self._operations.keep(head, self._part, self._text)
        return self._kept[attempt], await self._operations.produced(head, self._output_count)

    async def repeats(
        self, head: JobHead, *types: type[Report], same: Callable[[Report], bool] = lambda _event: True
    ) -> bool:
        """Whether the same caller made this very report for the current attempt, and the job is what it then became."""
        self.first = None
        state = head.state
        if state.status is JobStatus.IN_PROGRESS or not state.attempt or self._attempt not in (None, state.attempt):
            return False
        found = await self._operations.newest(head, *types)
        if found is None:
            return False
        recorded, event = found
        flat = recorded.decode()
        if (event.attempt, flat["actor"], flat["state"]["status"]) != (state.attempt, self._caller.actor, state.status):
            return False
        if self._output_count not in (None, event.output.count) or not same(event):
            return False
        try:
            if await self._operations.text(head, event) != self._text:
                return False
        except BrokenSeal:
            return False
        self.first = recorded
        return True


def _encoded(value: Any, field: str) -> bytes | None:
    if value is None:
        return None
    text = r.stored_json(value, field)
    if len(text) > MAX_DETAILS:
        raise TooLarge(f"{field} is {len(text)} bytes; the limit is {MAX_DETAILS}", limit=MAX_DETAILS)
    return text


def holds(head: JobHead, attempt: int | None) -> bool:
    """Whether the attempt (``None``: the current one) runs now."""
    return head.state.status is JobStatus.IN_PROGRESS and attempt in (None, head.state.attempt)


def check_holder(head: JobHead, caller: Caller) -> None:
    """A worker speaks only for what it claimed, a key only for what was claimed with it. Raises ``Forbidden``."""
    if short_holder(caller.owner) != head.state.holder:
        raise Forbidden("another worker holds this lease")
    if caller.owner is None and caller.actor.startswith("worker:") and caller.actor != f"worker:{head.state.worker}":
        raise Forbidden("another worker holds this lease")


def _as_holder(command: c.ChangeStage | c.ReleaseJob, caller: Caller) -> Callable[[JobHead], Awaitable[c.JobCommand]]:
    async def intent(head: JobHead) -> c.JobCommand:
        if holds(head, command.attempt):
            check_holder(head, caller)
        return command

    return intent
