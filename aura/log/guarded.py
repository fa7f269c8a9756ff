"""Storing one guarded message, with a definite answer whatever happens to the acknowledgement.

The unknown-outcome protocol (DECISIONS, "Loading"):

::

    transmit ──ack──────────────────────────▶ stored
       │  ├──10071 (guard refused)──▶ ask the leader for our id ──▶ stored | refused
       │  ├──10164 10163 10158 503 … (not now)──▶ transmit again after a pause
       │  └──10054──▶ TooLarge
       └──silence or a reconnect──▶ transmit the same bytes, id and guard again
                     deadline ──▶ Unavailable: the outcome is unknown to the caller

* Only *stored* and *refused by the guard* are final. A guard that was refused because the entity moved on stays refused (its
  sequence only rises), so a copy of the same message that is still on its way can do no harm afterwards. 10164 is not final:
  somebody else's write, or our own earlier copy, is in flight under this guard and may still fail or succeed.
* If our message was stored it is the first message of its exact subject after the expected sequence, because the guard allowed
  nothing in between; that is what :meth:`StreamReader.stored_as` looks for. So even a caller that repeats an append after
  ``Unavailable``, with the same event id, gets the sequence of the one stored event.
* ``duplicate: true`` (the id is known within the duplicate window) is the sequence of the stored one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from aura.errors import AuraError, TooLarge, Unavailable, WrongExpectedSequence
from aura.log import wire
from aura.log.inbox import Inbox
from aura.log.reader import StreamReader

log = structlog.get_logger("aura.log")

WRONG_SEQUENCE = 10071
MESSAGE_TOO_LARGE = 10054
DUPLICATE_IN_BATCH = 10201
#: Somebody's write (perhaps our own earlier copy) is in flight, or the stream has no leader for a moment.
NOT_NOW = frozenset({10164, 10163, 10158, 10008, 10009, 10210, 10211})
#: Refusals that only a wrong programme can cause: a guard without a sequence, another stream's subject …
_BUGS = frozenset({10193, 10060, 10174, 10175, 10177, 10179, 10199, 10200})

RESEND_S = 2.0
DEADLINE_S = 10.0
_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.25


@dataclass(slots=True)
class Write:
    """One message to store. ``subject`` is where it is published, ``stored_subject`` where it ends up; ``guard`` matches
    stored subjects. Not frozen, as that would triple the price of making one, but nobody changes it."""

    subject: str
    stored_subject: str
    guard: str | None
    expected_seq: int
    message_id: str
    body: bytes
    extra: tuple[tuple[str, str], ...] = ()

    def headers(self, *more: tuple[str, str]) -> bytes:
        """The header block: batch headers (``more``) first, then id and guard."""
        guard: tuple[tuple[str, str], ...] = ()
        if self.guard is not None:
            guard = (
                ("Nats-Expected-Last-Subject-Sequence", str(self.expected_seq)),
                ("Nats-Expected-Last-Subject-Sequence-Subject", self.guard),
            )
        return wire.header_block((*more, ("Nats-Msg-Id", self.message_id), *guard, *self.extra))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A parsed publish acknowledgement: ``seq`` when stored, else the server's ``code`` and ``text``."""

    seq: int
    code: int
    text: str

    @property
    def actual(self) -> int | None:
        """The entity's last sequence as 10071 names it."""
        number = self.text.rpartition(" ")[2]
        return int(number) if number.isdigit() else None


def verdict(headers: bytes | None, body: bytes) -> Verdict:
    """Parse an acknowledgement. No responders counts as code 503."""
    if not body:
        return Verdict(0, wire.status(headers) or 503, "nobody stores that subject now")
    answer = orjson.loads(body)
    error = answer.get("error")
    if error is None:
        return Verdict(int(answer["seq"]), 0, "")
    return Verdict(0, int(error.get("err_code", 0) or error.get("code", 500)), str(error.get("description", "")))


def may_pass(code: int) -> bool:
    """Whether the refusal says nothing about this message, so that it is worth sending again."""
    return code in NOT_NOW or code in (503, 10023, 10047, 10077, 10039)


def refusal(found: Verdict, limit: int) -> AuraError:
    """The error for a definite refusal that is not the guard's."""
    if found.code == MESSAGE_TOO_LARGE:
        return TooLarge("the message is larger than the stream allows", limit=limit)
    if found.code in _BUGS:
        return AuraError(f"the log refused a malformed append ({found.code}: {found.text})")
    return Unavailable(f"the log refused the append ({found.code})")


class _Exchange:
    """One message on its way."""

    __slots__ = ("_lane", "_pause", "command", "deadline", "final", "future", "reply_to", "write")

    def __init__(self, lane: GuardedWriter, write: Write, final: float) -> None:
        self._lane = lane
        self._pause = _FIRST_PAUSE_S
        self.write = write
        self.final = final
        self.deadline = min(final, lane.now() + RESEND_S)
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.reply_to = ""
        self.command = b""

    def on_reply(self, headers: bytes | None, body: bytes) -> bool:
        if self.future.done():
            return True
        found = verdict(headers, body)
        if found.seq:
            self.future.set_result(found.seq)
            return True
        if found.code == WRONG_SEQUENCE:
            self._lane.settle(self, found)
            return True
        if may_pass(found.code):
            asyncio.get_running_loop().call_later(self._pause, self.transmit)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE_S)
            return False
        self.future.set_exception(refusal(found, self._lane.limit))
        return True

    def transmit(self) -> None:
        if not self.future.done() and self._lane.connected:
            self._lane.send(self.command)

    def on_overdue(self) -> float | None:
        now = self._lane.now()
        if self.future.done():
            return None
        if now >= self.final:
            self.future.set_exception(Unavailable("the log did not acknowledge in time; the outcome is unknown"))
            return None
        self.transmit()
        return min(self.final, now + RESEND_S)

    def on_reconnect(self) -> None:
        self.transmit()

    def on_close(self) -> None:
        if not self.future.done():
            self.future.set_exception(Unavailable("the connection to the log is closed; the outcome is unknown"))


class GuardedWriter:
    """Stores messages in one stream, each with its own definite answer. Any number may be in flight."""

    def __init__(self, inbox: Inbox, reader: StreamReader[Any], *, limit: int, deadline_s: float = DEADLINE_S) -> None:
        self._inbox = inbox
        self._reader = reader
        self._deadline_s = deadline_s
        self._settling: set[asyncio.Task[None]] = set()
        self.limit = limit
        self.in_flight = 0

    def now(self) -> float:
        """Monotonic seconds."""
        return self._inbox.clock.monotonic_s()

    @property
    def connected(self) -> bool:
        """Whether a command would leave now; if not, the reconnect sends it."""
        return bool(self._inbox.connection.is_connected)

    def send(self, command: bytes) -> None:
        """Put a command on the wire."""
        self._inbox.connection.send(command)

    def submit(self, write: Write) -> asyncio.Future[int]:
        """Send ``write``; the future is its sequence, ``WrongExpectedSequence``, ``TooLarge`` or ``Unavailable``."""
        exchange = _Exchange(self, write, self.now() + self._deadline_s)
        exchange.reply_to = self._inbox.register(exchange)
        try:
            exchange.command = wire.command(write.subject, exchange.reply_to, write.headers(), write.body)
        except AuraError:
            self._inbox.forget(exchange.reply_to)
            raise
        self.in_flight += 1
        exchange.future.add_done_callback(self._landed)
        exchange.transmit()
        return exchange.future

    def _landed(self, _future: asyncio.Future[int]) -> None:
        self.in_flight -= 1

    def settle(self, exchange: _Exchange, found: Verdict) -> None:
        """Decide between "refused" and "it was our own earlier copy"."""
        task = asyncio.get_running_loop().create_task(self._settle(exchange, found))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, exchange: _Exchange, found: Verdict) -> None:
        write = exchange.write
        try:
            seq = await self._reader.stored_as(write.stored_subject, write.message_id, write.expected_seq)
        except AuraError as error:
            if not exchange.future.done():
                exchange.future.set_exception(error)
            return
        if exchange.future.done():
            return
        if seq is not None:
            exchange.future.set_result(seq)
        else:
            exchange.future.set_exception(WrongExpectedSequence(write.guard or "", write.expected_seq, found.actual))
