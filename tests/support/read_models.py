"""Short ways to project a log and to look at the result, for tests of the read side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aura.log.store import Recorded
from aura.projections import versions
from aura.projections.catalog import FROM_LOG
from aura.projections.connection import Connection, connect
from aura.projections.decoding import decode
from aura.projections.digest import digest
from aura.projections.migrations import migrate
from aura.projections.projection import BLOCK
from aura.projections.versions import Version
from aura.projections.writer import Quarantined, Writer

EPOCH = "log-1"
Digests = dict[str, tuple[int, str]]


async def owner(conninfo: str) -> Connection:
    """A migrated connection."""
    connection = await connect(conninfo, "test")
    await migrate(connection)
    return connection


async def live_versions(connection: Connection) -> list[Version]:
    """The live versions of all projections of the log."""
    return [await versions.live(connection, projection) for projection in FROM_LOG.projections]


async def shadow_versions(connection: Connection) -> list[Version]:
    """New empty versions beside whatever is live, indexed."""
    made = [await versions.create(connection, projection) for projection in FROM_LOG.projections]
    for version in made:
        await versions.index(connection, version)
    return made


def batches(recorded: Sequence[Recorded], sizes: Iterable[int]) -> list[list[Recorded]]:
    """Cut a log into batches of these sizes (repeated as needed) and, like the feed, at blocks."""
    found: list[list[Recorded]] = []
    wanted = list(sizes) or [1]
    turn = 0
    current: list[Recorded] = []
    for one in recorded:
        if current and (len(current) >= wanted[turn % len(wanted)] or one.seq % BLOCK == 0):
            found.append(current)
            current = []
            turn += 1
        current.append(one)
    return [*found, current] if current else found


async def write(writer: Writer, recorded: Sequence[Recorded], sizes: Iterable[int] = (500,)) -> list[Quarantined]:
    """Fold and commit; returns what was quarantined."""
    quarantined = []
    for batch in batches(recorded, sizes):
        quarantined += await writer.commit(await writer.fold(batch))
    return quarantined


async def project(connection: Connection, recorded: Sequence[Recorded]) -> list[Version]:
    """Everything into the live versions, from their checkpoint on."""
    found = await live_versions(connection)
    writer = Writer(connection, found, epoch=EPOCH, decode=decode)
    await write(writer, [one for one in recorded if one.seq > writer.seq])
    return found


async def digests(connection: Connection, found: Sequence[Version]) -> Digests:
    """table → (rows, digest) over all versions."""
    result: Digests = {}
    for version in found:
        result |= await digest(connection, version)
    return result


async def rows(connection: Connection, query: str, params: Any = None) -> list[dict[str, Any]]:
    """All rows of a query."""
    return await (await connection.execute(query, params)).fetchall()
