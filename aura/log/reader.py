"""Reading a stream: direct gets, many at once, with a function per message instead of a fetch.

``$JS.API.DIRECT.GET.<stream>`` answers from any replica; it is fast and may lag. ``$JS.API.STREAM.MSG.GET.<stream>`` answers
from the leader: what is decided for good is read there (``consistent``).

:meth:`StreamReader.read` keeps several windows in flight. In a *gapless* stream (the log: nothing can delete from it) a window
is a fixed range of sequences, so windows overlap freely and every sequence must arrive; what a reconnect withholds is asked for
again, what a lagging replica withholds the leader is asked for, and only what the leader does not have raises
``LogRegression``. In other streams, and with a subject filter, each window starts after the last message of the one before.
Reading always goes to the end as the leader saw it at the call.

A window is given up after ``_STALL_S`` of *silence*, however long it takes in all; what had come of it by then is kept.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Protocol, TypeVar

import orjson

from aura.errors import AuraError, LogRegression, Unavailable
from aura.log import wire
from aura.log.inbox import Inbox, Reply, request

WINDOWS_IN_FLIGHT = 4
#: Most bytes the server sends for one window.
WINDOW_BYTES = 8 * 1024 * 1024
_RESEND_S = 1.0
_STALL_S = 3.0


class Sequenced(Protocol):
    """A message that knows its place in its stream."""

    @property
    def seq(self) -> int:
        """The sequence."""


T = TypeVar("T", bound=Sequenced)


class _Lost(Exception):
    """A window's answer will not come (reconnect or silence): ask again."""


class _Window(Generic[T]):
    """Collects one batch answer. ``pending`` is how many messages the server had after it."""

    __slots__ = ("_counted", "_decode", "_inbox", "_loss", "deadline", "done", "found", "pending")

    def __init__(self, inbox: Inbox, decode: Callable[[bytes, bytes], T]) -> None:
        self.found: list[T] = []
        self.pending = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._decode = decode
        self._inbox = inbox
        self._loss = inbox.losses
        self._counted = 0
        self.deadline = inbox.clock.monotonic_s() + _STALL_S

    def on_reply(self, headers: bytes | None, body: bytes) -> bool:
        if self.done.done():
            return True
        if self._inbox.losses != self._loss:  # the rest of an answer whose middle was lost with the connection
            self.done.set_exception(_Lost)
            return True
        if headers is not None and headers[8:9] != b" ":
            self.found.append(self._decode(headers, body))
            return False
        status = wire.status(headers)
        if status == 204:
            self.pending = int(wire.header(headers, "Nats-Num-Pending") or 0)
            self.done.set_result(None)
        elif status == 404:
            self.done.set_result(None)
        elif status == 503:
            self.done.set_exception(_Lost)
        else:
            self.done.set_exception(AuraError(f"direct get refused: {wire.header(headers, 'Description') or status}"))
        return True

    def on_overdue(self) -> float | None:
        if self.done.done():
            return None
        if len(self.found) > self._counted:
            self._counted = len(self.found)
            return self._inbox.clock.monotonic_s() + _STALL_S
        self.done.set_exception(_Lost)
        return None

    def on_reconnect(self) -> None:
        if not self.done.done():
            self.done.set_exception(_Lost)

    def on_close(self) -> None:
        if not self.done.done():
            self.done.set_exception(Unavailable("the connection to the log is closed"))

    def drop(self) -> None:
        """Nobody waits for it any more."""
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()


class StreamReader(Generic[T]):
    """Reads one stream; ``decode`` makes a message of raw headers and body."""

    def __init__(
        self, inbox: Inbox, stream: str, decode: Callable[[bytes, bytes], T], *, gapless: bool, timeout_s: float = 10.0
    ) -> None:
        self._inbox = inbox
        self._stream = stream
        self._decode = decode
        self._gapless = gapless
        self._timeout_s = timeout_s
        self._direct = f"$JS.API.DIRECT.GET.{stream}"
        self._leader = f"$JS.API.STREAM.MSG.GET.{stream}"

    # --- one message

    async def get(self, seq: int) -> T | None:
        """The message at ``seq``; that there is none is the leader's word. Raises ``Unavailable``."""
        if seq <= 0:
            return None
        return await self._one({"seq": seq}) or await self._from_leader({"seq": seq})

    async def next(self, seq: int, subject: str | None = None) -> T | None:
        """The first message at or after ``seq``, of ``subject`` (wildcards allowed) if given."""
        query: dict[str, Any] = {"seq": max(seq, 1)}
        if subject is None:
            found, _ = await self.window(query | {"batch": 1})
            return found[0] if found else None
        return await self._one(query | {"next_by_subj": subject})

    async def last(self, subject: str = ">", *, consistent: bool = False) -> T | None:
        """The last message of ``subject`` (wildcards allowed); ``consistent`` asks the leader. Raises ``Unavailable``.

        Without ``consistent`` a replica may lag: an older message, or ``None``, is a hint and no proof.
        """
        if consistent:
            return await self._from_leader({"last_by_subj": subject})
        return await self._one({"last_by_subj": subject})

    async def stored_as(self, subject: str, message_id: str, after_seq: int) -> int | None:
        """Where the message with that ``Nats-Msg-Id`` was stored under its guard's expected sequence ``after_seq``.

        If it was stored at all it is the first message of its exact subject after ``after_seq``: the guard allowed
        nothing in between. ``None`` is a definite no. Asks the leader.
        """
        queries: list[dict[str, Any]] = [
            {"last_by_subj": subject},
            {"seq": after_seq + 1, "next_by_subj": subject},
        ]
        for query in queries:
            message = await self._leader_message(query)
            if message is None or int(message["seq"]) <= after_seq:
                return None
            headers = base64.b64decode(message.get("hdrs", ""))
            if wire.header(headers, "Nats-Msg-Id") == message_id:
                return int(message["seq"])
        return None

    async def _one(self, query: dict[str, Any]) -> T | None:
        reply = await self._ask(self._direct, query)
        if reply.status == 404:
            return None
        if reply.status or reply.headers is None:
            raise AuraError(f"direct get refused with status {reply.status}")
        return self._decode(reply.headers, reply.body)

    async def _ask(self, subject: str, query: dict[str, Any]) -> Reply:
        return await request(self._inbox, subject, orjson.dumps(query), timeout_s=self._timeout_s, resend_s=_RESEND_S)

    async def _leader_message(self, query: dict[str, Any]) -> dict[str, Any] | None:
        deadline = self._inbox.clock.monotonic_s() + self._timeout_s
        while True:
            answer = orjson.loads((await self._ask(self._leader, query)).body)
            error = answer.get("error")
            if error is None:
                message: dict[str, Any] = answer["message"]
                return message
            if error.get("code") == 404:
                return None
            if error.get("code", 0) < 500 or self._inbox.clock.monotonic_s() > deadline:
                raise Unavailable(f"the log refused a read: {error.get('description', '')}")
            await asyncio.sleep(0.05)

    async def _from_leader(self, query: dict[str, Any]) -> T | None:
        message = await self._leader_message(query)
        if message is None:
            return None
        own = base64.b64decode(message.get("hdrs", ""))
        head = own[:-2] if own else b"NATS/1.0\r\n"
        full = b"%bNats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\nNats-Time-Stamp: %b\r\n\r\n" % (
            head,
            self._stream.encode(),
            message["subject"].encode(),
            message["seq"],
            message["time"].encode(),
        )
        return self._decode(full, base64.b64decode(message.get("data", "")))

    # --- many messages

    def _open(self, query: dict[str, Any]) -> tuple[_Window[T], str]:
        window = _Window(self._inbox, self._decode)
        reply_to = self._inbox.register(window)
        if not self._inbox.connection.send(wire.command(self._direct, reply_to, b"", orjson.dumps(query))):
            window.on_reconnect()
        return window, reply_to

    async def _collect(self, opened: tuple[_Window[T], str]) -> tuple[list[T], int]:
        """What came. Of an answer that was cut off the beginning, which has no hole; raises ``_Lost`` if nothing did."""
        window, reply_to = opened
        try:
            await window.done
        except _Lost:
            if not window.found:
                raise
            return window.found, 1
        finally:
            self._inbox.forget(reply_to)
        return window.found, window.pending

    async def window(self, query: dict[str, Any]) -> tuple[list[T], int]:
        """One batch answer and what is pending after it, asked again until it comes. Raises ``Unavailable``."""
        if not self._inbox.started:
            await self._inbox.start()
        deadline = self._inbox.clock.monotonic_s() + self._timeout_s
        while True:
            try:
                return await self._collect(self._open(query))
            except _Lost:
                if self._inbox.clock.monotonic_s() > deadline:
                    raise Unavailable("the log does not answer reads") from None
                await asyncio.sleep(0.02)

    async def read(
        self, from_seq: int = 1, *, to_seq: int | None = None, subject: str | None = None, batch: int = 1_000
    ) -> AsyncIterator[list[T]]:
        """Batches from ``from_seq`` to ``to_seq`` or to the end as of the first step. Raises ``Unavailable``."""
        last = await self.last(subject or ">", consistent=True)
        end = min(last.seq if last else 0, to_seq if to_seq is not None else 2**63)
        if from_seq > end:
            return
        if self._gapless and subject is None:
            first = await self.next(from_seq)
            if first is None:  # a replica that lags: the leader said a moment ago that there is more
                first = await self._from_leader({"seq": max(from_seq, 1), "next_by_subj": ">"})
            if first is None:
                return
            async for found in self._read_gapless(first.seq, end, batch):
                yield found
        else:
            async for found in self._read_sparse(from_seq, end, subject, batch):
                yield found

    async def _read_sparse(self, from_seq: int, end: int, subject: str | None, batch: int) -> AsyncIterator[list[T]]:
        seq = max(from_seq, 1)
        stalled = self._inbox.clock.monotonic_s() + self._timeout_s
        while seq <= end:
            query: dict[str, Any] = {"seq": seq, "batch": batch, "max_bytes": WINDOW_BYTES}
            if subject is not None:
                query["next_by_subj"] = subject
            found, _ = await self.window(query)
            reached = found[-1].seq if found else 0
            seq = max(seq, reached + 1)
            if kept := [message for message in found if message.seq <= end]:
                stalled = self._inbox.clock.monotonic_s() + self._timeout_s
                yield kept
            elif reached <= end:
                # A lagging replica, or the last messages were erased meanwhile: the leader knows.
                last = await self.last(subject or ">", consistent=True)
                if last is None or last.seq < seq:
                    return
                if self._inbox.clock.monotonic_s() > stalled:
                    raise Unavailable("a replica of the log lags too far behind")
                await asyncio.sleep(0.02)

    async def _read_gapless(self, from_seq: int, end: int, batch: int) -> AsyncIterator[list[T]]:
        windows: deque[tuple[int, int, tuple[_Window[T], str]]] = deque()
        seq = from_seq
        try:
            while seq <= end or windows:
                while seq <= end and len(windows) < WINDOWS_IN_FLIGHT:
                    size = min(batch, end - seq + 1)
                    windows.append((seq, size, self._open(_range(seq, size))))
                    seq += size
                start, size, opened = windows.popleft()
                try:
                    found, _ = await self._collect(opened)
                except _Lost:
                    found = []
                yield await self._complete(start, size, found)
        finally:
            for _, _, (window, reply_to) in windows:
                self._inbox.forget(reply_to)
                window.drop()

    async def _complete(self, start: int, size: int, found: list[T]) -> list[T]:
        """The window ``[start, start + size)`` without holes: what is missing is asked for again, and of the leader."""
        if len(found) == size and found[0].seq == start and found[-1].seq == start + size - 1:
            return found
        have = {message.seq: message for message in found}
        deadline = self._inbox.clock.monotonic_s() + self._timeout_s
        while True:
            missing = next((s for s in range(start, start + size) if s not in have), None)
            if missing is None:
                return [have[s] for s in range(start, start + size)]
            more, _ = await self.window(_range(missing, start + size - missing))
            have.update((message.seq, message) for message in more)
            if missing in have:
                deadline = self._inbox.clock.monotonic_s() + self._timeout_s
                continue
            known = await self._from_leader({"seq": missing})
            if known is None:
                raise LogRegression(f"sequence {missing} is not in the log")
            have[missing] = known
            if self._inbox.clock.monotonic_s() > deadline:
                raise Unavailable("a replica of the log lags too far behind")
            await asyncio.sleep(0.02)


def _range(seq: int, size: int) -> dict[str, Any]:
    return {"seq": seq, "batch": size, "max_bytes": WINDOW_BYTES}
