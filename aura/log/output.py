"""Output: what attempts say while they run, encrypted, numbered, in order.

A message holds a list of records of one kind: headers ``Aura-First`` (the ``i`` of the first record) and ``Aura-Count``, body
sealed under the job's data key (``sealing.py``). ``i`` counts from 0 per attempt over all kinds, so a reader can prove that
nothing is missing.

Invariants

* All messages of an attempt share the guard ``aura.output.<p>.<job>.<attempt>.>``: one writer at a time, in order. A second
  writer (a straggler, an HTTP client) is refused, not interleaved; :class:`SealedOutput` then looks again and appends after it.
* A worker's :class:`OutputWriter` is its attempt's only writer and awaits each write. ``WrongExpectedSequence`` tells it that
  somebody else writes to its attempt: it has been fenced.
* Readers ask for exact subjects (attempt and kind) and merge by sequence: a wildcard costs the server a scan.
* A message carries the idempotency keys of the attempt's last :data:`KEPT_KEYS` keyed appends, its own included (header
  ``Aura-Keys``: ``<hash of the key>.<hash of the body>.<i of the last record>`` each), and every writer hands them on. Who appends
  has read the attempt's last message, and the guard lets nobody in between: so in any process, and after any crash, a repeat of one
  of these finds itself, stores nothing, and gets the same ``i``; another body under the same key is refused. Keys belong to one
  attempt. A repeat after more than :data:`KEPT_KEYS` other keyed appends to the attempt is stored again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from aura.errors import KeyReused, NotFound, TooLarge, Unavailable, WrongExpectedSequence
from aura.events import subjects
from aura.events.subjects import OutputKind
from aura.ids import IdSource
from aura.log import sealing
from aura.log.ports import ContentStore, WriteKey
from aura.log.sealing import JobCipher

#: Largest body of one output message, sealed. Writers split above it.
MAX_MESSAGE_BYTES = 512 * 1024
#: Of that, what records may take.
_MOST = MAX_MESSAGE_BYTES - sealing.OVERHEAD - 64
#: How often an appender may lose against another writer of the same attempt.
_MAX_CONFLICTS = 16
#: How many keyed appends an attempt remembers.
KEPT_KEYS = 16


@dataclass(slots=True)
class OutputMessage:
    """One stored message. ``seq`` is the cursor (sequence of ``AURA_OUTPUT``); ``keys`` as in the module docstring.

    Not frozen, as that would triple the price of making one, but nobody changes it."""

    seq: int
    subject: str
    stored_at_ns: int
    first: int
    count: int
    sealed: bytes
    keys: tuple[str, ...] = ()

    @property
    def attempt(self) -> int:
        """The attempt it belongs to."""
        return subjects.parse_output(self.subject).attempt

    @property
    def kind(self) -> OutputKind:
        """``stream``, ``log`` or ``progress``. Raises ``ValueError`` for a subject that is none of output."""
        return subjects.parse_output(self.subject).kind

    def records(self, data_key: bytes) -> list[dict[str, Any]]:
        """The records, each with its ``i``. Raises ``BrokenSeal``."""
        return self.opened(JobCipher(data_key))

    def opened(self, cipher: JobCipher) -> list[dict[str, Any]]:
        """As :meth:`records`, for whoever opens many of one job."""
        opened: list[dict[str, Any]] = orjson.loads(cipher.unseal(self.subject, self.sealed))
        return opened


@dataclass(frozen=True, slots=True)
class OutputPage:
    """Messages by sequence; ``more``: there are others after the last one."""

    messages: list[OutputMessage]
    more: bool


class OutputBackend(Protocol):
    """Where output lies: ``output_jetstream.py`` or ``output_memory.py``."""

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
        """Store one message; its sequence. Raises ``WrongExpectedSequence``, ``TooLarge``, ``Unavailable``."""

    async def last(self, guard: str) -> OutputMessage | None:
        """The last message of an attempt (or of whatever the pattern selects)."""

    async def last_seq(self) -> int:
        """The newest sequence ever stored, 0 for none."""

    async def read(self, subject: str, after_seq: int, limit: int) -> OutputPage:
        """Up to ``limit`` messages of one exact subject with a sequence above ``after_seq``, in order."""


class OutputWriter:
    """A worker's output of one attempt. Not for concurrent use: await each :meth:`write`."""

    def __init__(
        self, backend: OutputBackend, ids: IdSource, project: int, job_id: str, attempt: int, data_key: bytes
    ) -> None:
        self._backend = backend
        self._ids = ids
        self._cipher = JobCipher(data_key)
        self._subjects = {kind: subjects.output(project, job_id, attempt, kind) for kind in subjects.OUTPUT_KINDS}
        self._guard = subjects.output_guard(project, job_id, attempt)
        self._expected = 0
        self._keys: tuple[str, ...] = ()
        self.count = 0
        """How many records are stored; what the terminal event reports."""

    async def resume(self) -> None:
        """Continue after what the attempt has already stored (only needed when this writer is not its first)."""
        last = await self._backend.last(self._guard)
        if last is not None:
            self._expected, self.count, self._keys = last.seq, last.first + last.count, last.keys

    def answered(self, key: WriteKey) -> int | None:
        """The count after the append that used ``key``, as far as :meth:`resume` knows. Raises ``KeyReused``."""
        return answered(self._keys, key)

    async def write(self, kind: OutputKind, records: Sequence[dict[str, Any]], key: WriteKey | None = None) -> int:
        """Number, seal and store ``records`` (each without ``i``); the new count. ``key`` is remembered with the last message.

        Raises ``TooLarge`` when a single record is above the limit, ``WrongExpectedSequence`` when fenced, ``Unavailable``
        (stored or not: call :meth:`resume` before writing again).
        """
        body = self._body(records)
        if records and len(body) <= _MOST:
            return await self._append(kind, len(records), body, key)
        groups = split(records)
        for group in groups:
            await self._append(kind, len(group), self._body(group), key if group is groups[-1] else None)
        return self.count

    def _body(self, records: Sequence[dict[str, Any]]) -> bytes:
        return orjson.dumps([{"i": i, **record} for i, record in enumerate(records, self.count)])

    async def _append(self, kind: OutputKind, count: int, body: bytes, key: WriteKey | None) -> int:
        """Store one message; the new count."""
        subject = self._subjects[kind]
        sealed = self._cipher.seal(subject, body, self._ids)
        keys = self._keys
        if key is not None:
            keys = (*keys, f"{key.key}.{key.body}.{self.count + count - 1}")[-KEPT_KEYS:]
        self._expected = await self._backend.append(
            subject, self._guard, self._expected, self.count, count, sealed, keys
        )
        self.count += count
        self._keys = keys
        return self.count


class SealedOutput:
    """Implements :class:`~aura.log.ports.OutputLog`, and reads."""

    def __init__(self, backend: OutputBackend, content: ContentStore, ids: IdSource) -> None:
        self._backend = backend
        self._content = content
        self._ids = ids

    async def append(
        self,
        project: int,
        job_id: str,
        attempt: int,
        kind: OutputKind,
        records: Sequence[dict[str, Any]],
        key: WriteKey | None = None,
    ) -> int:
        """See the port."""
        data_key = await self._content.data_key(project, job_id)
        if data_key is None:
            raise NotFound("content", job_id)
        writer = OutputWriter(self._backend, self._ids, project, job_id, attempt, data_key)
        await writer.resume()
        left = [[record] for record in records] if len(records) == 1 else split(records)
        conflicts = 0
        while left:
            if key is not None and (found := writer.answered(key)) is not None:
                return found
            try:
                await writer.write(kind, left[0], key if len(left) == 1 else None)
            except WrongExpectedSequence:
                conflicts += 1
                if conflicts > _MAX_CONFLICTS:
                    raise Unavailable("too many write to this attempt at once") from None
                await writer.resume()
                continue
            left.pop(0)
        return writer.count

    async def answered(self, project: int, job_id: str, attempt: int, key: WriteKey) -> int | None:
        """See the port."""
        last = await self._backend.last(subjects.output_guard(project, job_id, attempt))
        return answered(last.keys, key) if last is not None else None

    async def count(self, project: int, job_id: str, attempt: int) -> int:
        """See the port."""
        last = await self._backend.last(subjects.output_guard(project, job_id, attempt))
        return last.first + last.count if last is not None else 0

    async def last_seq(self) -> int:
        """The newest cursor of all output, erased or not; 0 for none. Raises ``Unavailable``."""
        return await self._backend.last_seq()

    async def newest(self, project: int, job_id: str) -> int:
        """The newest cursor of one job's output that is still there, of whatever attempt; 0 for none. Raises ``Unavailable``."""
        last = await self._backend.last(f"aura.output.{project}.{job_id}.>")
        return last.seq if last is not None else 0

    async def read(
        self,
        project: int,
        job_id: str,
        attempts: Sequence[int],
        *,
        after_seq: int = 0,
        limit: int = 500,
        kinds: Sequence[OutputKind] = subjects.OUTPUT_KINDS,
    ) -> OutputPage:
        """A page: up to ``limit`` messages of these attempts above the cursor.

        ``attempts`` are those the log claimed: others' output is not shown.
        """
        wanted = [subjects.output(project, job_id, attempt, kind) for attempt in attempts for kind in kinds]
        pages = await asyncio.gather(*(self._backend.read(subject, after_seq, limit) for subject in wanted))
        # What follows an unfinished page's last message may belong before another subject's messages.
        bound = min((page.messages[-1].seq for page in pages if page.more and page.messages), default=None)
        found = sorted((message for page in pages for message in page.messages), key=lambda message: message.seq)
        complete = [message for message in found if bound is None or message.seq <= bound]
        more = len(complete) > limit or any(page.more for page in pages)
        return OutputPage(complete[:limit], more)


def answered(keys: Sequence[str], key: WriteKey) -> int | None:
    """The count after the append that used ``key``; ``None`` when it is not among ``keys``. Raises ``KeyReused``."""
    for used in keys:
        name, body, last = used.split(".")
        if name == key.key:
            if body != key.body:
                raise KeyReused("this Idempotency-Key was used with another request")
            return int(last) + 1
    return None


def split(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Consecutive groups that fit in one message each. Raises ``TooLarge`` for a record that fits in none."""
    groups: list[list[dict[str, Any]]] = []
    size = _MOST
    for record in records:
        own = len(orjson.dumps(record)) + 24  # its number, a comma
        if own > _MOST:
            raise TooLarge(f"an output record has at most {_MOST} bytes", limit=_MOST)
        if size + own > _MOST:
            groups.append([])
            size = 0
        groups[-1].append(record)
        size += own
    return groups
