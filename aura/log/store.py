"""The event store port: the narrow door through which everything reads and writes the log.

Two adapters implement it, ``JetStreamEventStore`` (``jetstream.py``) and ``MemoryEventStore`` (``memory.py``); both pass
``tests/contracts/test_event_store.py``, so a simulation on the second proves something about the first.

Invariants every adapter keeps:

* **One order.** Sequences rise by one from the first; the same sequence is the same bytes for every reader (G3).
* **Guarded.** An append with a guard is stored only if the last sequence under that guard equals ``expected_seq`` at the
  moment of storing. A refused append is never seen by any reader.
* **Acknowledged = durable** (G1). **All or none** for a batch.
* **No unknown outcomes leave the adapter.** A lost acknowledgement is resolved inside (re-send the same bytes, id and guard
  until there is a definite answer; on a refused guard, our own event id at the *exact subject written* means "stored"), so
  callers see a sequence or :class:`WrongExpectedSequence`, or :class:`Unavailable` when the log cannot answer within the
  caller's deadline. After ``Unavailable`` the outcome is unknown to the caller, who retries with the same event id.
* **Readers never assume that the first sequence is 1.**
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

#: Largest stored event in bytes (EVENTS.md). The stream's own limit is twice this.
MAX_EVENT_BYTES = 32 * 1024
#: Most events in one atomic batch (nats-server's limit).
MAX_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """One stored event as every reader sees it. ``stored_at_ns`` is JetStream's store time, Unix nanoseconds."""

    seq: int
    subject: str
    stored_at_ns: int
    body: bytes

    def decode(self) -> dict[str, Any]:
        """The flat JSON object (not cached). Raises ``orjson.JSONDecodeError`` for rubbish."""
        decoded: dict[str, Any] = orjson.loads(self.body)
        return decoded


@dataclass(frozen=True, slots=True)
class Append:
    """One event on its way into the log.

    ``subject`` is the committed subject (``aura.job.…``); adapters translate it to the append space. ``guard`` comes from
    ``events.subjects`` and is the identical string for every writer of the entity; ``None`` only for system events.
    ``event_id`` is the event's ``id`` field and its ``Nats-Msg-Id``.
    """

    subject: str
    guard: str | None
    expected_seq: int
    event_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What a checkpoint is compared with: the stream's epoch and its current ends (``last_seq`` 0 = empty).

    ``accepted``: a person made this epoch with ``aura log accept --new-epoch``, knowing that the log is another one.
    """

    epoch: str
    first_seq: int
    last_seq: int
    accepted: bool = False

    def supersedes(self, epoch: str) -> bool:
        """Whether whoever knows this log by ``epoch`` may start over from it: it was accepted, and later than ``epoch`` was made
        (epochs are UUIDv7, so they sort by time; a backup with an epoch accepted earlier is not the log that was accepted)."""
        return self.accepted and self.epoch > epoch


class EventStore(Protocol):
    """The log."""

    async def append(self, append: Append) -> int:
        """Store one event and return its sequence. Concurrent calls may share one flush.

        An event that is in the log already, by its id, is not stored again: its sequence is returned. Raises
        ``WrongExpectedSequence``, ``TooLarge`` (above 32 KiB), ``InvalidRequest`` (a subject or guard that is not the log's),
        ``Overloaded``, ``Unavailable``.
        """

    async def append_batch(self, appends: Sequence[Append]) -> list[int]:
        """Store 1–1,000 events of *distinct* entities, all or none; returns their (contiguous) sequences in order.

        Raises as :meth:`append`; ``WrongExpectedSequence`` when any guard did not hold; ``InvalidRequest`` for another number of
        events, or two of one entity.
        """

    async def last(self, guard: str, *, consistent: bool = False) -> Recorded | None:
        """The entity's last event. ``guard`` may carry a wildcard project (``aura.job.*.<id>.>``).

        ``consistent`` reads from the stream leader; without it a replica may lag (the guard of the next append protects): who
        decides something because there is *no* event asks consistently.
        """

    async def get(self, seq: int) -> Recorded | None:
        """The event at one sequence; ``None`` when it is outside the log, which no lagging replica decides."""

    def read(
        self, from_seq: int = 1, *, to_seq: int | None = None, subject: str | None = None, batch: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        """Batches in sequence order from ``from_seq`` to ``to_seq`` or to the end as of the call; then it stops.

        ``subject`` is a filter in NATS wildcard syntax on committed subjects; without it sequences are contiguous.
        """

    def follow(self, from_seq: int) -> AsyncIterator[list[Recorded]]:
        """Batches from ``from_seq`` and then live, for ever, with contiguous sequences: gaps are filled before delivery.

        Each step yields all that has arrived, without waiting for more. Raises ``LogRegression`` when the log ends before
        ``from_seq - 1``, or turns out to be another one later. Close the iterator (``aclose``) when done.
        """

    async def identity(self) -> LogIdentity:
        """The log's identity now. Raises ``Unavailable``."""

    async def close(self) -> None:
        """Release connections held for the store. Safe twice."""
