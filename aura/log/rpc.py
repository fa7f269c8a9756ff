"""Request and reply over NATS, for commands of workers and of the CLI.

The serving side is a NATS micro service (``nats micro ls``, ``info`` and ``stats`` show it); several gateways share the work
through a queue group. The subject is the caller's identity: a credential allows a worker only ``cmd.aura.worker.<its id>.…``.

* An answer is JSON. A refusal is a problem object and carries the header ``Aura-Problem: <status>``.
* Handlers run concurrently, at most :data:`MAX_IN_FLIGHT` at once; above that the answer is 429 at once (G12).
* Requests are taken where the socket is read, not by nats-py's queue and task per endpoint; its ``Service`` answers ``PING``, ``INFO`` and
  ``STATS``, with what is counted here.
* At most once: a lost request or answer is the caller's timeout, and the caller repeats it with the same
  ``Aura-Idempotency-Key``. A client never repeats by itself, except after "nobody listens", which means it was not delivered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import orjson
import structlog
from nats.micro.request import Request
from nats.micro.service import Endpoint as MicroEndpoint
from nats.micro.service import Service, ServiceConfig

from aura.clock import Clock
from aura.errors import Unavailable
from aura.ids import IdSource
from aura.log import wire
from aura.log.connection import Connection
from aura.log.direct import RawHandler
from aura.log.inbox import inbox_of, request

log = structlog.get_logger("aura.log")

PROBLEM = "Aura-Problem"
IDEMPOTENCY_KEY = "Aura-Idempotency-Key"
MAX_IN_FLIGHT = 1_000
QUEUE_GROUP = "aura"

Handler = Callable[[str, Mapping[str, str], bytes], Awaitable[tuple[int, bytes]]]
"""``(subject, headers, body) -> (status, JSON)``; below 400 is an answer, else a problem object."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation: ``name`` for ``nats micro``, ``subject`` with wildcards (``cmd.aura.worker.*.claim``)."""

    name: str
    subject: str
    handler: Handler


class RpcServer:
    """Serves endpoints until ``stop``, which answers what has been accepted."""

    def __init__(
        self, connection: Connection, name: str, version: str, endpoints: list[Endpoint], *, description: str = ""
    ) -> None:
        self._connection = connection
        self._name = name
        self._version = version
        self._description = description
        self._endpoints = endpoints
        self._service: Service | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Register; returns when the server knows all endpoints."""
        config = ServiceConfig(
            name=self._name, version=self._version, description=self._description, queue_group=QUEUE_GROUP
        )
        self._service = Service(self._connection, config)
        await self._service.start()
        for endpoint in self._endpoints:
            await self._service.add_endpoint(name=endpoint.name, subject=endpoint.subject, handler=_elsewhere)
            registered = self._service._endpoints[-1]
            if registered._subscription is not None:
                self._connection.take_over(registered._subscription, self._accept(endpoint.handler, registered))
        await self._connection.flush()

    async def stop(self) -> None:
        """Accept nothing more, finish what runs. Safe twice."""
        if self._service is not None:
            service, self._service = self._service, None
            taken = [endpoint._subscription for endpoint in service._endpoints]
            if not self._connection.is_closed:
                await service.stop()
            for subscription in taken:
                if subscription is not None:
                    self._connection.give_back(subscription)
        if self._running:
            await asyncio.wait(self._running, timeout=10)

    def _accept(self, handler: Handler, counts: MicroEndpoint) -> RawHandler:
        def accept(subject: bytes, reply: bytes, body: bytes, headers: bytes | None) -> None:
            if not reply:
                return
            counts._num_requests += 1
            reply_to = reply.decode()
            if len(self._running) >= MAX_IN_FLIGHT:
                counts._num_errors += 1
                self._answer(reply_to, 429, _problem(429, "overloaded", "too many commands at once"))
                return
            task = asyncio.get_running_loop().create_task(
                self._run(handler, counts, subject.decode(), wire.header_pairs(headers), body, reply_to)
            )
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        return accept

    async def _run(
        self,
        handler: Handler,
        counts: MicroEndpoint,
        subject: str,
        headers: Mapping[str, str],
        body: bytes,
        reply_to: str,
    ) -> None:
        began = time.perf_counter_ns()
        try:
            status, answer = await handler(subject, headers, body)
        except Exception:  # the handler maps our own errors; anything else is a bug and must not end the service
            log.exception("rpc.handler_failed", subject=subject)
            status, answer = 500, _problem(500, "internal", "internal error")
        self._answer(reply_to, status, answer)
        if status >= 400:
            counts._num_errors += 1
        counts._processing_time += time.perf_counter_ns() - began
        counts._average_processing_time = counts._processing_time // counts._num_requests

    def _answer(self, reply_to: str, status: int, body: bytes) -> None:
        headers = wire.header_block(((PROBLEM, str(status)),)) if status >= 400 else b""
        if len(body) + len(headers) > self._connection.max_payload:
            body = _problem(500, "too_large", "the answer is larger than a message may be")
            headers = wire.header_block(((PROBLEM, "500"),))
        self._connection.send(wire.command(reply_to, "", headers, body))


async def _elsewhere(_request: Request) -> None:
    """Requests do not come this way: :meth:`Connection.take_over`."""


def _problem(status: int, code: str, title: str) -> bytes:
    return orjson.dumps({"type": "about:blank", "title": title, "status": status, "code": code})


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` 200, or the problem's; ``body`` JSON."""

    status: int
    body: bytes


class RpcClient:
    """Calls endpoints. Any number of calls may be under way."""

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self._inbox = inbox_of(connection, clock, ids)

    async def call(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None, *, timeout_s: float = 10.0
    ) -> Answer:
        """Send a command and wait for its answer.

        Raises ``Unavailable`` when nobody listens or no answer came in time; in the second case the outcome is unknown and the
        caller repeats with the same ``Aura-Idempotency-Key``.
        """
        block = wire.header_block(headers.items()) if headers else b""
        reply = await request(self._inbox, subject, body, block, timeout_s=timeout_s)
        if reply.status:
            raise Unavailable(f"the command service refused the request ({reply.status})")
        return Answer(int(wire.header(reply.headers, PROBLEM) or 200), reply.body)
