"""Output in the stream ``AURA_OUTPUT``; see ``output.py``."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from aura.clock import Clock
from aura.errors import Unavailable
from aura.events import subjects
from aura.ids import IdSource
from aura.log import wire
from aura.log.batch import AtomicWriter
from aura.log.connection import Connection, RawSubscription
from aura.log.group import GroupCommit
from aura.log.guarded import GuardedWriter, Write
from aura.log.inbox import inbox_of, request
from aura.log.output import MAX_MESSAGE_BYTES, OutputMessage, OutputPage, SealedOutput
from aura.log.ports import ContentStore
from aura.log.reader import StreamReader

STREAM = "AURA_OUTPUT"
_PAGE_BYTES = 4 * 1024 * 1024
FIRST, COUNT, KEYS = "Aura-First", "Aura-Count", "Aura-Keys"
_FIRST = f"\r\n{FIRST}: ".encode()
_KEYS = f"\r\n{KEYS}: ".encode()
_FROM_OUTPUT = b"\r\nNats-Stream: AURA_OUTPUT\r\n"


#: The end of a header block as :meth:`JetStreamOutputBackend.append` and then the server write it, to the last byte.
_AS_WRITTEN = re.compile(
    rb"\r\nAura-First: (\d+)\r\nAura-Count: (\d+)\r\n"
    rb"Nats-Stream: AURA_OUTPUT\r\nNats-Subject: ([^\r]+)\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: ([^\r]+)\r\n"
    rb"(?:Nats-(?:Last-Sequence|Num-Pending): \d+\r\n)*\r\n\Z"
)


def decode(headers: bytes, body: bytes) -> OutputMessage:
    """A stored or republished message. Raises ``ValueError`` for one without our headers."""
    usual = _AS_WRITTEN.match(headers, max(headers.rfind(_FIRST), 0)) if _KEYS not in headers else None
    if usual is None:
        return _decode_any(headers, body)
    first, count, subject, seq, stamp = usual.groups()
    return OutputMessage(int(seq), subject.decode(), wire.stored_ns(stamp), int(first), int(count), body)


def _decode_any(headers: bytes, body: bytes) -> OutputMessage:
    """With keys, or with headers in another order: the last of a name counts, which is the server's."""
    found = wire.recorded(headers, body)
    first, count = int(wire.header(headers, FIRST) or -1), int(wire.header(headers, COUNT) or 0)
    if first < 0:
        raise ValueError("an output message without its number")
    keys = tuple((wire.header(headers, KEYS) or "").split()) if _KEYS in headers else ()
    return OutputMessage(found.seq, found.subject, found.stored_at_ns, first, count, body, keys)


class JetStreamOutputBackend:
    """See :class:`~aura.log.output.OutputBackend`. What many attempts of one process write at once shares flushes
    (``output_commit.py``)."""

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self._connection = connection
        self._ids = ids
        self._inbox = inbox_of(connection, clock, ids)
        self._reader = StreamReader(self._inbox, STREAM, decode, gapless=False)
        writer = GuardedWriter(self._inbox, self._reader, limit=MAX_MESSAGE_BYTES)
        batches = AtomicWriter(self._inbox, self._reader, ids, limit=MAX_MESSAGE_BYTES)
        self._group = GroupCommit(writer, batches, by_turn=True)

    async def append(
        self,
        subject: str,
        guard: str,
        expected_seq: int,
        first: int,
        count: int,
        sealed: bytes,
        keys: tuple[str, ...] = (),
    ) -> int:
        if not self._inbox.started:
            await self._inbox.start()
        numbers = [(FIRST, str(first)), (COUNT, str(count))]
        if keys:
            numbers.append((KEYS, " ".join(keys)))
        published = subjects.output_append(subject)
        write = Write(published, subject, guard, expected_seq, self._ids.uuid7(), sealed, tuple(numbers))
        return await self._group.submit(write)

    async def last(self, guard: str) -> OutputMessage | None:
        return await self._reader.last(guard, consistent=True)

    async def last_seq(self) -> int:
        reply = await request(self._inbox, f"$JS.API.STREAM.INFO.{STREAM}", timeout_s=5.0, resend_s=1.0)
        answer = orjson.loads(reply.body)
        if "error" in answer:
            raise Unavailable(f"the output does not tell its state ({answer['error'].get('err_code')})")
        return int(answer["state"]["last_seq"])

    async def read(self, subject: str, after_seq: int, limit: int) -> OutputPage:
        query = {"seq": after_seq + 1, "batch": limit, "next_by_subj": subject, "max_bytes": _PAGE_BYTES}
        found, pending = await self._reader.window(query)
        return OutputPage(found, bool(pending))


async def follow_output(
    connection: Connection, subject: str, on_message: Callable[[OutputMessage], None]
) -> RawSubscription:
    """Output as it is stored, live only. ``subject``: ``aura.output.<p>.<job>.>`` for one job, ``aura.output.>`` for all.

    ``on_message`` runs in the read loop and must be quick. Delivery is at most once: a reader compares ``first`` with the count
    so far and reads the difference. Messages that do not come from the stream are ignored.
    """

    def receive(_subject: bytes, _reply: bytes, body: bytes, headers: bytes | None) -> None:
        if headers is not None and _FROM_OUTPUT in headers:
            on_message(decode(headers, body))

    return await connection.subscribe_raw(subject, receive)


def jetstream_output(connection: Connection, clock: Clock, ids: IdSource, content: ContentStore) -> SealedOutput:
    """The output log of a running system, for the gateway."""
    return SealedOutput(JetStreamOutputBackend(connection, clock, ids), content, ids)
