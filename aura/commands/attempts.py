"""Operations of an attempt while it runs: claim, heartbeat, output. What it says of itself is in ``reports.py``.

Only the holder of the lease may speak for an attempt: the attempt must be the current one of a job IN_PROGRESS, and a caller whose
identity is a worker (``worker:<id>``, pinned by its NATS credential) must be the one that claimed.

A claim opens the job's input *before* it is appended, so an input that cannot be read costs no attempt and no worker waits for it:
the job fails for good (``content_unreadable``) and the claim is refused. Nothing is lost: whoever repairs the content (or starts the
command service with the right key-encryption key) retries the job.

Output with an ``Idempotency-Key``: a repeat among the attempt's last keyed appends gets the first one's ``i`` and stores nothing, also
after the attempt has ended; another body is refused with ``KeyReused`` (``log/output.py`` for the exact meaning).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from aura.clock import rfc3339
from aura.commands import requests as r
from aura.commands.handler import Caller
from aura.commands.heads import JobHead, load_job
from aura.commands.operation import Operation
from aura.commands.reports import ReportOperations, check_holder, holds
from aura.domain import job_commands as c
from aura.domain.job import decide, refused_late
from aura.domain.job_state import JobStatus
from aura.errors import Conflict, Fenced, Forbidden, NotFound, Refused
from aura.events import subjects
from aura.events.catalogue import JobClaimed, JobCreated
from aura.log.ports import WriteKey
from aura.log.sealing import BrokenSeal

log = structlog.get_logger("aura.commands")

UNREADABLE = "content_unreadable"


def traceparent(trace: str, job_id: str, attempt: int) -> str:
    """The W3C trace context of one attempt (Trace Context §3.2): what a worker passes on to whatever it calls. The parent id is made of
    the job's and the attempt's, so it is the same whoever asks."""
    return f"00-{trace}-{attempt & 0xFFFF:04x}{job_id[-12:]}-01"


@dataclass(frozen=True, slots=True)
class _Input:
    """A job's input, opened."""

    payload: Any
    data_key: bytes


class AttemptOperations(ReportOperations):
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
        """Start an attempt. Raises ``NotFound``, ``Conflict`` naming the status; also when the input cannot be read."""
        answer, _ = await self.claim_with_key(params, caller)
        return answer

    async def claim_with_key(self, params: dict[str, Any], caller: Caller) -> tuple[dict[str, Any], bytes]:
        """As :meth:`claim`, and the job's data key, for workers that write their own output."""
        job_id, request = self._job(params, r.Claim)
        ttl = request.lease_ttl_s or self._policy.lease_ttl_s
        opened: _Input | None = None

        async def intent(head: JobHead) -> c.JobCommand:
            nonlocal opened
            queued = head.state.status is JobStatus.QUEUED
            met = head.state.deps == 0 or not queued or await self._dependencies_met(head)
            fallback = request.model or self._policy.roles.model(head.state.role)
            claim = c.ClaimJob(
                request.worker_id,
                ttl,
                fallback_model=fallback,
                dependencies_met=met,
                offered=request.offered,
                pool=request.model,
                holder=caller.owner,
            )
            if opened is None and self._may(head, claim):
                opened = await self._open(head)
                if opened is None:
                    return c.FailWaitingJob(UNREADABLE, self._policy.retention_s)
            return claim

        outcome = await self.jobs.execute(job_id, intent, caller, self._key("claim", job_id, request, caller))
        event = await self._event_at(outcome)
        if opened is None and isinstance(event, JobClaimed):  # a repeat: the claim was appended by an earlier request
            opened = await self._open(outcome.head)
        if opened is None:
            raise Conflict("the job's input cannot be read", status=outcome.head.state.status)
        if not isinstance(event, JobClaimed):
            raise Conflict("the job was not claimed", status=outcome.head.state.status)
        answer = {
            "job_id": job_id,
            "project_id": outcome.head.project,
            "worker": event.worker_id,
            "attempt": event.attempt,
            "lease_ttl_s": event.lease_ttl_s,
            "assigned_model": event.assigned_model,
            "payload": opened.payload,
            "seq": outcome.seq,
        }
        if (trace := outcome.head.state.trace) is not None:
            answer["traceparent"] = traceparent(trace, job_id, event.attempt)
        return answer, opened.data_key

    def _may(self, head: JobHead, claim: c.ClaimJob) -> bool:
        """Whether the claim would be granted."""
        try:
            return bool(decide(head.state, claim, now=self._ports.clock.now()))
        except Refused:
            return False

    async def _open(self, head: JobHead) -> _Input | None:
        """The job's input; ``None`` when it is missing or damaged, or sealed under another installation's key. Raises ``Unavailable``."""
        try:
            part = await self._ports.content.take_input(head.project, head.job_id)
            if part is not None:
                return _Input(orjson.loads(part.plaintext), part.data_key)
            reason = "missing"
        except BrokenSeal as error:
            reason = error.detail
        except orjson.JSONDecodeError:
            reason = "not JSON"
        log.error("claim.content_unreadable", job_id=head.job_id, reason=reason)
        return None

    async def claim_for_worker(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """As :meth:`claim` with ``data_key`` (base64): answered only on the worker's own inbox."""
        answer, key = await self.claim_with_key(params, caller)
        return {**answer, "data_key": base64.b64encode(key).decode()}

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

    async def leased(self, job_id: str, attempt: int | None, caller: Caller) -> JobHead:
        """The head of a job whose current attempt is ``attempt``; looked up again on a consistent read before refusing."""
        for consistent in (False, True):
            head = await self.jobs.head(job_id, consistent=consistent)
            if holds(head, attempt):
                check_holder(head, caller)
                return head
        raise refused_late(head.state, attempt or 0, named=attempt is not None)

    async def heartbeat(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Renew a lease; says whether the job was cancelled. Raises ``Fenced``, ``Conflict``."""
        job_id, request = self._job(params, r.Heartbeat)
        try:
            head = await self.leased(job_id, request.attempt, caller)
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
        self,
        kind: subjects.OutputKind,
        job_id: str,
        request: r.Stream | r.Log | r.Progress,
        record: dict[str, Any],
        caller: Caller,
    ) -> dict[str, Any]:
        used = self._key(kind, job_id, request, caller)
        key = WriteKey(used.key, used.body) if used is not None else None
        try:
            head = await self.leased(job_id, request.attempt, caller)
        except Conflict:
            if key is None:
                raise
            # The attempt may have ended since the append of which this is a repeat.
            head = await self.jobs.head(job_id)
            attempt = request.attempt or head.state.attempt
            count = await self._ports.output.answered(head.project, job_id, attempt, key)
            if count is None:
                raise
        else:
            attempt = head.state.attempt
            record = {"ts": rfc3339(self._ports.clock.now()), **record}
            count = await self._ports.output.append(head.project, job_id, attempt, kind, [record], key)
        return {"ok": True, "i": count - 1, "attempt": attempt, "seq": head.seq}

    async def stream(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Append a piece of output text."""
        job_id, request = self._job(params, r.Stream)
        record = {"chunk": request.chunk, "final": request.final}
        return await self._write_output("stream", job_id, request, record, caller)

    async def log(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Append a log line."""
        job_id, request = self._job(params, r.Log)
        record = {"level": request.level, "line": request.line}
        return await self._write_output("log", job_id, request, record, caller)

    async def progress(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Append a progress report."""
        job_id, request = self._job(params, r.Progress)
        record: dict[str, Any] = {"percent": request.percent, "step": request.step}
        if request.agent is not None:
            record["agent"] = request.agent
        if request.data is not None:
            record["data"] = request.data
        return await self._write_output("progress", job_id, request, record, caller)
