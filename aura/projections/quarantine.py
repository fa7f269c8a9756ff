"""Letting a quarantined entity back in.

Its events were never lost: they are in the log, from the sequence in its quarantine row on. A release reads exactly those that the
version's checkpoint has passed, folds them and writes them in one transaction with the removal of the row. If they still
cannot be applied nothing changes but the row's reason. Releases are asked for by marking the row (:func:`request_release`) and
carried out by the projector that leads, between two batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import psycopg
import structlog

from aura.errors import NotFound
from aura.log.store import Recorded
from aura.projections.connection import Connection
from aura.projections.decoding import LogEvent
from aura.projections.projection import BLOCK_BITS, LogSource
from aura.projections.versions import Version
from aura.projections.writer import Writer, fold_events

_log = structlog.get_logger("aura.projections")


async def request_release(connection: Connection, kind: str, entity: str) -> int:
    """Ask for an entity's release in every projection; returns in how many. Raises ``NotFound``."""
    cursor = await connection.execute(
        "UPDATE aura.quarantine SET release_requested = true WHERE kind = %s AND entity = %s", (kind, entity)
    )
    if not cursor.rowcount:
        raise NotFound("quarantined entity", entity)
    return cursor.rowcount


async def release_requested(writer: Writer, source: LogSource, decode: Callable[[Recorded], LogEvent]) -> int:
    """Release what was asked for; returns how many entities were let back in."""
    cursor = await writer.connection.execute("SELECT * FROM aura.quarantine WHERE release_requested")
    rows = await cursor.fetchall()
    released = 0
    for row in rows:
        for version in writer.versions:
            if (version.name, version.version) == (row["projection"], row["version"]):
                released += await _release(writer, version, row, source, decode)
    return released


async def _release(
    writer: Writer, version: Version, row: dict[str, Any], source: LogSource, decode: Callable[[Recorded], LogEvent]
) -> bool:
    connection = writer.connection
    key = (row["kind"], row["entity"])
    events: list[LogEvent] = []
    subject = _of_entity(row["subject"])
    if row["seq"] <= version.seq:
        async for batch in source.read(row["seq"], to_seq=version.seq, subject=subject):
            events += [event for event in map(decode, batch) if (event.kind, event.entity) == key]
    before = replace(version, seq=row["seq"] - 1, quarantined=version.quarantined - {key})
    problem: str | None = None
    try:
        async with connection.transaction():
            for _, block in groupby(events, key=lambda event: event.seq >> BLOCK_BITS):
                folded = fold_events(before, list(block))
                if folded.aside:
                    problem = folded.aside[key].reason
                    raise psycopg.Rollback
                await writer.apply(folded)
            await connection.execute(
                "DELETE FROM aura.quarantine WHERE projection = %s AND version = %s AND kind = %s AND entity = %s",
                (version.name, version.version, *key),
            )
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        problem = (error.diag.message_primary or type(error).__name__)[:200]
    if problem is not None:
        await connection.execute(
            "UPDATE aura.quarantine SET release_requested = false, reason = %s"
            " WHERE projection = %s AND version = %s AND kind = %s AND entity = %s",
            (problem, version.name, version.version, *key),
        )
        _log.warning("release refused", projection=version.name, kind=key[0], reason=problem)
        return False
    version.quarantined.discard(key)
    _log.info("entity released", projection=version.name, kind=key[0], events=len(events))
    return True


def _of_entity(subject: str) -> str:
    """The subjects of the entity that ``subject`` belongs to, as a filter."""
    tokens = subject.split(".")
    if tokens[:2] in (["aura", "job"], ["aura", "session"]) and len(tokens) > 4:
        return ".".join(tokens[:4]) + ".>"
    if tokens[:2] == ["aura", "model"] and len(tokens) > 3:
        return ".".join(tokens[:3]) + ".>"
    return subject
