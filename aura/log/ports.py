"""Ports for what is *not* in the log: content (erasable, encrypted per job), output, and lease renewals.

``content.py`` and ``output.py`` hold the JetStream and in-memory adapters. The command service and the simulation know only these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aura.events.catalogue import ContentRef
from aura.events.subjects import ContentPart, OutputKind


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

    async def put_inputs(self, items: Sequence[InputItem]) -> list[ContentRef]:
        """Write 1–1,000 jobs' inputs before their ``job.created``. Writing a job's input again keeps the first one's key and
        content. Raises ``Unavailable``."""

    async def put(self, project: int, job_id: str, part: ContentPart, plaintext: bytes) -> ContentRef:
        """Write (or overwrite) a part under the job's data key. Raises ``NotFound`` when the key is erased, ``Unavailable``."""

    async def get(self, project: int, job_id: str, part: ContentPart) -> Part | None:
        """A part, decrypted; ``None`` when it was never written or is erased."""

    async def data_key(self, project: int, job_id: str) -> bytes | None:
        """The job's data key; ``None`` when erased."""

    async def erase(self, project: int, job_id: str) -> Erased:
        """Erase key, content and output of a job for good. Safe to repeat after a crash."""

    def fingerprint(self, data: bytes) -> str:
        """A keyed hash, 11 URL-safe characters (64 bits), that reveals nothing of ``data`` to who has no key. Deterministic."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure removed: bytes of content and output, and from which stores."""

    bytes: int
    stores: tuple[str, ...]


class OutputLog(Protocol):
    """What attempts produce (``AURA_OUTPUT``)."""

    async def append(
        self, project: int, job_id: str, attempt: int, kind: OutputKind, records: Sequence[dict[str, Any]]
    ) -> int:
        """Number the records from the attempt's next ``i``, seal and append them. Returns the new count of the attempt's records.

        For writers without a connection of their own (HTTP): finds the next ``i`` itself and retries when another writer was
        first. Raises ``NotFound`` when the key is erased, ``Unavailable``, ``TooLarge``.
        """

    async def count(self, project: int, job_id: str, attempt: int) -> int:
        """How many records the attempt has."""


class LeaseRenewals(Protocol):
    """Tells the scheduler's leader that a lease lives."""

    async def renewed(self, job_id: str, attempt: int, worker_id: str) -> None:
        """Best effort; heartbeats come several times per lease."""


#: Makes a model's pool (its durable consumer) exist; cheap when it does.
EnsurePool = Callable[[str], Awaitable[None]]
