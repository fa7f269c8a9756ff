"""One delivered job, from the offer to its settled end. One asyncio task, no timer, no child task.

::

    offered ─claim→ claimed ─handler→ running ─report→ reporting ─definite answer→ over
        │ refused (somebody else has it, cancelled, gone): acked, over
        │ worker drains before the claim was sent: nak, over
        └ worker drains while claiming: released at once

Invariants:

* **Nothing is written without the lease.** Once :meth:`Attempt.interrupt` says ``cancelled`` or ``lost``, no output, stage or
  result leaves any more; what is in flight is fenced by the attempt's number (G6).
* **A report is repeated until its outcome is known**, with one idempotency key, so it is applied once (G2, G8). The attempt stays
  in the lease heartbeats until then.
* **The assigned message is settled exactly when the claim is**: acked after a committed or refused claim. A worker that dies in
  between leaves it to redelivery, whose claim is refused (or repeated by the same key, for the same worker).
* **User code cannot hurt**: whatever the handler raises becomes a ``failed`` report (:func:`failure`).

Failure cases: the command service is away → claim and report wait and repeat; the lease is lost meanwhile → the report is
answered ``Fenced``, which is definite; the worker is stopped for good → the scheduler expires the lease (G7).
"""

from __future__ import annotations

import asyncio
import base64
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import structlog

from aura.errors import AuraError, Conflict, Fenced, JobError, NotFound, Refused
from aura.events.subjects import OutputKind
from aura.worker.backoff import Backoff
from aura.worker.context import JobContext, Snoozed, Submitted
from aura.worker.link import Assigned, Ended, Link, Output

if TYPE_CHECKING:
    from aura.events.catalogue import StageStatus

log = structlog.get_logger("aura.worker")

Handler = Callable[[JobContext], Awaitable[Mapping[str, Any] | None]]
#: Most characters of a failure's text (content, kept encrypted with the job).
MAX_REASON = 16_000
_NOT_A_CODE = re.compile(r"[^A-Za-z0-9_.-]")


class Phase(Enum):
    """Where an attempt is."""

    OFFERED = auto()
    CLAIMING = auto()
    RUNNING = auto()
    REPORTING = auto()
    OVER = auto()


class Interruption(Enum):
    """Why a handler is stopped from outside."""

    CANCELLED = auto()
    LOST = auto()
    DRAINED = auto()


@dataclass(frozen=True, slots=True)
class Terms:
    """What all attempts of one worker share."""

    link: Link
    handler: Handler
    model: str
    worker_id: str
    lease_ttl_s: float
    cancel_tasks: bool
    backoff: Callable[[], Backoff]
    claimed: Callable[[Attempt], None]
    """Told of every attempt once its claim is committed."""
    process: str
    """Names this process in claim keys. Another process of the same worker id does not get this one's attempts back: an attempt
    whose process died stays fenced until its lease expires."""


@dataclass(frozen=True, slots=True)
class Report:
    """What to tell the command service at the end: a worker command and its body."""

    command: str
    body: dict[str, Any] = field(default_factory=dict)


class Attempt:
    """See the module docstring. :meth:`run` is its whole life; the rest is called by the worker meanwhile."""

    __slots__ = (
        "_assigned",
        "_context",
        "_ended",
        "_output",
        "_said",
        "_stages",
        "_task",
        "_terms",
        "interrupted",
        "number",
        "phase",
        "seq",
    )

    def __init__(self, terms: Terms, assigned: Assigned) -> None:
        self._terms = terms
        self._assigned = assigned
        self._context: JobContext | None = None
        self._output: Output | None = None
        self._task: asyncio.Task[Any] | None = None
        self._ended: Ended | None = None
        self._stages = 0
        self._said = 0
        self.phase = Phase.OFFERED
        self.number = 0
        self.seq = 0
        self.interrupted: Interruption | None = None

    @property
    def job_id(self) -> str:
        """Which job."""
        return self._assigned.job_id

    @property
    def offer_seq(self) -> int:
        """Sequence of the assignment it came from."""
        return self._assigned.seq

    @property
    def holds_lease(self) -> bool:
        """Whether heartbeats should renew it."""
        return self.phase in (Phase.RUNNING, Phase.REPORTING) and self.interrupted in (None, Interruption.DRAINED)

    # ------------------------------------------------------------ called by the worker

    def ended(self, event: Ended) -> None:
        """A committed event ended the job or a lease. Told before the claim is answered, it is judged afterwards."""
        if self.phase in (Phase.OFFERED, Phase.CLAIMING):
            self._ended = event
        elif event.seq > self.seq and event.attempt in (None, self.number):
            self.interrupt(Interruption.CANCELLED if event.how == "cancelled" else Interruption.LOST)

    def interrupt(self, why: Interruption) -> None:
        """Stop the handler. Later reasons only sharpen an earlier ``DRAINED``; once the handler is over this does nothing."""
        if self.interrupted not in (None, Interruption.DRAINED):
            return
        first, self.interrupted = self.interrupted is None, why
        if self.phase is not Phase.RUNNING:
            return
        if self._output is not None and why is not Interruption.DRAINED:
            self._output.discard()
        if self._context is not None:
            self._context.signal_cancelled()
        if first and self._task is not None and (self._terms.cancel_tasks or why is Interruption.DRAINED):
            self._task.cancel()

    # ------------------------------------------------------------ called by the context

    @property
    def _ours(self) -> bool:
        """Whether what the handler says is still reported."""
        return self.phase is Phase.RUNNING and self.interrupted in (None, Interruption.DRAINED)

    def join(self, text: str, final: bool) -> bool:
        """Add to text that waits anyway, if there is any: nearly all of a stream of tokens."""
        return self._output is not None and self._ours and self._output.join(text, final)

    async def write(self, kind: OutputKind, record: dict[str, Any]) -> None:
        """One output record; silently nothing once the attempt is no longer ours."""
        if not self._ours:
            return
        if self._output is None:
            raise RuntimeError("an attempt without a claim writes nothing")
        try:
            await self._output.write(kind, record)
        except (Fenced, NotFound):
            self.interrupt(Interruption.LOST)

    async def change_stage(self, name: str, status: StageStatus) -> None:
        """Report a stage. Raises ``InvalidRequest``; silently nothing once the attempt is no longer ours."""
        if not self._ours:
            return
        self._stages += 1
        body = {"stage": name, "status": status, "job_id": self.job_id, "attempt": self.number}
        try:
            await self._definite("stage", body, f"stage-{self.job_id}-{self.number}-{self._stages}")
        except (Conflict, NotFound):
            self.interrupt(Interruption.LOST)

    async def tell_session(self, event: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Report a step of the job's session, after what was written before it. Raises ``Refused``; ``{}`` once the attempt is no
        longer ours."""
        if self.phase is not Phase.RUNNING or self.interrupted not in (None, Interruption.DRAINED):
            return {}
        self._said += 1
        body = {**fields, "event": event, "job_id": self.job_id, "attempt": self.number}
        try:
            if self._output is not None:
                await self._output.flush()
            return await self._definite("session", body, f"session-{self.job_id}-{self.number}-{self._said}")
        except (Fenced, NotFound):
            self.interrupt(Interruption.LOST)
            return {}

    # ------------------------------------------------------------ its life

    async def run(self) -> None:
        """Claim, handle, report. Raises only ``CancelledError``, when the worker gives up waiting."""
        self._task = asyncio.current_task()
        try:
            claim = await self._claim()
            if claim is None:
                return
            report = await self._handle(claim) if self.interrupted is None else Report("release")
            if report is not None:
                await self._report(report)
        finally:
            self.phase = Phase.OVER
            if self._output is not None:
                self._output.discard()

    async def _claim(self) -> dict[str, Any] | None:
        """The claim's answer; ``None`` when the job is not ours. Settles the assigned message."""
        if self.interrupted is not None:
            self._assigned.nak()
            return None
        self.phase = Phase.CLAIMING
        terms = self._terms
        body = {"job_id": self.job_id, "lease_ttl_s": terms.lease_ttl_s, "model": terms.model, "offered": True}
        try:
            claim = await self._definite("claim", body, f"{self._assigned.seq}-{terms.process}")
        except Refused as refusal:
            self._assigned.ack()
            log.debug("worker.claim_refused", job_id=self.job_id, code=refusal.code, detail=refusal.detail)
            return None
        self._assigned.ack()
        self.number, self.seq = claim["attempt"], claim["seq"]
        terms.claimed(self)
        early = self._ended
        if early is not None and early.seq > self.seq and early.attempt in (None, self.number):
            return None
        return claim

    async def _handle(self, claim: dict[str, Any]) -> Report | None:
        """Run the handler; what to report, or ``None`` when the attempt is not ours to report any more."""
        terms = self._terms
        context = JobContext(self, claim, model=terms.model, worker_id=terms.worker_id)
        data_key = claim.get("data_key")
        if data_key is not None:
            self._output = terms.link.output(context.project_id, self.job_id, self.number, base64.b64decode(data_key))
        self._context = context
        self.phase = Phase.RUNNING
        try:
            result = await terms.handler(context)
            report = Report("complete", {"success": not isinstance(result, Submitted), "details": result})
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except Snoozed as snooze:
            report = Report("release", {"delay_s": snooze.seconds})
        except BaseException as error:  # user code: whatever it raises is its attempt's failure, not the worker's
            stopped = self._stopped(error)
            if stopped is None:
                raise  # the worker itself is being torn down
            report = stopped
        finally:
            self.phase = Phase.REPORTING
        if self.interrupted is not None and self._task is not None:
            while self._task.cancelling():
                self._task.uncancel()
        if self.interrupted in (Interruption.CANCELLED, Interruption.LOST):
            return None
        return report

    def _stopped(self, error: BaseException) -> Report | None:
        """What an exception of the handler means; ``None``: the task was cancelled by somebody other than us."""
        if self.interrupted is Interruption.DRAINED:
            return Report("release", {"delay_s": 0})
        if (
            isinstance(error, asyncio.CancelledError)
            and self.interrupted is None
            and self._task
            and self._task.cancelling()
        ):
            return None
        return Report("fail", failure(error))

    async def _report(self, report: Report) -> None:
        """Flush the output, then report until the outcome is known."""
        self.phase = Phase.REPORTING
        body: dict[str, Any] = {**report.body, "job_id": self.job_id, "attempt": self.number}
        try:
            await self._count_output(report, body)
            await self._definite(report.command, body, f"{report.command}-{self.job_id}-{self.number}")
        except Conflict as refusal:
            log.info(
                "worker.late", job_id=self.job_id, attempt=self.number, command=report.command, status=refusal.status
            )
        except NotFound:
            log.info("worker.purged", job_id=self.job_id, attempt=self.number)
        except (Refused, TypeError) as refusal:
            # The result cannot be stored (not JSON, too large): that is the handler's failure, and definite.
            if report.command == "fail":
                log.error("worker.report_refused", job_id=self.job_id, detail=str(refusal))
                return
            code = refusal.code if isinstance(refusal, Refused) else "result_not_json"
            reason = f"the result was refused: {refusal}"
            await self._report(Report("fail", {"error_code": code, "retryable": False, "reason": reason}))

    async def _count_output(self, report: Report, body: dict[str, Any]) -> None:
        """Flush the output and say how many records it has; without that number (some could not be stored) the service counts.

        Raises ``Fenced``; for a result also what could not be stored.
        """
        count = 0
        if self._output is not None:
            try:
                await self._output.flush()
            except Conflict:
                raise
            except Refused:
                if report.command == "complete":
                    raise
                return
            count = self._output.count
        if report.command != "release":
            body["output_count"] = count

    async def _definite(self, name: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Send a command until it is answered or refused. Raises ``Refused``; ``TypeError`` for a body that is not JSON."""
        pause: Backoff | None = None
        while True:
            try:
                return await self._terms.link.call(name, body, key)
            except Refused:
                raise
            except AuraError as error:
                pause = pause or self._terms.backoff()
                log.warning("worker.retrying", command=name, job_id=self.job_id, code=error.code, detail=error.detail)
                await pause.wait()


def failure(error: BaseException) -> dict[str, Any]:
    """The ``fail`` body of an exception: ``{error_code, retryable, reason}``. The traceback is content and kept with the job."""
    if isinstance(error, JobError):
        code, retryable, text = error.error_code, error.retryable, error.detail
    else:
        code, retryable, text = type(error).__name__, True, "".join(traceback.format_exception(error))
    return {
        "error_code": _NOT_A_CODE.sub("_", code)[:64] or "worker_error",
        "retryable": retryable,
        "reason": text[-MAX_REASON:].encode("utf-8", "replace").decode(),
    }
