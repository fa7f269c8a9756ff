"""Replies: one subscription, a token per request, no task and no timer per request.

nats-py's ``request`` makes a future, a name and an ``asyncio.wait_for`` per call. Here a request is a token in the reply
subject and an object in a dictionary; one timer sweeps what is overdue.

::

    register(receiver) ──▶ reply subject ──▶ (caller publishes) ──▶ on_reply … on_reply → True ──▶ forgotten
                                                     │ deadline passes ──▶ on_overdue ──▶ forgotten, or a new deadline
                                                     │ connection comes back ──▶ on_reconnect (the reply may be lost)

A reply whose token is not known any more is dropped. Everything runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from aura.clock import Clock
from aura.errors import Unavailable
from aura.ids import IdSource
from aura.log import wire
from aura.log.connection import Connection, RawSubscription

log = structlog.get_logger("aura.log")
_SWEEP_S = 0.05


class Receiver(Protocol):
    """Something that waits for replies. ``deadline`` is on ``Clock.monotonic_s``."""

    deadline: float

    def on_reply(self, headers: bytes | None, body: bytes) -> bool:
        """Take a reply. ``True`` ends the exchange."""

    def on_overdue(self) -> float | None:
        """The deadline has passed: give up (``None``) or wait until the deadline returned."""

    def on_reconnect(self) -> None:
        """The connection was lost and is back: a reply sent in between is lost."""

    def on_close(self) -> None:
        """The connection was closed by its owner: nothing will come."""


class Inbox:
    """The reply subjects of one connection; :func:`inbox_of` gives everybody on a connection the same one.

    ``start`` before the first ``register``. When the connection is closed, whatever still waits is told that it is overdue.
    """

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self.connection = connection
        self.clock = clock
        self._prefix = f"{connection.inbox_prefix}.{ids.uuid7().replace('-', '')[-16:]}."
        self._waiting: dict[str, Receiver] = {}
        self._counter = 0
        self._subscription: RawSubscription | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._starting = asyncio.Lock()
        #: Counts losses of the connection: an answer of many messages that began under another number has a hole.
        self.losses = 0

    @property
    def started(self) -> bool:
        """Whether ``register`` may be called."""
        return self._subscription is not None

    async def start(self) -> None:
        """Subscribe; returns when the command has reached the server or waits for a reconnect. Safe twice."""
        async with self._starting:
            if self._subscription is not None:
                return
            subscription = await self.connection.subscribe_raw(self._prefix + "*", self._on_message)
            self.connection.on_disconnect(self._on_lost)
            self.connection.on_reconnect(self._on_reconnect)
            self.connection.on_close(self._closed)
            self._subscription = subscription

    def _closed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        for receiver in waiting.values():
            receiver.on_close()

    def register(self, receiver: Receiver) -> str:
        """The reply subject under which ``receiver`` gets what comes."""
        self._counter += 1
        token = str(self._counter)
        self._waiting[token] = receiver
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        return self._prefix + token

    def forget(self, reply: str) -> None:
        """No longer wait under this reply subject."""
        self._waiting.pop(reply[len(self._prefix) :], None)

    def _on_message(self, subject: bytes, _reply: bytes, body: bytes, headers: bytes | None) -> None:
        token = subject[len(self._prefix) :].decode()
        receiver = self._waiting.get(token)
        if receiver is not None and receiver.on_reply(headers, body):
            self._waiting.pop(token, None)

    def _on_lost(self) -> None:
        self.losses += 1

    def _on_reconnect(self) -> None:
        for receiver in list(self._waiting.values()):
            receiver.on_reconnect()

    def _sweep(self) -> None:
        self._timer = None
        now = self.clock.monotonic_s()
        for token, receiver in list(self._waiting.items()):
            if receiver.deadline <= now:
                later = receiver.on_overdue()
                if later is None:
                    self._waiting.pop(token, None)
                else:
                    receiver.deadline = later
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)


def inbox_of(connection: Connection, clock: Clock, ids: IdSource) -> Inbox:
    """The connection's inbox, made on first use."""
    if connection.inbox is None:
        connection.inbox = Inbox(connection, clock, ids)
    return connection.inbox


class Reply:
    """One answer: ``status`` (0 without an inline status), raw ``headers``, ``body``."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, headers: bytes | None, body: bytes) -> None:
        self.status = wire.status(headers)
        self.headers = headers
        self.body = body


class _Request:
    """A single-answer request that is sent again after a reconnect or when ``resend_s`` pass without an answer."""

    __slots__ = ("_command", "_final", "_inbox", "_resend_s", "deadline", "future")

    def __init__(self, inbox: Inbox, timeout_s: float, resend_s: float | None) -> None:
        now = inbox.clock.monotonic_s()
        self._inbox = inbox
        self._final = now + timeout_s
        self._resend_s = resend_s
        self._command = b""
        self.deadline = self._final if resend_s is None else min(self._final, now + resend_s)
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def transmit(self, command: bytes) -> None:
        self._command = command
        if not self._inbox.connection.send(command) and self._resend_s is None:
            self.future.set_exception(Unavailable("no connection to the log; the request was not delivered"))

    def on_reply(self, headers: bytes | None, body: bytes) -> bool:
        if not self.future.done():
            self.future.set_result(Reply(headers, body))
        return True

    def on_overdue(self) -> float | None:
        now = self._inbox.clock.monotonic_s()
        if self._resend_s is not None and now < self._final and not self.future.done():
            self._inbox.connection.send(self._command)
            return min(self._final, now + self._resend_s)
        if not self.future.done():
            self.future.set_exception(Unavailable("the log does not answer"))
        return None

    def on_reconnect(self) -> None:
        if self._resend_s is not None and not self.future.done():
            self._inbox.connection.send(self._command)

    def on_close(self) -> None:
        if not self.future.done():
            self.future.set_exception(Unavailable("the connection to the log is closed"))


async def request(
    inbox: Inbox,
    subject: str,
    body: bytes = b"",
    headers: bytes = b"",
    *,
    timeout_s: float = 5.0,
    resend_s: float | None = None,
) -> Reply:
    """Publish and wait for one answer. ``resend_s`` marks the request as safe to repeat.

    Raises ``Unavailable`` on timeout; at once, and surely not delivered, when it is not safe to repeat and nobody listens on
    ``subject`` or there is no connection.
    """
    if not inbox.started:
        await inbox.start()
    clock = inbox.clock
    final = clock.monotonic_s() + timeout_s
    pause = 0.01
    while True:
        left = final - clock.monotonic_s()
        if left <= 0:
            raise Unavailable(f"nobody answers on {subject.partition('.')[0]}")
        exchange = _Request(inbox, left, resend_s)
        reply_to = inbox.register(exchange)
        exchange.transmit(wire.command(subject, reply_to, headers, body))
        try:
            reply = await exchange.future
        finally:
            inbox.forget(reply_to)
        if reply.status != 503:
            return reply
        if resend_s is None:
            raise Unavailable("nobody listens there now")
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 2, 0.5)
