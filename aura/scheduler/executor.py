"""Carries out what the planner decided: every command on its exact head, few one by one, many as one atomic batch.

A decision is appended at the sequence it was decided on, or not at all: when the job moved on, its event is on its way and the
planner decides anew. (So a timeout decided for attempt 2 can never be recorded against attempt 3.) Every decision is settled exactly
once, whatever happens to it.

Bounded: no new round while :data:`MAX_SINGLES` plain appends or :data:`MAX_BATCHES` batches are on their way. Under load this lets work
pile up into rounds large enough for a batch (group commit); when idle a decision is sent at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from aura.commands.handler import Caller, JobHandler
from aura.commands.models import ModelHandler
from aura.domain.job import decide
from aura.domain.job_commands import AssignJob
from aura.errors import AuraError, Refused, Unavailable, WrongExpectedSequence
from aura.log.store import Append
from aura.scheduler.rows import Decision, Fate, JobDecision, ModelDecision

log = structlog.get_logger("aura.scheduler")

#: From this many jobs up a round is one atomic batch (DECISIONS.md, Root job).
BATCH_FROM = 50
MAX_SINGLES = 64
MAX_BATCHES = 2
#: When a refused decision, one that the log did not answer, and one that failed by a bug are looked at again.
AGAIN_REFUSED_S = 0.25
AGAIN_UNAVAILABLE_S = 1.0
AGAIN_FAILED_S = 5.0

#: ``(decision, its fate, seconds until it should be looked at again)``
Settle = Callable[[Decision, Fate, float], None]


async def carry_out(handler: JobHandler, decisions: Sequence[JobDecision], caller: Caller) -> list[Fate]:
    """Append each decision at its head's sequence: one as a plain append, more as one atomic batch; the fate of each.

    Raises ``WrongExpectedSequence`` when one of several moved on: then none is stored and each is to be carried out alone.
    """
    fates = [Fate.REFUSED] * len(decisions)
    appends: list[Append] = []
    sent: list[int] = []
    for index, decision in enumerate(decisions):
        try:
            events = decide(decision.head.state, decision.command, now=handler.clock.now())
        except Refused:
            continue
        if events:
            appends.append(handler.prepare(decision.head, events[0], caller)[0])
            sent.append(index)
    fate = Fate.COMMITTED
    try:
        if len(appends) == 1:
            await handler.store.append(appends[0])
        elif appends:
            await handler.store.append_batch(appends)
    except WrongExpectedSequence:
        if len(appends) > 1:
            raise
        fate = Fate.MOVED_ON
    except Unavailable:
        fate = Fate.UNKNOWN
    for index in sent:
        fates[index] = fate
    return fates


class Executor:
    """Runs decisions as tasks. ``permitted(caller)`` is asked right before anything is sent: whether that caller's term still lasts.
    ``on_room`` is called when another round may be planned."""

    def __init__(
        self,
        handler: JobHandler,
        models: ModelHandler,
        ensure_pool: Callable[[str], Awaitable[None]],
        *,
        permitted: Callable[[Caller], bool],
        settle: Settle,
        on_room: Callable[[], None],
    ) -> None:
        self._handler = handler
        self._models = models
        self._ensure_pool = ensure_pool
        self._permitted = permitted
        self._settle = settle
        self._on_room = on_room
        self._ensured: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._singles = 0
        self._batches = 0

    @property
    def has_room(self) -> bool:
        """Whether another round may be planned."""
        return self._singles < MAX_SINGLES and self._batches < MAX_BATCHES

    def forget_pools(self) -> None:
        """The pools' consumers may be gone (new term, new server): make sure of them again."""
        self._ensured.clear()

    def dispatch(self, decisions: Iterable[Decision], caller: Caller) -> None:
        """Start carrying out one round."""
        jobs: list[JobDecision] = []
        for decision in decisions:
            if isinstance(decision, JobDecision):
                jobs.append(decision)
            else:
                self._start(self._report(decision, caller))
        if len(jobs) >= BATCH_FROM:
            self._batches += 1
            self._start(self._batch(jobs, caller))
            return
        for job in jobs:
            self._singles += 1
            self._start(self._single(job, caller))

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is under way, then cancel it."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _single(self, decision: JobDecision, caller: Caller) -> None:
        try:
            await self._jobs([decision], caller)
        finally:
            self._singles -= 1
            self._on_room()

    async def _batch(self, decisions: list[JobDecision], caller: Caller) -> None:
        try:
            await self._jobs(decisions, caller)
        except WrongExpectedSequence:
            for decision in decisions:
                self._singles += 1
                self._start(self._single(decision, caller))
        finally:
            self._batches -= 1
            self._on_room()

    async def _jobs(self, decisions: list[JobDecision], caller: Caller) -> None:
        """Carry out and settle. Raises ``WrongExpectedSequence`` for several decisions, unsettled."""
        fates = [Fate.REFUSED] * len(decisions)
        again_s = AGAIN_FAILED_S
        try:
            for decision in decisions:
                if isinstance(decision.command, AssignJob) and decision.command.model not in self._ensured:
                    await self._ensure_pool(decision.command.model)
                    self._ensured.add(decision.command.model)
            if self._permitted(caller):
                fates = await carry_out(self._handler, decisions, caller)
            again_s = AGAIN_REFUSED_S
            if Fate.UNKNOWN in fates:
                log.warning("executor.no_answer", jobs=len(decisions))
                again_s = AGAIN_UNAVAILABLE_S
        except WrongExpectedSequence:
            raise
        except Unavailable as error:
            log.warning("executor.no_pool", jobs=len(decisions), error=error.detail)
            again_s = AGAIN_UNAVAILABLE_S
        except AuraError as error:
            log.error("executor.failed", jobs=len(decisions), code=error.code, error=error.detail)
        except asyncio.CancelledError:
            fates = [Fate.UNKNOWN] * len(decisions)
            self._settle_all(decisions, fates, again_s)
            raise
        self._settle_all(decisions, fates, again_s)

    def _settle_all(self, decisions: list[JobDecision], fates: list[Fate], again_s: float) -> None:
        for decision, fate in zip(decisions, fates, strict=True):
            self._settle(decision, fate, again_s)

    async def _report(self, decision: ModelDecision, caller: Caller) -> None:
        fate, again_s = Fate.REFUSED, AGAIN_FAILED_S
        try:
            if self._permitted(caller):
                await self._models.execute(decision.model, decision.command, caller)
                fate = Fate.COMMITTED
        except Refused as error:  # not registered any more, or not yet
            log.info("executor.report_refused", model=decision.model, error=error.detail)
        except AuraError as error:
            log.warning("executor.no_answer", model=decision.model, error=error.detail)
            again_s = AGAIN_UNAVAILABLE_S
        finally:
            self._settle(decision, fate, again_s)
