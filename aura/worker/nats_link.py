"""The worker's link over NATS, on ``aura.log``: one connection for commands, pool, output and health.

Commands that are sent in the same tick of the event loop travel together (``cmd.aura.worker.<id>.batch``): a lone one goes out as it
is, a worker with many jobs in flight saves most of its messages. Each still has its own key and its own answer.

Ends of jobs are believed only from the log itself: messages that carry the headers of a republish (``Nats-Stream``,
``Nats-Sequence``); see ``runtime/permissions.py`` for why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from aura.clock import Clock
from aura.commands.wire import MAX_CALLS
from aura.errors import AuraError, TooLarge, Unavailable
from aura.events import subjects
from aura.ids import IdSource
from aura.log import wire
from aura.log.connection import Connection, connect
from aura.log.health import HeartbeatPublisher
from aura.log.output import OutputWriter
from aura.log.output_jetstream import JetStreamOutputBackend
from aura.log.pool import Offer, PoolPuller
from aura.log.rpc import IDEMPOTENCY_KEY, RpcClient
from aura.problems import error_of
from aura.worker.access import Access
from aura.worker.backoff import Backoff
from aura.worker.link import Assigned, Ended, EndedHow
from aura.worker.output import CollectedOutput

#: After this long a command is repeated: the answer, or who would have answered, is gone.
COMMAND_S = 3.0
CONNECT_S = 30.0
_FROM_LOG = b"\r\nNats-Stream: AURA_LOG\r\n"
#: Room for the subject and headers of a command.
_HEAD_BYTES = 2_048


#: A larger command travels alone.
_SMALL_BYTES = 32 * 1024


@dataclass(slots=True)
class _Call:
    """A command on its way: ``data`` is the JSON of its body."""

    name: str
    data: bytes
    key: str | None
    answer: asyncio.Future[dict[str, Any]]


class _OfferedJob:
    """An offer as the worker sees it."""

    __slots__ = ("_offer", "job_id")

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self.job_id = offer.subject.split(".", 4)[3]

    @property
    def seq(self) -> int:
        return self._offer.seq

    def ack(self) -> None:
        self._offer.ack()

    def nak(self) -> None:
        self._offer.nak()


class NatsLink:
    """See the module docstring; implements :class:`aura.worker.link.Link`."""

    def __init__(self, access: Access, model: str, clock: Clock, ids: IdSource) -> None:
        self._access = access
        self._model = model
        self._clock = clock
        self._ids = ids
        self._subject = subjects.worker_command(access.worker_id, "")
        self._connection: Connection | None = None
        self._rpc: RpcClient | None = None
        self._pool: PoolPuller | None = None
        self._health: HeartbeatPublisher | None = None
        self._outputs: JetStreamOutputBackend | None = None
        self._waiting: list[_Call] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def start(
        self,
        on_assigned: Callable[[Assigned], None],
        on_ended: Callable[[Ended], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        """Connect. Raises ``Unavailable``, ``ConfigError``."""
        access, clock, ids = self._access, self._clock, self._ids
        name = f"aura-worker-{access.worker_id}"
        connection = await connect(access.url, access.creds, name, connect_timeout_s=CONNECT_S, ids=ids)
        self._connection = connection
        self._rpc = RpcClient(connection, clock, ids)
        self._health = HeartbeatPublisher(connection)
        self._outputs = JetStreamOutputBackend(connection, clock, ids)
        self._pool = PoolPuller(connection, clock, ids, self._model, lambda offer: on_assigned(_OfferedJob(offer)))
        hows: tuple[EndedHow, ...] = ("cancelled", "lease_expired")
        for how in hows:
            await connection.subscribe_raw(f"aura.job.*.*.{how}", _ends(how, on_ended))
        await self._pool.start()
        connection.on_reconnect(on_reconnect)

    async def call(self, name: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """One worker command. Raises as the command service does, ``Unavailable``, ``TypeError`` for what JSON cannot hold."""
        if self._rpc is None or self._connection is None:
            raise Unavailable("not connected")
        data = orjson.dumps(body)
        limit = self._connection.max_payload - _HEAD_BYTES
        if len(data) > limit:
            raise TooLarge(f"the command has {len(data)} bytes; the limit is {limit}", limit=limit)
        if len(data) > _SMALL_BYTES:
            alone: dict[str, Any] = await self._ask(name, data, key)
            return alone
        loop = asyncio.get_running_loop()
        call = _Call(name, data, key, loop.create_future())
        self._waiting.append(call)
        if len(self._waiting) == 1:
            loop.call_soon(self._send_waiting)
        return await call.answer

    async def _ask(self, name: str, data: bytes, key: str | None) -> Any:
        """One request, one answer."""
        if self._rpc is None:
            raise Unavailable("not connected")
        headers = {IDEMPOTENCY_KEY: key} if key is not None else None
        answer = await self._rpc.call(self._subject + name, data, headers, timeout_s=COMMAND_S)
        if answer.status >= 400:
            raise error_of(answer.status, answer.body)
        return orjson.loads(answer.body)

    def _send_waiting(self) -> None:
        calls, self._waiting = self._waiting, []
        for start in range(0, len(calls), MAX_CALLS):
            task = asyncio.get_running_loop().create_task(self._send(calls[start : start + MAX_CALLS]))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, calls: list[_Call]) -> None:
        """Send commands together, and give each its answer. Raises nothing; the calls do."""
        try:
            if len(calls) == 1:
                answers = [{"status": 200, "body": await self._ask(calls[0].name, calls[0].data, calls[0].key)}]
            else:
                items = [{"name": call.name, "key": call.key, "body": orjson.Fragment(call.data)} for call in calls]
                answers = await self._ask("batch", orjson.dumps({"calls": items}), None)
        except asyncio.CancelledError:
            _settle_all(calls, Unavailable("the worker stopped"))
            raise
        except AuraError as error:
            _settle_all(calls, error)
            return
        for call, answer in zip(calls, answers, strict=True):
            if call.answer.done():
                continue
            if answer["status"] >= 400:
                call.answer.set_exception(error_of(answer["status"], orjson.dumps(answer["body"])))
            else:
                call.answer.set_result(answer["body"])

    def take(self, free: int) -> None:
        """How many more jobs may be delivered from now on."""
        if self._pool is not None:
            self._pool.want(free)

    async def stop_pulling(self) -> None:
        """No more deliveries."""
        if self._pool is not None:
            await self._pool.stop()

    async def report_health(self, report: dict[str, Any]) -> None:
        """One heartbeat. Raises ``Unavailable``."""
        if self._health is None:
            raise Unavailable("not connected")
        await self._health.report(self._model, self._access.worker_id, report)

    def output(self, project: int, job_id: str, attempt: int, data_key: bytes) -> CollectedOutput:
        """The writer of an attempt's output."""
        if self._outputs is None:
            raise Unavailable("not connected")
        writer = OutputWriter(self._outputs, self._ids, project, job_id, attempt, data_key)
        return CollectedOutput(writer, self._clock, lambda: Backoff(self._ids))

    async def stop(self) -> None:
        """Close; what was sent before has left. Safe twice."""
        await self.stop_pulling()
        if self._connection is not None and not self._connection.is_closed:
            if self._connection.is_connected:
                await self._connection.flush()
            await self._connection.close()


def _settle_all(calls: list[_Call], error: AuraError) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(error)


def _ends(how: EndedHow, on_ended: Callable[[Ended], None]) -> Callable[[bytes, bytes, bytes, bytes | None], None]:
    def receive(subject: bytes, _reply: bytes, body: bytes, headers: bytes | None) -> None:
        if headers is None or _FROM_LOG not in headers:
            return
        attempt = orjson.loads(body).get("attempt") if how == "lease_expired" else None
        on_ended(Ended(how, subject.split(b".", 4)[3].decode(), wire.sequence(headers), attempt))

    return receive
