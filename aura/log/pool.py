"""A worker's side of a pool: pulls assignments from the durable ``pool_<model>``, as many as it has room for.

The durable exists before anything is assigned to the pool (``topology.Pools``); a worker only pulls and acknowledges, it may not
create consumers.

::

    want(n) ──half of it is not asked for──▶ pull request (batch, 30 s, heartbeats) ──▶ on_offer per assignment
                 ▲                        │ 408 expired, 409, 404: what was not delivered is asked for again
                 └────────────────────────┴ silence (no heartbeat), reconnect: all requests are forgotten and made anew

Invariants: never more offers outstanding than wanted, except after a stalled request that was not dead, when at most one
request's worth comes on top (the caller naks what it has no room for). An offer not acknowledged within the pool's ``ack_wait``
(30 s) comes again, to any worker: acknowledge when the claim is committed or refused. Acknowledgements fence nothing; the
claim in the log does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import orjson
import structlog

from aura.clock import Clock
from aura.events import subjects
from aura.ids import IdSource
from aura.log import wire
from aura.log.connection import Connection, RawSubscription

log = structlog.get_logger("aura.log")

EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
_RETRY_S = 0.5
_CHECK_S = 1.0


@dataclass(frozen=True, slots=True)
class Offer:
    """An assignment on offer: the log's event, and how often it has been delivered."""

    subject: str
    body: bytes
    seq: int
    deliveries: int
    _reply: str
    _connection: Connection

    def ack(self) -> None:
        """Claimed or refused for good: not to be offered again. In no hurry: the pool waits for half a minute."""
        self._connection.send_along(wire.command(self._reply, "", b"", b"+ACK"))

    def nak(self, delay_s: float = 0.0) -> None:
        """Not now: offer it again, to any worker, after ``delay_s``."""
        self._answer(b"-NAK" + (b' {"delay": %d}' % int(delay_s * 1e9) if delay_s else b""))

    def in_progress(self) -> None:
        """Still at it: the 30 s start again."""
        self._answer(b"+WPI")

    def _answer(self, body: bytes) -> None:
        self._connection.send(wire.command(self._reply, "", b"", body))


class PoolPuller:
    """Pulls from one pool. ``on_offer`` runs in the read loop and must be quick."""

    def __init__(
        self, connection: Connection, clock: Clock, ids: IdSource, model: str, on_offer: Callable[[Offer], None]
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.AURA_LOG.{subjects.pool_durable(model)}"
        self._model = model
        self._on_offer = on_offer
        self._prefix = f"{connection.inbox_prefix}.{ids.uuid7().replace('-', '')[-16:]}."
        self._requests: dict[str, int] = {}
        self._counter = 0
        self._wanted = 0
        self._heard_at = 0.0
        self._not_before = 0.0
        self._subscription: RawSubscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def asked_for(self) -> int:
        """Assignments that may still come without another request."""
        return sum(self._requests.values())

    async def start(self) -> None:
        """Subscribe; pulling begins with :meth:`want`."""
        self._subscription = await self._connection.subscribe_raw(self._prefix + "*", self._on_message)
        self._connection.on_reconnect(self._start_over)
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Pull no more. What was delivered and not acknowledged comes again elsewhere. Safe twice."""
        self._wanted = 0
        self._connection.forget_listener(self._start_over)
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.unsubscribe()

    def want(self, room: int) -> None:
        """Say how many more offers there is room for *now* (each offer delivered takes one off)."""
        self._wanted = max(room, 0)
        self._top_up()

    def _top_up(self) -> None:
        missing = self._wanted - self.asked_for
        now = self._clock.monotonic_s()
        if 2 * missing <= self._wanted or self._subscription is None or not self._connection.is_connected:
            return
        if now < self._not_before:
            self._wake.set()
            return
        self._counter += 1
        token = str(self._counter)
        query = {"batch": missing, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        if not self._requests:
            self._heard_at = now
        self._requests[token] = missing
        self._connection.send(wire.command(self._next, self._prefix + token, b"", orjson.dumps(query)))

    def _on_message(self, subject: bytes, reply: bytes, body: bytes, headers: bytes | None) -> None:
        self._heard_at = self._clock.monotonic_s()
        status = wire.status(headers)
        if status == 0 and reply.startswith(b"$JS.ACK."):
            self._offer(subject, reply, body)
        elif status != 100:
            self._request_ended(subject, status, headers)

    def _offer(self, subject: bytes, reply: bytes, body: bytes) -> None:
        # A message carries its own subject, not the request's; requests are served in order, so the oldest is meant.
        for token, left in self._requests.items():
            if left <= 1:
                del self._requests[token]
            else:
                self._requests[token] = left - 1
            break
        self._wanted = max(self._wanted - 1, 0)
        # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>[.<random>]
        fields = reply.split(b".")
        at = 4 if len(fields) <= 9 else 6
        offer = Offer(subject.decode(), body, int(fields[at + 1]), int(fields[at]), reply.decode(), self._connection)
        self._on_offer(offer)
        self._top_up()

    def _request_ended(self, subject: bytes, status: int, headers: bytes | None) -> None:
        self._requests.pop(subject[len(self._prefix) :].decode(), None)
        if status not in (404, 408):
            # 503 no such consumer (yet), 409 consumer deleted, leadership change, too many waiting: not in a hot loop.
            self._not_before = self._clock.monotonic_s() + _RETRY_S
            log.warning("pool.pull_refused", model=self._model, status=status, reason=_first_line(headers))
        self._wake.set()

    def _start_over(self) -> None:
        self._requests.clear()
        self._wake.set()

    async def _watch(self) -> None:
        """Ask again for what requests left undelivered; forget requests whose heartbeats stopped."""
        while True:
            try:
                async with asyncio.timeout(_CHECK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            now = self._clock.monotonic_s()
            if self._requests and now - self._heard_at > 2 * HEARTBEAT_S + 1:
                log.warning("pool.stalled", model=self._model, silent_s=round(now - self._heard_at, 1))
                self._requests.clear()
            if now < self._not_before:
                await asyncio.sleep(self._not_before - now)
            self._top_up()


def _first_line(headers: bytes | None) -> str:
    return (headers or b"").partition(b"\r\n")[0][9:100].decode("ascii", "replace")
