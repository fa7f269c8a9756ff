"""Heartbeats of workers (``health.aura.<model>.<worker>``, stream ``AURA_HEALTH``) and renewals of leases.

Both are best effort by nature: the next one comes in seconds. A heartbeat is an observation, not an event; it has no guard and
its loss means nothing until ``3 × interval_s`` have passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from aura.clock import Clock
from aura.errors import InvalidRequest, Unavailable
from aura.events import subjects
from aura.ids import IdSource
from aura.log import wire
from aura.log.connection import Connection, RawSubscription
from aura.log.inbox import inbox_of, request
from aura.log.reader import StreamReader
from aura.log.store import LogIdentity, Recorded

log = structlog.get_logger("aura.log")

STREAM = "AURA_HEALTH"
POLL_S = 5.0
#: After a hint: the message may not be stored yet, and others are on their way.
_GATHER_S = 0.05
MAX_REPORT_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One heartbeat as it arrives live: whose it is by its *subject* (the credential pins it), and the JSON it carries."""

    model: str
    worker_id: str
    body: bytes


class HeartbeatPublisher:
    """Implements ``commands.operation.HeartbeatSink``; the SDK worker uses it too."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def report(self, model: str, worker_id: str, report: dict[str, Any]) -> None:
        """Publish one heartbeat. Raises ``InvalidRequest`` for bad names or more than 32 KiB, ``Unavailable`` while there is no
        connection (an old heartbeat sent later would lie)."""
        subject = subjects.health(subjects.check_name(model, "model"), subjects.check_name(worker_id, "worker_id"))
        body = orjson.dumps(report)
        if len(body) > MAX_REPORT_BYTES:
            raise InvalidRequest(f"a heartbeat has at most {MAX_REPORT_BYTES} bytes")
        if not self._connection.is_connected:
            raise Unavailable("no connection to the log")
        self._connection.send(wire.command(subject, "", b"", body))


async def follow_heartbeats(connection: Connection, on_heartbeat: Callable[[Heartbeat], None]) -> RawSubscription:
    """Heartbeats as they are sent, live only. ``on_heartbeat`` runs in the read loop and must be quick."""

    def receive(subject: bytes, _reply: bytes, body: bytes, _headers: bytes | None) -> None:
        tokens = subject.decode().split(".")
        if len(tokens) == 4:
            on_heartbeat(Heartbeat(tokens[2], tokens[3], body))

    return await connection.subscribe_raw("health.aura.>", receive)


class HealthLog:
    """What ``AURA_HEALTH`` still holds (24 hours), as a log of its own; sequences have gaps where messages expired.

    Its epoch is the stream's creation time: a re-created stream is another one.
    """

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self._connection = connection
        self._inbox = inbox_of(connection, clock, ids)
        self._reader: StreamReader[Recorded] = StreamReader(self._inbox, STREAM, wire.recorded, gapless=False)

    async def identity(self) -> LogIdentity:
        """The stream's epoch and ends. Raises ``Unavailable``."""
        reply = await request(self._inbox, f"$JS.API.STREAM.INFO.{STREAM}", timeout_s=5.0, resend_s=1.0)
        answer = orjson.loads(reply.body)
        if (error := answer.get("error")) is not None:
            raise Unavailable(f"{STREAM} does not tell its state ({error.get('err_code')})")
        state = answer["state"]
        return LogIdentity(str(answer["created"]), int(state["first_seq"]), int(state["last_seq"]))

    async def get(self, seq: int) -> Recorded | None:
        """One heartbeat, ``None`` when it is not there (any more)."""
        return await self._reader.get(seq)

    async def read(
        self, from_seq: int = 1, *, to_seq: int | None = None, subject: str | None = None, batch: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        """Batches from ``from_seq`` to ``to_seq`` or the end as of the call. Raises ``Unavailable``."""
        async for found in self._reader.read(from_seq, to_seq=to_seq, subject=subject, batch=batch):
            yield found

    async def follow(self, from_seq: int) -> AsyncIterator[list[Recorded]]:
        """Batches from ``from_seq`` and then live, for ever.

        A live heartbeat is only a hint to read the stream (it carries no sequence); without hints it is read every
        :data:`POLL_S`. Failures to read are waited out.
        """
        hint = asyncio.Event()
        subscription = await follow_heartbeats(self._connection, lambda _heartbeat: hint.set())
        position = from_seq
        try:
            while True:
                hint.clear()
                try:
                    async for batch in self.read(position):
                        position = batch[-1].seq + 1
                        yield batch
                except Unavailable as error:
                    log.warning("health.read_failed", error=error.detail)
                try:
                    async with asyncio.timeout(POLL_S):
                        await hint.wait()
                    await asyncio.sleep(_GATHER_S)
                except TimeoutError:
                    continue
        finally:
            await subscription.unsubscribe()


class CoreLeaseRenewals:
    """Implements :class:`~aura.log.ports.LeaseRenewals` by a core message."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def renewed(self, job_id: str, attempt: int, worker_id: str) -> None:
        """Best effort: without a connection nothing is sent."""
        if self._connection.is_connected:
            body = orjson.dumps({"job_id": job_id, "attempt": attempt, "worker_id": worker_id})
            self._connection.send(wire.command(subjects.LEASE_RENEWED, "", b"", body))


async def follow_renewals(connection: Connection, on_renewed: Callable[[str, int, str], None]) -> RawSubscription:
    """``(job_id, attempt, worker_id)`` of every checked renewal. Unreadable messages are logged and ignored."""

    def receive(_subject: bytes, _reply: bytes, body: bytes, _headers: bytes | None) -> None:
        try:
            renewal = orjson.loads(body)
            job_id, attempt, worker_id = str(renewal["job_id"]), int(renewal["attempt"]), str(renewal["worker_id"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            log.warning("lease.renewal_unreadable")
            return
        on_renewed(job_id, attempt, worker_id)

    return await connection.subscribe_raw(subjects.LEASE_RENEWED, receive)
