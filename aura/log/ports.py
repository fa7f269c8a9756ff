"""Ports for what is *not* in the log: content (erasable, encrypted per job), output, and lease renewals.

``content.py`` and ``output.py`` hold the JetStream and in-memory adapters. The command service and the simulation know only these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aura.events.subjects import ContentPart, OutputKind, ReportPart

if TYPE_CHECKING:
    from aura.events.catalogue import ContentRef  # pydantic, which a worker does without


@dataclass(frozen=True, slots=True)
class InputItem:
    """One job's input on its way in."""

    project: int
    job_id: str
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """A decrypted part of a job's content and the job's data key."""

    plaintext: bytes
    data_key: bytes


class ContentStore(Protocol):
    """Encrypted, erasable content. One data key per job, wrapped by a key outside every store."""

    async def put_inputs(self, items: Sequence[InputItem], *, request: str | None = None) -> list[ContentRef]:
        """Write 1–1,000 jobs' inputs before their ``job.created``. ``request``: the fingerprint of the keyed request they belong to.

        The same inputs again keep the first ones' keys and are made new for the sweep. Raises ``KeyReused`` when another request's
        (or another) input lies there: of two requests under one key, the one whose first input is stored goes on. ``Unavailable``.
        """

    def forget_inputs(self, job_ids: Sequence[str]) -> None:
        """What this process remembers of inputs whose jobs were, for all it knows, not created."""

    async def take_input(self, project: int, job_id: str) -> Part | None:
        """As ``get(…, "input")``, at first from memory if this process wrote it a short while ago; for claims."""

    async def put(self, project: int, job_id: str, part: ReportPart, attempt: int, plaintext: bytes) -> ContentRef:
        """Write an attempt's result or error text under the job's data key, where nothing was written before: only who holds the
        returned reference reads it. Raises ``NotFound`` when the key is erased, ``Unavailable``."""

    async def get(self, project: int, job_id: str, part: ContentPart, ref: ContentRef | None = None) -> Part | None:
        """A part, decrypted; ``None`` when it was never written or is erased. ``ref`` is the event's reference: it says where a
        result or error text is, and the content must be what it says (else ``BrokenSeal``)."""

    async def data_key(self, project: int, job_id: str) -> bytes | None:
        """The job's data key; ``None`` when erased."""

    async def erase(self, project: int, job_id: str) -> Erased:
        """Erase key, content and output of a job for good. Safe to repeat after a crash."""

    def fingerprint(self, data: bytes) -> str:
        """A keyed hash, 11 URL-safe characters (64 bits), that reveals nothing of ``data`` to who has no key. Deterministic."""

    def secret(self, data: bytes) -> bytes:
        """32 bytes that nobody can guess who has no key, the same for the same ``data``."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure removed: bytes of content and output, and from which stores."""

    bytes: int
    stores: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WriteKey:
    """Keyed hashes (:meth:`ContentStore.fingerprint`) of an idempotency key and of the request it came with."""

    key: str
    body: str


class OutputLog(Protocol):
    """What attempts produce (``AURA_OUTPUT``)."""

    async def append(
        self,
        project: int,
        job_id: str,
        attempt: int,
        kind: OutputKind,
        records: Sequence[dict[str, Any]],
        key: WriteKey | None = None,
    ) -> int:
        """Number the records from the attempt's next ``i``, seal and append them. Returns the new count of the attempt's records.

        For writers without a connection of their own (HTTP): finds the next ``i`` itself and retries when another writer was
        first. Raises ``NotFound`` when the key is erased, ``Unavailable``, ``TooLarge``.

        ``key``: a repeat of one of the attempt's last keyed appends (``output.py`` says how many) stores nothing and returns the first
        one's count; with another body it raises ``KeyReused``.
        """

    async def answered(self, project: int, job_id: str, attempt: int, key: WriteKey) -> int | None:
        """The count that the keyed append returned, if it is among the attempt's last ones. Raises ``KeyReused``."""

    async def count(self, project: int, job_id: str, attempt: int) -> int:
        """How many records the attempt has."""


class LeaseRenewals(Protocol):
    """Tells the scheduler's leader that a lease lives."""

    async def renewed(self, job_id: str, attempt: int, worker_id: str) -> None:
        """Best effort; heartbeats come several times per lease."""


#: Makes a model's pool (its durable consumer) exist; cheap when it does.
EnsurePool = Callable[[str], Awaitable[None]]
