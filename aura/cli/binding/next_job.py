"""``POST /models/{name}/next``: one pull from the pool's durable, then a claim. The gateway's ``NextJob`` port.

Each call has a puller of its own that wants exactly one offer at a time. An offer whose claim is refused (another worker was
first, cancelled) is acknowledged and the next one awaited. When the caller goes away: an offer not yet claimed goes back at once,
and a claim already on its way is carried to its end and released, so that no job waits for the lease of nobody. Pools are only bound,
never made: asking for a name that nothing was ever assigned to just waits.

With an idempotency key the claim carries a key made from it, so that a repeat (the answer was lost on the way) is answered with the
same claim and leases nothing more. Which job that was is remembered here for :data:`REMEMBERED` keys; after a restart, or in another
gateway, it is looked for among the jobs that the worker has in progress. An answer without a job, and a claim that was given
back because the caller had gone, leave nothing to repeat.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from aura.cli.binding.log_health import GuardedCommands
from aura.clock import Clock
from aura.commands.handler import Caller
from aura.domain.job_state import JobStatus
from aura.errors import AuraError, KeyReused, Refused, Unavailable
from aura.events import subjects
from aura.ids import IdSource
from aura.log.connection import Connection
from aura.log.pool import Offer, PoolPuller
from aura.projections.queries import Queries

log = structlog.get_logger("aura.gateway")

REMEMBERED = 10_000
#: Jobs of a worker that are looked at for an unknown key.
_LOOKED_AT = 64
_CATCH_UP_S = 1.0
#: How long a job of a project that the caller may not see is kept from this pool, so that another worker is asked next.
FOREIGN_S = 0.25

FindClaims = Callable[[str, str], Awaitable[Sequence[str]]]
"""``(model, worker_id)`` → jobs that the worker has in progress there, newest first. Raises ``Unavailable``."""


def claims_finder(queries: Queries, head: Callable[[], int]) -> FindClaims:
    """Claims as the read models know them, which get a moment to reach ``head()``, the log's end."""

    async def find(model: str, worker_id: str) -> list[str]:
        await queries.wait_for(head(), _CATCH_UP_S)
        page = await queries.list_jobs(status="IN_PROGRESS", model=model, limit=500)
        return [row["id"] for row in page.rows if row["worker"] == worker_id]

    return find


@dataclass(frozen=True, slots=True)
class _Ask:
    """What a caller wants; the same for every repeat."""

    model: str
    worker_id: str
    lease_ttl_s: float | None

    def claim(self, job_id: str) -> dict[str, Any]:
        """The arguments of ``claim``."""
        lease = {} if self.lease_ttl_s is None else {"lease_ttl_s": self.lease_ttl_s}
        return {"job_id": job_id, "worker_id": self.worker_id, "model": self.model, "offered": True, **lease}


class PoolNext:
    """Implements :class:`aura.gateway.ports.NextJob`."""

    def __init__(
        self, connection: Connection, clock: Clock, ids: IdSource, commands: GuardedCommands, find_claims: FindClaims
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._ids = ids
        self._commands = commands
        self._find_claims = find_claims
        self._claims: OrderedDict[str, tuple[_Ask, str, str]] = OrderedDict()
        """Key → what was asked, the job claimed, and the key of that claim."""
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}
        self._returning: set[asyncio.Task[None]] = set()

    async def __call__(
        self, model: str, worker_id: str, wait_s: float, lease_ttl_s: float | None, caller: Caller
    ) -> dict[str, Any] | None:
        self._commands.health.check()
        ask = _Ask(model, worker_id, lease_ttl_s)
        if caller.idempotency_key is None:
            found = await self._pull(ask, wait_s, caller)
            return None if found is None else found[0]
        key = hashlib.sha256(f"next\0{caller.actor}\0{caller.idempotency_key}".encode()).hexdigest()
        caller = replace(caller, idempotency_key=key)
        async with self._turn(key):
            again = await self._again(ask, key, caller)
            if again is not None:
                return again
            found = await self._pull(ask, wait_s, caller)
            if found is None:
                return None
            answer, used = found
            self._remember(key, ask, answer["job_id"], used)
            return answer

    # --- repeats

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[None]:
        """One call per key at a time: the second one must see what the first one got."""
        lock, users = self._turns.get(key, (asyncio.Lock(), 0))
        self._turns[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._turns.pop(key)
            if users > 1:
                self._turns[key] = lock, users - 1

    async def _again(self, ask: _Ask, key: str, caller: Caller) -> dict[str, Any] | None:
        """The answer of an earlier call with this key. Raises ``KeyReused``."""
        known = self._claims.get(key)
        if known is not None:
            asked, job_id, used = known
            if asked != ask:
                raise KeyReused("this Idempotency-Key was used with another request")
            return await self._commands.call("claim", ask.claim(job_id), replace(caller, idempotency_key=used))
        try:
            candidates = await self._find_claims(ask.model, ask.worker_id)
        except Unavailable as error:
            log.warning("next.claims_unknown", detail=error.detail)  # only other processes' answers are not repeated
            return None
        for job_id in candidates[:_LOOKED_AT]:
            head = await self._commands.jobs.head(job_id)
            if not head.state.keys:
                continue
            try:
                answer = await self._commands.call("claim", ask.claim(job_id), caller)
            except KeyReused:
                raise
            except Refused:
                continue
            self._remember(key, ask, job_id, key)
            return answer
        return None

    def _remember(self, key: str, ask: _Ask, job_id: str, used: str) -> None:
        self._claims[key] = ask, job_id, used
        if len(self._claims) > REMEMBERED:
            self._claims.popitem(last=False)

    # --- new claims

    async def _pull(self, ask: _Ask, wait_s: float, caller: Caller) -> tuple[dict[str, Any], str] | None:
        """The pool's next job, claimed, and the key of the claim."""
        offers: asyncio.Queue[Offer] = asyncio.Queue()
        puller = PoolPuller(self._connection, self._clock, self._ids, ask.model, offers.put_nowait)
        await puller.start()
        found: tuple[dict[str, Any], str] | None = None
        try:
            async with asyncio.timeout(max(wait_s, 0.05)):
                while found is None:
                    puller.want(1)
                    found = await self._claim(await offers.get(), ask, caller)
        except TimeoutError:
            pass
        finally:
            try:
                await puller.stop()
            except asyncio.CancelledError:
                if found is not None:
                    self._spawn(self._give_back(found[0], replace(caller, idempotency_key=None)))
                raise
            finally:
                while not offers.empty():
                    offers.get_nowait().nak()
        return found

    async def _claim(self, offer: Offer, ask: _Ask, caller: Caller) -> tuple[dict[str, Any], str] | None:
        if caller.projects is not None and subjects.parse(offer.subject).project not in caller.projects:
            offer.nak(FOREIGN_S)
            return None
        claim = asyncio.ensure_future(self._fresh_claim(offer, ask, caller))
        try:
            found = await asyncio.shield(claim)
        except asyncio.CancelledError:
            self._return(claim, offer, caller)
            raise
        except KeyReused:
            offer.nak()
            raise
        except Refused:
            offer.ack()
            return None
        except AuraError:
            offer.nak()
            raise
        offer.ack()
        return found

    async def _fresh_claim(self, offer: Offer, ask: _Ask, caller: Caller) -> tuple[dict[str, Any], str]:
        """Claim what is offered. A key that already claimed this job in an attempt that is over claims it under another name."""
        arguments = ask.claim(offer.subject.split(".", 4)[3])
        answer = await self._commands.call("claim", arguments, caller)
        key = caller.idempotency_key
        if key is None:
            return answer, ""
        state = (await self._commands.jobs.head(answer["job_id"], consistent=True)).state
        if state.status is JobStatus.IN_PROGRESS and state.attempt == answer["attempt"]:
            return answer, key
        other = f"{key}:{offer.seq}"
        return await self._commands.call("claim", arguments, replace(caller, idempotency_key=other)), other

    def _return(self, claim: asyncio.Future[tuple[dict[str, Any], str]], offer: Offer, caller: Caller) -> None:
        """Nobody waits for this claim any more: give the job back."""
        self._spawn(self._release(claim, offer, replace(caller, idempotency_key=None)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _release(self, claim: asyncio.Future[tuple[dict[str, Any], str]], offer: Offer, caller: Caller) -> None:
        try:
            answer, _ = await claim
        except Refused:
            offer.ack()
        except AuraError as error:
            log.warning("next.not_claimed", code=error.code, detail=error.detail)
        else:
            offer.ack()
            await self._give_back(answer, caller)

    async def _give_back(self, answer: dict[str, Any], caller: Caller) -> None:
        try:
            await self._commands.call("release", {"job_id": answer["job_id"], "attempt": answer["attempt"]}, caller)
        except AuraError as error:  # the lease expires instead, or it is over already
            log.warning("next.not_returned", code=error.code, detail=error.detail)
