"""Rows and checkpoint in one transaction (G4); poison isolated and quarantined (G17).

A batch is folded (no I/O) and then committed in one pipeline: the conditional move of each checkpoint, then every statement of
every projection, then COMMIT. Failure cases:

* connection lost, server killed: the transaction is gone or committed whole; the next start reads the checkpoint and goes on.
* another projector committed first, or a rebuild switched versions: the checkpoint is not where we left it, the whole
  transaction fails with ``StaleCheckpoint`` and nothing of it stays.
* an event that cannot be applied: found while folding, when rows are made, or by Postgres refusing its values. In the last case
  the batch is tried again by halves, entity by entity, in transactions that are rolled back, until the culprits are known. A
  culprit's events are kept aside from its first refused one on, in that projection only; all other rows are committed as if it were
  not there. If Postgres refuses the batch but no entity alone, nothing is written and the error is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import orjson
import psycopg
import structlog

from aura.errors import AuraError
from aura.log.store import Recorded
from aura.projections import sql
from aura.projections.checkpoint import sha256
from aura.projections.connection import Connection
from aura.projections.decoding import LogEvent
from aura.projections.pipeline import Pipeline, Statement
from aura.projections.projection import Write
from aura.projections.versions import Version

_log = structlog.get_logger("aura.projections")
Entity = tuple[str, str]
#: Events folded between two turns of the event loop.
SLICE = 200
_UNWRITABLE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
_UNAPPLICABLE = (AuraError, *_UNWRITABLE)


class StaleCheckpoint(AuraError):
    """Somebody else moved the checkpoint: start over from what Postgres says."""

    code = "stale_checkpoint"


@dataclass(slots=True)
class Aside:
    """Events of one entity kept aside in one batch. ``reason`` is set when this batch is what quarantines it."""

    subject: str
    seq: int
    last_seq: int
    events: int = 1
    reason: str | None = None


@dataclass(slots=True)
class Folded:
    """What one batch does to one version."""

    version: Version
    writes: list[Write] = field(default_factory=list)
    aside: dict[Entity, Aside] = field(default_factory=dict)


@dataclass(slots=True)
class Batch:
    """A folded batch. ``events`` are kept so that it can be folded again."""

    events: list[LogEvent]
    last: Recorded
    folded: list[Folded]
    generation: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An entity that was quarantined by a commit."""

    projection: str
    kind: str
    entity: str
    seq: int
    reason: str


class Writer:
    """Writes batches of one stream to the versions it is given, over one connection."""

    def __init__(
        self,
        connection: Connection,
        versions: Sequence[Version],
        *,
        epoch: str,
        decode: Callable[[Recorded], LogEvent],
    ) -> None:
        self.connection = connection
        self.versions = list(versions)
        self._epoch = epoch
        self._decode = decode
        self._generation = 0
        self._pipeline = Pipeline(connection)

    @property
    def seq(self) -> int:
        """Up to where every version has the log."""
        return min(version.seq for version in self.versions)

    async def fold(self, recorded: Sequence[Recorded]) -> Batch:
        """Decode and fold. Reads the versions' checkpoints and quarantines, changes nothing. A large batch is folded in slices,
        so that the batch before it goes on being committed meanwhile."""
        generation, folding, decode = self._generation, self._folding(recorded[-1]), self._decode
        events: list[LogEvent] = []
        for start in range(0, len(recorded), SLICE):
            if start:
                await asyncio.sleep(0)
            part = [decode(one) for one in recorded[start : start + SLICE]]
            events += part
            for one in folding:
                one.take(part)
        try:
            folded = [one.finish() for one in folding]
        except _UNWRITABLE as error:
            return self._without_unwritable(Batch(events, recorded[-1], [], generation), error)
        return Batch(events, recorded[-1], folded, generation)

    def _folding(self, last: Recorded) -> list[Folding]:
        """For every version that is not ahead of the batch. (A batch lies within one block.)"""
        return [Folding(version, last.seq) for version in self.versions if version.seq < last.seq]

    def _refold(self, batch: Batch, refused: Mapping[str, set[Entity]] | None = None, reason: str = "") -> Batch:
        folding = self._folding(batch.last)
        for one in folding:
            one.refuse((refused or {}).get(one.version.name, set()), reason)
            one.take(batch.events)
        return Batch(batch.events, batch.last, [one.finish() for one in folding], self._generation)

    async def commit(self, batch: Batch) -> list[Quarantined]:
        """Write a batch; returns what it quarantined. Raises ``StaleCheckpoint`` and ``psycopg.Error``."""
        if batch.generation != self._generation:
            batch = self._refold(batch)
        with _stale_checkpoint():
            try:
                await self._transact(batch)
            except psycopg.Error as error:
                if not _is_data_error(error):
                    raise
                batch = await self._without_culprits(batch, error)
                await self._transact(batch)
            except _UNWRITABLE as error:
                batch = self._without_unwritable(batch, error)
                await self._transact(batch)
        return self._committed(batch)

    def _committed(self, batch: Batch) -> list[Quarantined]:
        quarantined = []
        digest = sha256(batch.last.body)
        for folded in batch.folded:
            version = folded.version
            version.seq, version.epoch, version.sha256 = batch.last.seq, self._epoch, digest
            for (kind, entity), aside in folded.aside.items():
                if aside.reason is not None:
                    version.quarantined.add((kind, entity))
                    quarantined.append(Quarantined(version.name, kind, entity, aside.seq, aside.reason))
        if quarantined:
            self._generation += 1
        return quarantined

    async def _transact(self, batch: Batch) -> None:
        """Checkpoints first: they are locked and compared before any row is written, so that what a projector that was
        overtaken would write again is never mistaken for poison."""
        statements = [self._advance([folded.version for folded in batch.folded], batch.last)]
        for folded in batch.folded:
            statements += _statements(folded)
        if not any(write.copy for folded in batch.folded for write in folded.writes):
            await self.run(statements)
            return
        async with self.connection.transaction():  # a COPY cannot be pipelined: a few round trips more
            await self.run(statements)
            for folded in batch.folded:
                await self._copies(folded)

    def _advance(self, moving: Sequence[Version], last: Recorded) -> Statement:
        left = [{"name": one.name, "version": one.version, "status": one.status, "seq": one.seq} for one in moving]
        params = {
            "versions": orjson.dumps(left).decode(),
            "epoch": self._epoch,
            "seq": last.seq,
            "sha256": sha256(last.body),
            "stored_ns": last.stored_at_ns,
        }
        return sql.text("projections/advance"), params

    async def run(self, statements: Sequence[Statement]) -> None:
        """Statements in one round trip. With :meth:`copy`, where a test can make it crash."""
        await self._pipeline.run(statements)

    async def copy(self, text: str, lines: bytes) -> None:
        """A ``COPY … FROM STDIN``."""
        async with self.connection.cursor() as cursor, cursor.copy(text) as copy:
            await copy.write(lines)

    async def _copies(self, folded: Folded) -> None:
        for write in folded.writes:
            if write.copy is not None:
                await self.copy(sql.for_schema(write.sql, folded.version.schema), write.copy)

    async def apply(self, folded: Folded) -> None:
        """Run a folded batch's statements in the transaction that the caller has open."""
        await self.run(_statements(folded))
        await self._copies(folded)

    # --- poison that shows when rows are made

    def _without_unwritable(self, batch: Batch, error: Exception) -> Batch:
        """The batch without the entities of which no rows can be made. Raises ``error`` when each by itself can."""
        refused: dict[str, set[Entity]] = {}
        for version in [one for one in self.versions if one.seq < batch.last.seq]:
            for entity in sorted({(event.kind, event.entity) for event in batch.events}):
                own = [event for event in batch.events if (event.kind, event.entity) == entity]
                try:
                    _statements(fold_events(version, own))
                except _UNWRITABLE:
                    refused.setdefault(version.name, set()).add(entity)
        if not refused:
            raise error
        return self._refold(batch, refused, f"cannot be applied: {type(error).__name__}")

    # --- poison that only Postgres recognises

    async def _without_culprits(self, batch: Batch, error: psycopg.Error) -> Batch:
        reason = (error.diag.message_primary or type(error).__name__)[:200]
        culprits: dict[str, set[Entity]] = {}
        for folded in batch.folded:
            entities = sorted({(event.kind, event.entity) for event in batch.events})
            if found := await self._culprits(folded.version, batch, entities):
                culprits[folded.version.name] = set(found)
        if not culprits:
            raise error
        _log.error(
            "postgres refused rows", reason=reason, culprits={name: len(found) for name, found in culprits.items()}
        )
        return self._refold(batch, culprits, reason)

    async def _culprits(self, version: Version, batch: Batch, entities: list[Entity]) -> list[Entity]:
        chosen = set(entities)
        subset = [event for event in batch.events if (event.kind, event.entity) in chosen]
        if await self._applies(version, subset, batch.last):
            return []
        if len(entities) == 1:
            return entities
        middle = len(entities) // 2
        first = await self._culprits(version, batch, entities[:middle])
        return first + await self._culprits(version, batch, entities[middle:])

    async def _applies(self, version: Version, events: list[LogEvent], last: Recorded) -> bool:
        """Whether Postgres takes these events' rows. Changes nothing."""
        try:
            async with self.connection.transaction(force_rollback=True):
                await self.run([self._advance([version], last)])
                await self.apply(fold_events(version, events))
        except psycopg.Error as error:
            if _is_data_error(error):
                return False
            raise
        return True


class Folding:
    """A batch being folded into one version, slice by slice, keeping aside the events of entities that are quarantined, poison or
    :meth:`refuse`-d."""

    def __init__(self, version: Version, some_seq: int) -> None:
        self.version = version
        self._fold = version.projection.fold(some_seq)
        self._found = Folded(version)
        self._refused: set[Entity] = set()
        self._reason = ""

    def refuse(self, entities: set[Entity], reason: str) -> None:
        """Keep these aside as well, for a reason that only Postgres knew."""
        self._refused, self._reason = entities, reason

    def take(self, events: Sequence[LogEvent]) -> None:
        """The next events in order."""
        version, aside = self.version, self._found.aside
        add, seq, quarantined = self._fold.add, version.seq, version.quarantined
        kinds = version.projection.kinds
        if kinds is not None and kinds.isdisjoint({event.kind for event in events}):
            return
        watched = bool(aside or quarantined or self._refused)
        for event in events:
            if event.seq <= seq or (kinds is not None and event.kind not in kinds):
                continue
            if event.poison is None and not watched:
                try:
                    add(event)
                    continue
                except _UNAPPLICABLE as error:
                    problem: str | None = f"cannot be applied: {type(error).__name__}"
            else:
                problem = self._problem(event)
            if problem is not None:
                self._keep_aside(event, problem)
                watched = True

    def _problem(self, event: LogEvent) -> str | None:
        """Why a watched event cannot be applied (``""``: its entity is aside already); ``None`` once it was applied."""
        key = (event.kind, event.entity)
        if key in self._found.aside or key in self.version.quarantined:
            return ""
        if event.poison is not None:
            return event.poison
        if key in self._refused:
            return self._reason
        try:
            self._fold.add(event)
        except _UNAPPLICABLE as error:
            return f"cannot be applied: {type(error).__name__}"
        return None

    def _keep_aside(self, event: LogEvent, problem: str) -> None:
        known = self._found.aside.get((event.kind, event.entity))
        if known is not None:
            known.events += 1
            known.last_seq = event.seq
        else:
            aside = Aside(event.subject, event.seq, event.seq, reason=problem or None)
            self._found.aside[(event.kind, event.entity)] = aside

    def finish(self) -> Folded:
        """The statements."""
        self._found.writes = self._fold.writes()
        return self._found


def fold_events(version: Version, events: Sequence[LogEvent]) -> Folded:
    """Fold events into one version at once."""
    if not events:
        return Folded(version)
    folding = Folding(version, events[0].seq)
    folding.take(events)
    return folding.finish()


def _statements(folded: Folded) -> list[Statement]:
    """Everything but the copies."""
    version = folded.version
    found: list[Statement] = [
        (sql.for_schema(write.sql, version.schema), {"rows": orjson.dumps(write.rows).decode(), **(write.params or {})})
        for write in folded.writes
        if write.copy is None
    ]
    if folded.aside:
        rows = [
            {"kind": kind, "entity": entity, "seq": one.seq, "last_seq": one.last_seq, "events": one.events}
            | {"subject": one.subject[:500], "reason": one.reason or ""}
            for (kind, entity), one in folded.aside.items()
        ]
        params = {"projection": version.name, "version": version.version, "rows": orjson.dumps(rows).decode()}
        found.append((sql.text("projections/keep_aside"), params))
    return found


@contextmanager
def _stale_checkpoint() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate == "AU002":
            raise StaleCheckpoint(str(error.diag.message_primary)) from error
        raise


def _is_data_error(error: psycopg.Error) -> bool:
    """The values are at fault, not the server: data exceptions, violated constraints, limits, unknown rows."""
    return error.sqlstate is not None and (error.sqlstate[:2] in ("22", "23", "54") or error.sqlstate == "AU001")
