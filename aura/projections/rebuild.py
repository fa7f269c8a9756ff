"""A new version of a projection, made from the log beside the live one, compared with it, and switched in.

::

    shadow created (no secondary indexes) → folded up to the live version's checkpoint → indexes
      → both held at one sequence, compared → caught up again → views switched, old version kept → older ones dropped

The API serves the live version throughout. The live projector is held (by a row lock on its checkpoint) only while the shadow
folds the last few events, twice. Comparison happens in a snapshot of that one sequence, first by a digest of every row, then
row by row where digests differ. A shadow that was interrupted is dropped by the next rebuild; the live version never notices.

Differences do not stop a switch: the rebuilt rows are what the log says, and the number is reported (and is why one rebuilds).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import psycopg
import structlog

from aura.errors import InvalidRequest, LogRegression
from aura.log.store import Recorded
from aura.projections import versions
from aura.projections.checkpoint import check_ends
from aura.projections.connection import Connection, connect, tune_for_writing
from aura.projections.decoding import LogEvent
from aura.projections.digest import Difference, compare
from aura.projections.feed import CATCH_UP_BATCH
from aura.projections.migrations import LOCK_SPACE, migrate
from aura.projections.projection import BLOCK, LogSource, Projection
from aura.projections.versions import Version
from aura.projections.writer import Writer

_log = structlog.get_logger("aura.projections")
Progress = Callable[[int, int], None]
_REBUILD_LOCK = 16
_SWITCH_TRIES, _SWITCH_WAIT_S = 60, 1


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did. ``differences`` counts rows that the old version had otherwise; ``examples`` names the first ones.
    ``compared`` is false when there was nothing to compare with (another epoch, another shape)."""

    projection: str
    version: int
    seq: int
    rows: int
    differences: int
    compared: bool
    switched: bool
    examples: list[Difference] = field(default_factory=list)


async def rebuild(
    projection: Projection,
    source: LogSource,
    conninfo: str,
    *,
    decode: Callable[[Recorded], LogEvent],
    forgetful: bool = False,
    switch: bool = True,
    progress: Progress | None = None,
    on_rebuilt: Callable[[Rebuilt], Awaitable[None]] | None = None,
) -> Rebuilt:
    """Rebuild one projection. ``progress(seq, of)`` is called per batch; ``on_rebuilt`` after the switch (it appends
    ``system.projection_rebuilt``). ``switch=False`` compares and drops the shadow again (``verify``).

    Raises ``InvalidRequest`` while another rebuild of it runs, ``Unavailable``, ``LogRegression``, ``psycopg.Error``.
    """
    connection = await connect(conninfo, f"aura-rebuild-{projection.name}")
    try:
        await migrate(connection)
        cursor = await connection.execute(
            "SELECT pg_try_advisory_lock(%s, %s + abs(hashtext(%s)) %% 1000000) AS mine",
            (LOCK_SPACE, _REBUILD_LOCK, projection.name),
        )
        row = await cursor.fetchone()
        if row is None or not row["mine"]:
            raise InvalidRequest(f"{projection.name} is being rebuilt already")
        done = await _Rebuild(projection, source, conninfo, connection, decode, forgetful, progress).run(switch=switch)
    finally:
        await connection.close()
    _log.info("projection rebuilt", **{name: getattr(done, name) for name in ("projection", "version", "seq", "rows")})
    if switch and on_rebuilt is not None:
        await on_rebuilt(done)
    return done


class _Rebuild:
    def __init__(
        self,
        projection: Projection,
        source: LogSource,
        conninfo: str,
        connection: Connection,
        decode: Callable[[Recorded], LogEvent],
        forgetful: bool,
        progress: Progress | None,
    ) -> None:
        self._projection = projection
        self._source = source
        self._conninfo = conninfo
        self._connection = connection
        self._decode = decode
        self._forgetful = forgetful
        self._progress = progress

    async def run(self, *, switch: bool) -> Rebuilt:
        connection = self._connection
        live = await versions.live(connection, self._projection)
        for left_over in await versions.load(connection, self._projection, status="shadow"):
            await versions.drop(connection, left_over)
        shadow = await versions.create(connection, self._projection)
        await tune_for_writing(connection)
        identity = await self._source.identity()
        comparable = live.epoch == identity.epoch and live.shape == shadow.shape
        if live.epoch == identity.epoch:
            check_ends(identity, live, forgetful=self._forgetful)
        writer = Writer(connection, [shadow], epoch=identity.epoch, decode=self._decode)
        await self._fold_to(writer, live.seq if comparable else identity.last_seq)
        await versions.index(connection, shadow)
        await connection.execute(
            f"ANALYZE {', '.join(f'{shadow.schema}.{table.name}' for table in self._projection.tables)}"
        )
        found: list[Difference] = []
        rows = 0
        if comparable:
            rows, found = await self._compare(writer, live, identity.first_seq if self._forgetful else 0)
        if switch:
            await self._switch(writer, comparable)
        differences = sum(one.rows for one in found)
        done = Rebuilt(self._projection.name, shadow.version, shadow.seq, rows, differences, comparable, switch, found)
        if comparable and not differences:
            await self._verified(shadow if switch else live, shadow.seq)
        if not switch:
            await versions.drop(connection, shadow)
        return done

    async def _fold_to(self, writer: Writer, to_seq: int) -> None:
        """Bring the shadow to ``to_seq`` exactly."""
        pending: list[Recorded] = []
        start = writer.seq + 1
        if start > to_seq:
            return
        async for batch in self._source.read(start, to_seq=to_seq, batch=1_000):
            for recorded in batch:
                if pending and (recorded.seq % BLOCK == 0 or len(pending) >= CATCH_UP_BATCH):
                    await self._flush(writer, pending, to_seq)
                    pending = []
                pending.append(recorded)
        if pending:
            await self._flush(writer, pending, to_seq)
        if writer.seq != to_seq and not self._forgetful:
            raise LogRegression(f"the log gave events up to {writer.seq} where {to_seq} was expected")

    async def _flush(self, writer: Writer, recorded: list[Recorded], to_seq: int) -> None:
        await writer.commit(await writer.fold(recorded))
        if self._progress is not None:
            self._progress(writer.seq, to_seq)

    async def _held(self, connection: Connection) -> int:
        """Lock the live version's checkpoint row until the transaction ends; returns its sequence."""
        cursor = await connection.execute(
            "SELECT seq FROM aura.projections WHERE name = %s AND status = 'live' FOR UPDATE", (self._projection.name,)
        )
        row = await cursor.fetchone()
        assert row is not None
        seq: int = row["seq"]
        return seq

    async def _compare(self, writer: Writer, live: Version, first_seq: int) -> tuple[int, list[Difference]]:
        """Both versions in one snapshot at one sequence."""
        holder = await connect(self._conninfo, "aura-rebuild-hold")
        reader = await connect(self._conninfo, "aura-rebuild-compare")
        try:
            async with reader.transaction():
                async with holder.transaction():
                    await self._fold_to(writer, await self._held(holder))
                    await reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                    await reader.execute("SELECT 1 FROM aura.projections LIMIT 1")  # takes the snapshot
                return await compare(reader, live, writer.versions[0], first_seq=first_seq)
        finally:
            await holder.close()
            await reader.close()

    async def _switch(self, writer: Writer, comparable: bool) -> None:
        shadow = writer.versions[0]
        for attempt in range(_SWITCH_TRIES):
            try:
                await self._switch_once(writer, shadow, comparable)
                break
            except psycopg.errors.LockNotAvailable:
                # A long read holds the old views. Waiting in line would hold up every reader behind us: let them pass, again.
                shadow.status = "shadow"
                if attempt == _SWITCH_TRIES - 1:
                    raise
        kept = await versions.load(self._connection, self._projection, status="old")
        for older in kept[:-1]:
            await versions.drop(self._connection, older)

    async def _switch_once(self, writer: Writer, shadow: Version, comparable: bool) -> None:
        holder = await connect(self._conninfo, "aura-rebuild-switch")
        try:
            async with holder.transaction():
                seq = await self._held(holder)
                await self._fold_to(writer, seq if comparable else (await self._source.identity()).last_seq)
                await holder.execute(f"SET LOCAL lock_timeout = '{_SWITCH_WAIT_S}s'")
                await versions.switch(holder, shadow)
        finally:
            await holder.close()

    async def _verified(self, version: Version, seq: int) -> None:
        await self._connection.execute(
            "UPDATE aura.projections SET verified_seq = %s, verified_at = clock_timestamp() WHERE name = %s AND version = %s",
            (seq, version.name, version.version),
        )
