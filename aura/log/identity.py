"""Is this still the log we know? ``(epoch, sequence, SHA-256 of the event at that sequence)`` tells (G5).

A checkpoint is compared on start and after every reconnect. A log that is shorter, rewritten or re-created is not ours any
more: :func:`verify` raises ``LogRegression``, and whoever holds the checkpoint stops and writes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from aura.errors import LogRegression, Unavailable
from aura.log.store import EventStore, LogIdentity, Recorded

#: A replica that lags may not have the event yet: how often, and how long between, it is asked again.
_TRIES, _PAUSE_S = 50, 0.05


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a consumer has come, in which log. ``seq`` 0 = nothing yet (``sha256`` empty)."""

    epoch: str
    seq: int
    sha256: bytes


def digest(body: bytes) -> bytes:
    """SHA-256 of a stored body, 32 bytes."""
    return hashlib.sha256(body).digest()


def checkpoint(epoch: str, recorded: Recorded) -> Checkpoint:
    """The checkpoint after ``recorded``."""
    return Checkpoint(epoch, recorded.seq, digest(recorded.body))


def compare(known: Checkpoint, identity: LogIdentity) -> None:
    """Epoch and length. Raises ``LogRegression``."""
    if known.epoch != identity.epoch:
        raise LogRegression(f"the log has epoch {identity.epoch}, not {known.epoch}")
    if known.seq > identity.last_seq:
        raise LogRegression(f"the log ends at {identity.last_seq}, before the checkpoint {known.seq}")


async def verify(store: EventStore, known: Checkpoint) -> LogIdentity:
    """Compare all three and return the log's identity. Raises ``LogRegression``, ``Unavailable``.

    An event that was trimmed away (before the first sequence) cannot be compared; epoch and length still are.
    """
    identity = await store.identity()
    compare(known, identity)
    if known.seq < identity.first_seq or known.seq == 0:
        return identity
    for _ in range(_TRIES):
        event = await store.get(known.seq)
        if event is not None:
            if digest(event.body) != known.sha256:
                raise LogRegression(f"the event at sequence {known.seq} is not the one at the checkpoint")
            return identity
        await asyncio.sleep(_PAUSE_S)
    raise Unavailable(f"the event at sequence {known.seq} cannot be read")
