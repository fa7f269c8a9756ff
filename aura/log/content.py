"""Content: what jobs were given and what they answered, encrypted from the first write, erasable for good.

Adapter-independent half of :class:`~aura.log.ports.ContentStore`; :class:`ContentBackend` is where the bytes lie
(``content_jetstream.py``, ``content_memory.py``). One stored message per part: ``content.aura.<project>.<job>.<part>``, where the
part is ``input``, or ``<result|error>.<attempt>.<id>`` as the event that refers to it says; the job's data key travels, wrapped, as
a header of its ``input`` message.

::

    put_inputs ─▶ input message (new data key) ─▶ job.created … ─▶ put(result | error) ─▶ … ─▶ erase
                       │ the same again: stored anew, same key and content, so that it counts as young
                       │ another one: KeyReused
                       └ no job.created ten minutes after it was first seen: Sweeper erases it (``content_sweep.py``)

Invariants

* An ``input`` message is created only where there is none (guard 0), so a job has one data key and one input, for life. The first
  input of a keyed request is stored before its others: of two requests with one key, whoever stores it goes on.
* Results and error texts are never overwritten: each write has its own subject, and only the one that a committed event names
  is read, against the event's digest. What a straggler wrote is never shown, and erased with the job.
* Erasing deletes the ``input`` message *securely* first: from then on nothing opens, also if the process dies before the rest
  is purged. Every step may be repeated.
* Plaintext and data keys are never logged and never in an error's text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from aura.errors import KeyReused, NotFound, Unavailable
from aura.events import subjects
from aura.events.catalogue import ContentRef
from aura.events.subjects import ContentPart, ReportPart
from aura.ids import IdSource
from aura.log import sealing
from aura.log.ports import Erased, InputItem, Part
from aura.log.sealing import SALT_BYTES, BrokenSeal, KeyRing

#: Data keys kept in memory, so that most writes need no read.
MAX_CACHED_KEYS = 10_000
#: Bounds of the inputs kept in memory for a claim in the process that wrote them.
MAX_RECENT = 20_000
MAX_RECENT_BYTES = 16 * 1024 * 1024
MAX_RECENT_INPUT = 64 * 1024
#: How often an input may vanish between two looks at it.
_MAX_RACES = 16


@dataclass(frozen=True, slots=True)
class SealedMessage:
    """One stored message. On inputs only: ``wrapped_key``, and ``request``, the fingerprint of the keyed request that wrote it.
    ``seq`` is its place once it is stored."""

    subject: str
    body: bytes
    wrapped_key: str | None = None
    request: str | None = None
    seq: int = 0


class ContentBackend(Protocol):
    """Where sealed messages are kept."""

    async def create(self, messages: Sequence[SealedMessage]) -> list[bool]:
        """Store each where its subject has no message yet; ``False`` where it has one. Raises ``Unavailable``, ``TooLarge``."""

    async def replace(self, message: SealedMessage, expected_seq: int) -> bool:
        """Store one where the subject's last message is the one at ``expected_seq``; ``False`` where it is not."""

    async def put(self, message: SealedMessage) -> None:
        """Store one; it is the subject's last from now on. Raises ``Unavailable``, ``TooLarge``."""

    async def last(self, subject: str, *, consistent: bool = False) -> SealedMessage | None:
        """The subject's last message. Raises ``Unavailable``."""

    async def erase(self, key_subject: str, prefixes: Sequence[str]) -> Erased:
        """Delete all messages of ``key_subject`` securely, then everything under the prefixes (``….>``), output included."""

    async def drop(self, subject: str, upto_seq: int) -> None:
        """Delete the subject's messages up to that sequence securely; later ones stay. Safe to repeat."""

    def inputs(self) -> AsyncIterator[tuple[int, str, int]]:
        """``(project, job_id, seq)`` of every input stored since this call's predecessors, as far as they were consumed."""


class RecentInputs:
    """Inputs that this process wrote a short while ago: the oldest go first when the bounds are reached."""

    def __init__(self) -> None:
        self._parts: OrderedDict[str, Part] = OrderedDict()
        self._bytes = 0

    def add(self, job_id: str, part: Part) -> None:
        """Keep one unless it is large."""
        if len(part.plaintext) > MAX_RECENT_INPUT:
            return
        self.take(job_id)
        self._parts[job_id] = part
        self._bytes += len(part.plaintext)
        while len(self._parts) > MAX_RECENT or self._bytes > MAX_RECENT_BYTES:
            self._bytes -= len(self._parts.popitem(last=False)[1].plaintext)

    def take(self, job_id: str) -> Part | None:
        """Hand one out; it is kept no longer."""
        found = self._parts.pop(job_id, None)
        if found is not None:
            self._bytes -= len(found.plaintext)
        return found


@dataclass(frozen=True, slots=True)
class _Sealed:
    """An input ready to be stored."""

    item: InputItem
    message: SealedMessage
    ref: ContentRef
    data_key: bytes


class SealedContent:
    """Implements :class:`~aura.log.ports.ContentStore` on any backend."""

    def __init__(self, backend: ContentBackend, kek: bytes, ids: IdSource) -> None:
        self._backend = backend
        self._keys = KeyRing(kek, ids)
        self._ids = ids
        self._cached: OrderedDict[str, bytes] = OrderedDict()
        self._recent = RecentInputs()

    async def put_inputs(self, items: Sequence[InputItem], *, request: str | None = None) -> list[ContentRef]:
        """See the port."""
        sealed = [self._seal_input(item, request) for item in items]
        if request is None:
            return await self._store(sealed)
        return await self._store(sealed[:1]) + (await self._store(sealed[1:]) if len(sealed) > 1 else [])

    async def _store(self, inputs: Sequence[_Sealed]) -> list[ContentRef]:
        created = await self._backend.create([one.message for one in inputs])
        refs = []
        for one, is_first in zip(inputs, created, strict=True):
            if is_first:
                self._remember_input(one)
                refs.append(one.ref)
            else:
                refs.append(await self._reuse(one))
        return refs

    async def _reuse(self, mine: _Sealed) -> ContentRef:
        """The reference of the input that was there first, made new. Raises ``KeyReused`` when it is another one.

        It is stored again under the guard of the one we saw, so a sweep that is about to erase that one does not erase the input
        of a submission in flight. Who loses that race lost it to somebody who made it new just now.
        """
        seen = 0
        for _ in range(_MAX_RACES):
            stored = await self._backend.last(mine.message.subject, consistent=True)
            if stored is None:  # erased between our attempt and this look: ours may take its place
                if (await self._backend.create([mine.message]))[0]:
                    self._remember_input(mine)
                    return mine.ref
                continue
            ref = self._checked(mine, stored)
            if seen or await self._backend.replace(stored, stored.seq):
                return ref
            seen = stored.seq
        raise Unavailable("the submission raced with itself; try again")

    def _checked(self, mine: _Sealed, stored: SealedMessage) -> ContentRef:
        """The reference of a stored input that is the same as ours."""
        if stored.request != mine.message.request:
            raise KeyReused("this Idempotency-Key was used with another request")
        data_key = self._open_key(stored, mine.item.project, mine.item.job_id)
        salt, plaintext = self._open(data_key, stored)
        if plaintext != mine.item.plaintext:
            raise KeyReused("this Idempotency-Key was used with another request")
        return ContentRef(bytes=len(plaintext), digest=sealing.digest(salt, plaintext))

    async def put(self, project: int, job_id: str, part: ReportPart, attempt: int, plaintext: bytes) -> ContentRef:
        """See the port."""
        data_key = await self.data_key(project, job_id)
        if data_key is None:
            raise NotFound("content", job_id)
        where = subjects.report_part(part, attempt, self._ids.random_bytes(8).hex())
        subject = subjects.content(project, job_id, where)
        body, ref = self._seal(data_key, subject, plaintext)
        await self._backend.put(SealedMessage(subject, body))
        return ref.model_copy(update={"part": where})

    async def get(self, project: int, job_id: str, part: ContentPart, ref: ContentRef | None = None) -> Part | None:
        """See the port. Raises ``BrokenSeal`` for damaged content."""
        where = ref.part if ref is not None and ref.part is not None else part
        if where != part and not where.startswith(f"{part}."):
            raise BrokenSeal("a reference names another part of the job's content")
        subject = subjects.content(project, job_id, where)
        stored = await self._backend.last(subject) or await self._backend.last(subject, consistent=True)
        if stored is None:
            return None
        if part == "input":
            data_key: bytes | None = self._open_key(stored, project, job_id)
        else:
            data_key = await self.data_key(project, job_id)
        if data_key is None:
            return None
        salt, plaintext = self._open(data_key, stored)
        if ref is not None and sealing.digest(salt, plaintext) != ref.digest:
            raise BrokenSeal("stored content is not what its event says")
        return Part(plaintext, data_key)

    async def take_input(self, project: int, job_id: str) -> Part | None:
        """See the port."""
        return self._recent.take(job_id) or await self.get(project, job_id, "input")

    def forget_inputs(self, job_ids: Sequence[str]) -> None:
        """See the port."""
        for job_id in job_ids:
            self._cached.pop(job_id, None)
            self._recent.take(job_id)

    async def data_key(self, project: int, job_id: str) -> bytes | None:
        """See the port."""
        if (known := self._cached.get(job_id)) is not None:
            self._cached.move_to_end(job_id)
            return known
        subject = subjects.content(project, job_id, "input")
        stored = await self._backend.last(subject) or await self._backend.last(subject, consistent=True)
        return self._open_key(stored, project, job_id) if stored is not None else None

    async def erase(self, project: int, job_id: str) -> Erased:
        """See the port."""
        self.forget_inputs((job_id,))
        erased = await self._backend.erase(
            subjects.content(project, job_id, "input"),
            (f"content.aura.{project}.{job_id}.>", f"aura.output.{project}.{job_id}.>"),
        )
        self.forget_inputs((job_id,))
        return erased

    def fingerprint(self, data: bytes) -> str:
        """See the port."""
        return self._keys.fingerprint(data)

    def secret(self, data: bytes) -> bytes:
        """See the port."""
        return self._keys.secret(data)

    def _seal(self, data_key: bytes, subject: str, plaintext: bytes) -> tuple[bytes, ContentRef]:
        salt = self._ids.random_bytes(SALT_BYTES)
        ref = ContentRef(bytes=len(plaintext), digest=sealing.digest(salt, plaintext))
        return sealing.seal(data_key, subject, salt + plaintext, self._ids), ref

    def _seal_input(self, item: InputItem, request: str | None) -> _Sealed:
        data_key = self._keys.new_data_key()
        subject = subjects.content(item.project, item.job_id, "input")
        body, ref = self._seal(data_key, subject, item.plaintext)
        wrapped = self._keys.wrap(data_key, item.project, item.job_id)
        return _Sealed(item, SealedMessage(subject, body, wrapped, request), ref, data_key)

    @staticmethod
    def _open(data_key: bytes, stored: SealedMessage) -> tuple[bytes, bytes]:
        opened = sealing.unseal(data_key, stored.subject, stored.body)
        return opened[:SALT_BYTES], opened[SALT_BYTES:]

    def _open_key(self, stored: SealedMessage, project: int, job_id: str) -> bytes:
        if stored.wrapped_key is None:
            raise BrokenSeal("a job's input has no data key")
        data_key = self._keys.unwrap(stored.wrapped_key, project, job_id)
        self._remember(job_id, data_key)
        return data_key

    def _remember_input(self, one: _Sealed) -> None:
        self._remember(one.item.job_id, one.data_key)
        self._recent.add(one.item.job_id, Part(one.item.plaintext, one.data_key))

    def _remember(self, job_id: str, data_key: bytes) -> None:
        self._cached[job_id] = data_key
        self._cached.move_to_end(job_id)
        if len(self._cached) > MAX_CACHED_KEYS:
            self._cached.popitem(last=False)
