"""Content: what jobs were given and what they answered, encrypted from the first write, erasable for good.

Adapter-independent half of :class:`~aura.log.ports.ContentStore`; :class:`ContentBackend` is where the bytes lie
(``content_jetstream.py``, or :class:`MemoryContentBackend` here). One stored message per part:
``content.aura.<project>.<job>.<part>``; the job's data key travels, wrapped, as a header of its ``input`` message.

::

    put_inputs ─▶ input message (new data key) ─▶ job.created … ─▶ put(result | error) ─▶ … ─▶ erase
                       │ written twice: the first one's key and content stay
                       └ no job.created within ten minutes: Sweeper erases it

Invariants

* An ``input`` message is created only where there is none (guard 0), so a job has one data key, for life.
* Erasing deletes the ``input`` message *securely* first: from then on nothing opens, also if the process dies before the rest
  is purged. Every step may be repeated.
* Plaintext and data keys are never logged and never in an error's text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from aura.clock import Clock
from aura.errors import NotFound
from aura.events import subjects
from aura.events.catalogue import ContentRef
from aura.events.subjects import ContentPart
from aura.ids import IdSource
from aura.log import sealing
from aura.log.ports import Erased, InputItem, Part
from aura.log.sealing import SALT_BYTES, BrokenSeal, KeyRing
from aura.log.store import EventStore

PARTS: tuple[ContentPart, ...] = ("input", "result", "error")
#: Data keys kept in memory, so that most writes need no read.
MAX_CACHED_KEYS = 10_000
#: An input without a job for so long is removed.
ORPHAN_AGE_S = 600.0


@dataclass(frozen=True, slots=True)
class SealedMessage:
    """One stored message: ``wrapped_key`` on inputs only."""

    subject: str
    body: bytes
    wrapped_key: str | None = None


class ContentBackend(Protocol):
    """Where sealed messages are kept."""

    async def create(self, messages: Sequence[SealedMessage]) -> list[bool]:
        """Store each where its subject has no message yet; ``False`` where it has one. Raises ``Unavailable``, ``TooLarge``."""

    async def put(self, message: SealedMessage) -> None:
        """Store one; it is the subject's last from now on. Raises ``Unavailable``, ``TooLarge``."""

    async def last(self, subject: str, *, consistent: bool = False) -> SealedMessage | None:
        """The subject's last message. Raises ``Unavailable``."""

    async def erase(self, key_subject: str, prefixes: Sequence[str]) -> Erased:
        """Delete all messages of ``key_subject`` securely, then everything under the prefixes (``….>``), output included."""

    def inputs(self, stored_before_ns: int) -> AsyncIterator[tuple[int, str]]:
        """``(project, job_id)`` of every input stored before that time and not yet seen by this call's predecessors."""


class SealedContent:
    """Implements :class:`~aura.log.ports.ContentStore` on any backend."""

    def __init__(self, backend: ContentBackend, kek: bytes, ids: IdSource) -> None:
        self._backend = backend
        self._keys = KeyRing(kek, ids)
        self._ids = ids
        self._cached: OrderedDict[str, bytes] = OrderedDict()

    async def put_inputs(self, items: Sequence[InputItem]) -> list[ContentRef]:
        """See the port. A repeated item is answered with the first one's size and digest."""
        messages, refs, data_keys = [], [], []
        for item in items:
            data_key = self._keys.new_data_key()
            subject = subjects.content(item.project, item.job_id, "input")
            body, ref = self._seal(data_key, subject, item.plaintext)
            messages.append(SealedMessage(subject, body, self._keys.wrap(data_key, item.project, item.job_id)))
            refs.append(ref)
            data_keys.append(data_key)
        created = await self._backend.create(messages)
        for index, item in enumerate(items):
            if created[index]:
                self._remember(item.job_id, data_keys[index])
            else:
                refs[index] = await self._existing(item, messages[index], refs[index])
        return refs

    async def _existing(self, item: InputItem, message: SealedMessage, ref: ContentRef) -> ContentRef:
        """The reference of the input that was there first."""
        stored = await self._backend.last(message.subject, consistent=True)
        if stored is None:  # erased between our attempt and this look: ours may take its place
            await self._backend.create([message])
            return ref
        data_key = self._open_key(stored, item.project, item.job_id)
        salt, plaintext = self._open(data_key, stored)
        return ContentRef(bytes=len(plaintext), digest=sealing.digest(salt, plaintext))

    async def put(self, project: int, job_id: str, part: ContentPart, plaintext: bytes) -> ContentRef:
        """See the port."""
        data_key = await self.data_key(project, job_id)
        if data_key is None:
            raise NotFound("content", job_id)
        subject = subjects.content(project, job_id, part)
        body, ref = self._seal(data_key, subject, plaintext)
        await self._backend.put(SealedMessage(subject, body))
        return ref

    async def get(self, project: int, job_id: str, part: ContentPart) -> Part | None:
        """See the port. Raises ``BrokenSeal`` for damaged content."""
        subject = subjects.content(project, job_id, part)
        stored = await self._backend.last(subject) or await self._backend.last(subject, consistent=True)
        if stored is None:
            return None
        if part == "input":
            data_key: bytes | None = self._open_key(stored, project, job_id)
        else:
            data_key = await self.data_key(project, job_id)
        if data_key is None:
            return None
        return Part(self._open(data_key, stored)[1], data_key)

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
        self._cached.pop(job_id, None)
        erased = await self._backend.erase(
            subjects.content(project, job_id, "input"),
            (f"content.aura.{project}.{job_id}.>", f"aura.output.{project}.{job_id}.>"),
        )
        self._cached.pop(job_id, None)
        return erased

    def fingerprint(self, data: bytes) -> str:
        """See the port."""
        return self._keys.fingerprint(data)

    def _seal(self, data_key: bytes, subject: str, plaintext: bytes) -> tuple[bytes, ContentRef]:
        salt = self._ids.random_bytes(SALT_BYTES)
        ref = ContentRef(bytes=len(plaintext), digest=sealing.digest(salt, plaintext))
        return sealing.seal(data_key, subject, salt + plaintext, self._ids), ref

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

    def _remember(self, job_id: str, data_key: bytes) -> None:
        self._cached[job_id] = data_key
        self._cached.move_to_end(job_id)
        if len(self._cached) > MAX_CACHED_KEYS:
            self._cached.popitem(last=False)


class Sweeper:
    """Erases inputs whose job was never created (a crash between the two writes). One per installation is enough."""

    def __init__(self, content: SealedContent, backend: ContentBackend, store: EventStore, clock: Clock) -> None:
        self._content = content
        self._backend = backend
        self._store = store
        self._clock = clock

    async def sweep(self) -> int:
        """Look at what became old enough since the last call; the number of inputs erased. Raises ``Unavailable``."""
        before = self._clock.now().timestamp() - ORPHAN_AGE_S
        erased = 0
        async for project, job_id in self._backend.inputs(int(before * 1e9)):
            if await self._store.last(subjects.job_guard(project, job_id), consistent=True) is None:
                await self._content.erase(project, job_id)
                erased += 1
        return erased


class MemoryContentBackend:
    """A dictionary. ``also_erase`` is the memory output log, which the same erasure covers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._messages: dict[str, list[SealedMessage]] = {}
        self._stored_ns: dict[str, int] = {}
        self.also_erase: list[_Erasable] = []

    async def create(self, messages: Sequence[SealedMessage]) -> list[bool]:
        created = []
        for message in messages:
            created.append(message.subject not in self._messages)
            if created[-1]:
                self._messages[message.subject] = [message]
                self._stored_ns[message.subject] = int(self._clock.now().timestamp() * 1e9)
        return created

    async def put(self, message: SealedMessage) -> None:
        self._messages.setdefault(message.subject, []).append(message)

    async def last(self, subject: str, *, consistent: bool = False) -> SealedMessage | None:
        del consistent  # there is only one copy
        found = self._messages.get(subject)
        return found[-1] if found else None

    async def erase(self, key_subject: str, prefixes: Sequence[str]) -> Erased:
        size = sum(len(message.body) for message in self._messages.pop(key_subject, []))
        for prefix in prefixes:
            start = prefix.removesuffix(">")
            for subject in [subject for subject in self._messages if subject.startswith(start)]:
                size += sum(len(message.body) for message in self._messages.pop(subject))
            size += sum(other.erase(start) for other in self.also_erase)
        return Erased(size, ("AURA_CONTENT", "AURA_OUTPUT"))

    async def inputs(self, stored_before_ns: int) -> AsyncIterator[tuple[int, str]]:
        for subject, stored in list(self._stored_ns.items()):
            if stored < stored_before_ns:
                del self._stored_ns[subject]
                _, _, project, job_id, _ = subject.split(".")
                yield int(project), job_id


class _Erasable(Protocol):
    def erase(self, prefix: str) -> int:
        """Remove what lies under ``prefix``; the bytes removed."""
