"""What a projection is: tables it alone owns, a fold from events to rows, the statements that write those rows.

A fold collects one batch in memory, keyed by row, and hands out set-wise writes: one JSON array per table, one statement each.
It never reads Postgres, so a batch can be folded while the one before it is being committed. Whatever the batches, the rows
are the same: values are "last one wins" per column, "as it was" (NULL) when the batch says nothing, or sums.

Batches never cross a multiple of :data:`BLOCK` sequences, so per-block sums do not depend on them either.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aura.log.store import LogIdentity, Recorded
from aura.projections import sql
from aura.projections.decoding import LogEvent

#: Sequences per block of the as-of counts (see ``sql/projections/jobs/tables.sql``). Part of every jobs and timeline shape.
BLOCK_BITS = 14
BLOCK = 1 << BLOCK_BITS


class LogSource(Protocol):
    """What a projector needs of a stream: a narrow part of the ``EventStore`` port, which ``AURA_HEALTH`` has as well."""

    async def identity(self) -> LogIdentity:
        """Epoch and both ends, now."""

    async def get(self, seq: int) -> Recorded | None:
        """One message, ``None`` when it is not there."""

    def read(
        self, from_seq: int = 1, *, to_seq: int | None = None, subject: str | None = None, batch: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        """Batches up to ``to_seq`` or the end as of the call."""

    def follow(self, from_seq: int) -> AsyncIterator[list[Recorded]]:
        """Batches from ``from_seq`` and then live."""


@dataclass(frozen=True, slots=True)
class Write:
    """One statement: its SQL file, its rows (one JSON parameter) and other parameters; or, for many new rows, a ``COPY`` and its
    lines (``rows.py``)."""

    sql: str
    rows: list[dict[str, Any]]
    params: Mapping[str, Any] | None = None
    copy: bytes | None = None


class Fold(Protocol):
    """One batch being folded."""

    def add(self, event: LogEvent) -> None:
        """Take one event in. Raises ``PoisonEvent``, ``KeyError``, ``TypeError`` or ``ValueError`` *before* it changed anything
        when the event cannot be applied."""

    def writes(self) -> list[Write]:
        """The statements, in the order they have to run; empty ones left out."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a projection. ``where`` leaves out rows that are as good as absent; ``key`` orders a comparison."""

    name: str
    key: tuple[str, ...]
    where: str = "true"


@dataclass(frozen=True, slots=True)
class Projection:
    """A projection's code. ``name`` is also the folder of its SQL; ``fold`` starts a batch, given any of its sequences (a batch lies
    within one block);
    ``kinds`` are the entities it is about (``None``: all)."""

    name: str
    tables: tuple[Table, ...]
    fold: Callable[[int], Fold]
    kinds: frozenset[str] | None = None

    def file(self, part: str) -> str:
        """The name of one of its SQL files."""
        return f"projections/{self.name}/{part}"

    @property
    def shape(self) -> str:
        """SHA-256 of the SQL that makes its tables, indexes and views: another shape needs a rebuild."""
        parts = (sql.text(self.file(part)) for part in ("tables", "indexes", "views"))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()
