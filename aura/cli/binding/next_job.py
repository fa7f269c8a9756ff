"""``POST /models/{name}/next``: one pull from the pool's durable, then a claim. The gateway's ``NextJob`` port.

Each call has a puller of its own that wants exactly one offer at a time. An offer whose claim is refused (another worker was
first, cancelled) is acknowledged and the next one awaited. When the caller goes away: an offer not yet claimed goes back at once,
and a claim already on its way is carried to its end and released, so that no job waits for the lease of nobody. Pools are only bound,
never made: asking for a name that nothing was ever assigned to just waits.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import structlog

from aura.clock import Clock
from aura.commands.handler import Caller
from aura.commands.service import CommandService
from aura.errors import AuraError, Refused
from aura.ids import IdSource
from aura.log.connection import Connection
from aura.log.pool import Offer, PoolPuller

log = structlog.get_logger("aura.gateway")


class PoolNext:
    """Implements :class:`aura.gateway.ports.NextJob`."""

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource, service: CommandService) -> None:
        self._connection = connection
        self._clock = clock
        self._ids = ids
        self._service = service
        self._returning: set[asyncio.Task[None]] = set()

    async def __call__(
        self, model: str, worker_id: str, wait_s: float, lease_ttl_s: float | None, caller: Caller
    ) -> dict[str, Any] | None:
        offers: asyncio.Queue[Offer] = asyncio.Queue()
        puller = PoolPuller(self._connection, self._clock, self._ids, model, offers.put_nowait)
        params: dict[str, Any] = {"worker_id": worker_id, "model": model}
        if lease_ttl_s is not None:
            params["lease_ttl_s"] = lease_ttl_s
        await puller.start()
        try:
            async with asyncio.timeout(max(wait_s, 0.05)):
                while True:
                    puller.want(1)
                    answer = await self._claim(await offers.get(), params, replace(caller, idempotency_key=None))
                    if answer is not None:
                        return answer
        except TimeoutError:
            return None
        finally:
            await puller.stop()
            while not offers.empty():
                offers.get_nowait().nak()

    async def _claim(self, offer: Offer, params: dict[str, Any], caller: Caller) -> dict[str, Any] | None:
        job_id = offer.subject.split(".", 4)[3]
        claim = asyncio.ensure_future(
            self._service.call("claim", {**params, "job_id": job_id, "offered": True}, caller)
        )
        try:
            answer = await asyncio.shield(claim)
        except asyncio.CancelledError:
            self._return(claim, offer, caller)
            raise
        except Refused:
            offer.ack()
            return None
        except AuraError:
            offer.nak()
            raise
        offer.ack()
        return answer

    def _return(self, claim: asyncio.Future[dict[str, Any]], offer: Offer, caller: Caller) -> None:
        """Nobody waits for this claim any more: give the job back."""
        task = asyncio.create_task(self._release(claim, offer, caller))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _release(self, claim: asyncio.Future[dict[str, Any]], offer: Offer, caller: Caller) -> None:
        try:
            answer = await claim
            offer.ack()
            await self._service.call("release", {"job_id": answer["job_id"], "attempt": answer["attempt"]}, caller)
        except Refused:
            offer.ack()
        except AuraError as error:  # the lease expires instead
            log.warning("next.not_returned", code=error.code, detail=error.detail)
