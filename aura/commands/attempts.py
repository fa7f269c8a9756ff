"""Operations of an attempt: claim, heartbeat, output, stage, complete, fail, release.

Only the holder of the lease may speak for an attempt: the attempt must be the current one of a job IN_PROGRESS, and a caller whose
identity is a worker (``worker:<id>``, pinned by its NATS credential) must be the one that claimed. A late result is recorded
(``job.late_result_rejected``, once per attempt) and then refused with ``Fenced``; the result itself is not kept.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from aura.clock import rfc3339
from aura.commands import requests as r
from aura.commands.handler import Caller, KeyUse, Outcome
from aura.commands.heads import JobHead, load_job
from aura.commands.operation import Operation, Operations
from aura.domain import job_commands as c
from aura.domain.job import refused_late
from aura.domain.job_state import JobStatus
from aura.domain.retry import backoff_s
from aura.errors import Conflict, Fenced, Forbidden, NotFound, TooLarge
from aura.events import subjects
from aura.events.catalogue import ContentRef, JobClaimed, JobCreated, JobLateResultRejected, JobSubmitted, OutputRef

MAX_DETAILS = 1024 * 1024


class AttemptOperations(Operations):
    """What workers say."""

    def table(self) -> dict[str, Operation]:
        """Name → operation."""
        return {
            "claim": self.claim,
            "heartbeat": self.heartbeat,
            "stream": self.stream,
            "log": self.log,
            "progress": self.progress,
            "stage": self.stage,
            "complete": self.complete,
            "fail": self.fail,
            "release": self.release,
        }

    async def claim(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Start an attempt. Raises ``NotFound``, ``Conflict`` naming the status."""
        answer, _ = await self.claim_with_key(params, caller)
        return answer

    async def claim_with_key(self, params: dict[str, Any], caller: Caller) -> tuple[dict[str, Any], bytes | None]:
        """As :meth:`claim`, and the job's data key, for workers that write their own output."""
        job_id, request = self._job(params, r.Claim)
        ttl = request.lease_ttl_s or self._policy.lease_ttl_s

        async def intent(head: JobHead) -> c.JobCommand:
            queued = head.state.status is JobStatus.QUEUED
            met = head.state.deps == 0 or not queued or await self._dependencies_met(head)
            fallback = request.model or self._policy.model_for(head.state.role)
            return c.ClaimJob(request.worker_id, ttl, fallback_model=fallback, dependencies_met=met, offered=request.offered)

        outcome = await self.jobs.execute(job_id, intent, caller, self._key("claim", job_id, request, caller))
        event = await self._event_at(outcome)
        if not isinstance(event, JobClaimed):
            raise Conflict("the job was not claimed", status=outcome.head.state.status)
        part = await self._ports.content.get(outcome.head.project, job_id, "input")
        answer = {
            "job_id": job_id,
            "project_id": outcome.head.project,
            "worker": event.worker_id,
            "attempt": event.attempt,
            "lease_ttl_s": event.lease_ttl_s,
            "assigned_model": event.assigned_model,
            "payload": orjson.loads(part.plaintext) if part is not None else None,
            "seq": outcome.seq,
        }
        return answer, part.data_key if part is not None else None

    async def claim_for_worker(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """As :meth:`claim` with ``data_key`` (base64): answered only on the worker's own inbox."""
        answer, key = await self.claim_with_key(params, caller)
        return {**answer, "data_key": base64.b64encode(key).decode() if key is not None else None}

    async def _dependencies_met(self, head: JobHead) -> bool:
        subject = subjects.job_event(head.project, head.job_id, JobCreated.TYPE)
        async for batch in self._ports.store.read(subject=subject):
            for recorded in batch:
                for wanted in recorded.decode().get("depends_on", []):
                    dependency = await load_job(self._ports.store, wanted)
                    if dependency.state.status is not JobStatus.COMPLETED:
                        return False
        return True

    # ------------------------------------------------------------ leases

    async def _leased(self, job_id: str, attempt: int | None, caller: Caller) -> JobHead:
        """The head of a job whose current attempt is ``attempt``; looked up again on a consistent read before refusing."""
        for consistent in (False, True):
            head = await self.jobs.head(job_id, consistent=consistent)
            if _holds(head, attempt):
                check_holder(head, caller)
                return head
        raise refused_late(head.state, attempt or 0, named=attempt is not None)

    async def heartbeat(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Renew a lease; says whether the job was cancelled. Raises ``Fenced``, ``Conflict``."""
        job_id, request = self._job(params, r.Heartbeat)
        try:
            head = await self._leased(job_id, request.attempt, caller)
        except Conflict as refusal:
            if refusal.status == JobStatus.CANCELLED:
                head = await self.jobs.head(job_id)
                return {"job_id": job_id, "cancelled": True, "status": str(refusal.status), "seq": head.seq}
            raise
        await self._ports.renewals.renewed(job_id, head.state.attempt, head.state.worker or "")
        return {
            "job_id": job_id,
            "attempt": head.state.attempt,
            "lease_ttl_s": head.state.lease_ttl_s,
            "status": head.state.status.value,
            "cancelled": False,
            "seq": head.seq,
        }

    async def heartbeats(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Renew all of a worker's leases at once: ``{in_flight: [{job_id, attempt}]}`` → ``{cancelled: […], fenced: […]}``."""
        request = r.parse(r.Heartbeats, params)
        cancelled: list[str] = []
        fenced: list[str] = []
        for lease in request.in_flight:
            try:
                answer = await self.heartbeat({"job_id": lease.job_id, "attempt": lease.attempt}, caller)
            except (Fenced, Conflict, NotFound, Forbidden):
                fenced.append(lease.job_id)
                continue
            if answer["cancelled"]:
                cancelled.append(lease.job_id)
        return {"cancelled": cancelled, "fenced": fenced}

    # ------------------------------------------------------------ output

    async def _write_output(
        self, job_id: str, attempt: int | None, kind: subjects.OutputKind, record: dict[str, Any], caller: Caller
    ) -> dict[str, Any]:
        head = await self._leased(job_id, attempt, caller)
        record = {"ts": rfc3339(self._ports.clock.now()), **record}
        count = await self._ports.output.append(head.project, job_id, head.state.attempt, kind, [record])
        return {"ok": True, "i": count - 1, "attempt": head.state.attempt, "seq": head.seq}

    async def stream(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Append a piece of output text."""
        job_id, request = self._job(params, r.Stream)
        record = {"chunk": request.chunk, "final": request.final}
        return await self._write_output(job_id, request.attempt, "stream", record, caller)

    async def log(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Append a log line."""
        job_id, request = self._job(params, r.Log)
        record = {"level": request.level, "line": request.line}
        return await self._write_output(job_id, request.attempt, "log", record, caller)

    async def progress(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Append a progress report."""
        job_id, request = self._job(params, r.Progress)
        record = {"percent": request.percent, "step": request.step}
        return await self._write_output(job_id, request.attempt, "progress", record, caller)

    # ------------------------------------------------------------ reports

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
        """Hand in a result: COMPLETED, or SUBMITTED with ``success: false``."""
        job_id, request = self._job(params, r.Complete)

        async def intent(head: JobHead) -> c.JobCommand:
            holds = _holds(head, request.attempt)
            if holds:
                check_holder(head, caller)
            return c.CompleteJob(
                success=request.success,
                retention_s=self._policy.retention_s,
                attempt=request.attempt,
                result=await self._keep(head, "result", request.details) if holds else None,
                output=await self._produced(head, request.output_count) if holds else c.NO_OUTPUT,
            )

        key = self._key("complete", job_id, request, caller)
        outcome = await self._report(job_id, intent, caller, key, request.attempt)
        submitted = isinstance(await self._event_at(outcome), JobSubmitted)
        status = JobStatus.SUBMITTED if submitted else JobStatus.COMPLETED
        return {"job_id": job_id, "status": status.value, "seq": outcome.seq}

    async def fail(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Report a failure: QUEUED again while it is retryable and attempts remain, else FAILED."""
        job_id, request = self._job(params, r.Fail)

        async def intent(head: JobHead) -> c.JobCommand:
            holds = _holds(head, request.attempt)
            if holds:
                check_holder(head, caller)
            return c.FailJob(
                error_code=request.error_code,
                retryable=request.retryable,
                retention_s=self._policy.retention_s,
                retry_in_s=backoff_s(job_id, head.state.spent + 1),
                attempt=request.attempt,
                error=await self._keep(head, "error", request.reason or None) if holds else None,
                output=await self._produced(head, request.output_count) if holds else c.NO_OUTPUT,
            )

        key = self._key("fail", job_id, request, caller)
        outcome = await self._report(job_id, intent, caller, key, request.attempt)
        return {"job_id": job_id, "status": await self._status_at(outcome), "seq": outcome.seq}

    async def _report(
        self,
        job_id: str,
        intent: Callable[[JobHead], Awaitable[c.JobCommand]],
        caller: Caller,
        key: KeyUse | None,
        attempt: int | None,
    ) -> Outcome:
        """Execute a result; a late one is recorded, then refused."""
        outcome = await self.jobs.execute(job_id, intent, caller, key)
        if isinstance(await self._event_at(outcome), JobLateResultRejected):
            raise refused_late(outcome.head.state, attempt or 0)
        return outcome

    async def _keep(self, head: JobHead, part: subjects.ContentPart, value: Any) -> ContentRef | None:
        """Write a result or an error text as content, before the event that refers to it."""
        if value is None or value == {}:
            return None
        data = orjson.dumps(value)
        if len(data) > MAX_DETAILS:
            raise TooLarge(f"{part} is {len(data)} bytes; the limit is {MAX_DETAILS}", limit=MAX_DETAILS)
        return await self._ports.content.put(head.project, head.job_id, part, data)

    async def _produced(self, head: JobHead, count: int | None) -> OutputRef:
        if count is None:
            count = await self._ports.output.count(head.project, head.job_id, head.state.attempt)
        return OutputRef(count=count)


def _holds(head: JobHead, attempt: int | None) -> bool:
    return head.state.status is JobStatus.IN_PROGRESS and attempt in (None, head.state.attempt)


def check_holder(head: JobHead, caller: Caller) -> None:
    """A worker speaks only for what it claimed. Raises ``Forbidden``."""
    if caller.actor.startswith("worker:") and caller.actor != f"worker:{head.state.worker}":
        raise Forbidden("another worker holds this lease")


def _as_holder(command: c.ChangeStage | c.ReleaseJob, caller: Caller) -> Callable[[JobHead], Awaitable[c.JobCommand]]:
    async def intent(head: JobHead) -> c.JobCommand:
        if _holds(head, command.attempt):
            check_holder(head, caller)
        return command

    return intent
