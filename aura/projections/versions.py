"""Versions of a projection: each owns a schema ``p_<name>_v<n>``; the views ``read.*`` show the live one.

::

    (none) ─create→ shadow ─switch→ live ─switch of a later one→ old ─drop→ (none)
                                     ↑──────── rollback ──────────┘

Invariants: at most one live version per projection (unique index); the views of a projection and the ``live`` mark move in one
transaction, so a query sees one version whole; a version's rows and its checkpoint move in one transaction (``writer.py``).
``create`` of a first version makes it live at once: it is empty at sequence 0, which is true.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aura.projections import sql
from aura.projections.connection import Connection
from aura.projections.migrations import grant_reader
from aura.projections.projection import Projection


@dataclass(slots=True)
class Version:
    """One version and its place in the log. ``quarantined`` holds (kind, entity) of what is kept aside."""

    projection: Projection
    version: int
    status: str
    shape: str
    epoch: str = ""
    seq: int = 0
    sha256: str = ""
    quarantined: set[tuple[str, str]] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The projection's name."""
        return self.projection.name

    @property
    def schema(self) -> str:
        """The schema it owns."""
        return f"p_{self.projection.name}_v{self.version}"


async def load(connection: Connection, projection: Projection, *, status: str | None = None) -> list[Version]:
    """The versions of a projection, oldest first, with their checkpoints and quarantined entities."""
    cursor = await connection.execute(
        "SELECT version, status, shape, epoch, seq, sha256 FROM aura.projections"
        " WHERE name = %s AND (%s::text IS NULL OR status = %s) ORDER BY version",
        (projection.name, status, status),
    )
    found = [Version(projection, **row) for row in await cursor.fetchall()]
    for version in found:
        cursor = await connection.execute(
            "SELECT kind, entity FROM aura.quarantine WHERE projection = %s AND version = %s",
            (version.name, version.version),
        )
        version.quarantined = {(row["kind"], row["entity"]) for row in await cursor.fetchall()}
    return found


async def live(connection: Connection, projection: Projection) -> Version:
    """The live version; a first one is made when there is none."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"aura:{projection.name}",))
        found = await load(connection, projection, status="live")
        if found:
            return found[0]
        version = await create(connection, projection, status="live")
        await index(connection, version)
        await show(connection, version)
        return version


async def create(connection: Connection, projection: Projection, *, status: str = "shadow") -> Version:
    """A new, empty version at sequence 0, without secondary indexes."""
    async with connection.transaction():
        cursor = await connection.execute(
            "INSERT INTO aura.projections (name, version, status, shape)"
            " SELECT %s, coalesce(max(version), 0) + 1, %s, %s FROM aura.projections WHERE name = %s"
            " RETURNING version, status, shape",
            (projection.name, status, projection.shape, projection.name),
        )
        row = await cursor.fetchone()
        assert row is not None
        version = Version(projection, **row)
        await connection.execute(f"CREATE SCHEMA {version.schema}")
        await connection.execute(sql.for_schema(projection.file("tables"), version.schema))
    return version


async def index(connection: Connection, version: Version) -> None:
    """Its secondary indexes."""
    text = sql.for_schema(version.projection.file("indexes"), version.schema)
    if text.strip():
        await connection.execute(text)


async def show(connection: Connection, version: Version) -> None:
    """Point the views at ``version``. Call inside the transaction that marks it live."""
    text = sql.for_schema(version.projection.file("views"), version.schema)
    for line in text.splitlines():
        if line.startswith("CREATE VIEW "):
            await connection.execute(f"DROP VIEW IF EXISTS {line.split()[2]}")
    await connection.execute(text)
    await grant_reader(connection)


async def switch(connection: Connection, version: Version) -> None:
    """Make ``version`` live and the live one old. Call inside a transaction."""
    await connection.execute(
        "UPDATE aura.projections SET status = 'old' WHERE name = %s AND status = 'live'", (version.name,)
    )
    await connection.execute(
        "UPDATE aura.projections SET status = 'live', updated_at = clock_timestamp() WHERE name = %s AND version = %s",
        (version.name, version.version),
    )
    await show(connection, version)
    version.status = "live"


async def drop(connection: Connection, version: Version) -> None:
    """Remove a version that is not live: its schema, its checkpoint, its quarantine."""
    async with connection.transaction():
        cursor = await connection.execute(
            "DELETE FROM aura.projections WHERE name = %s AND version = %s AND status <> 'live' RETURNING version",
            (version.name, version.version),
        )
        if await cursor.fetchone() is None:
            return
        await connection.execute(
            "DELETE FROM aura.quarantine WHERE projection = %s AND version = %s", (version.name, version.version)
        )
        await connection.execute(f"DROP SCHEMA IF EXISTS {version.schema} CASCADE")
