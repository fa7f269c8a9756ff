"""Follows one stream and keeps its projections up to date.

::

    starting ─connected→ standby ─got the advisory lock→ leading ─the log is another one→ regressed (until restarted)
       ↑                                                   └─ and was accepted as such → rebuilt, leading
       ↑                    │                              │
       └── connection lost, checkpoint moved, log away: back-off, again ──┘          any ─stop→ stopped

Invariants: the advisory lock is held by the very connection that writes, so who lost one has lost the other, and the checkpoint
moves only from where this projector left it; a second projector waits for the lock and takes over at once (it is released
with the connection). Before writing, and at least every second while writing, the log's identity is checked (G5). Nothing
is ever skipped: what cannot be applied is quarantined (``writer.py``), what cannot be read or written is tried again.

A version whose tables are made by other SQL than this code's, or that is of a superseded epoch (``checkpoint.py``), is rebuilt
beside itself before following goes on. A commit under way is never cut off by ``cancel``: it is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
import structlog

from aura.clock import Clock
from aura.errors import LogRegression, Unavailable
from aura.log.store import LogIdentity, Recorded
from aura.projections import quarantine, sql, versions
from aura.projections.checkpoint import check, check_ends, superseded
from aura.projections.connection import Connection, connect, tune_for_writing
from aura.projections.decoding import LogEvent
from aura.projections.feed import LIVE_BATCH, Feed
from aura.projections.migrations import LOCK_SPACE, migrate
from aura.projections.projection import LogSource, Projection
from aura.projections.rebuild import rebuild
from aura.projections.versions import Version
from aura.projections.writer import Batch, Quarantined, StaleCheckpoint, Writer

_log = structlog.get_logger("aura.projections")
_TICK_S = 1.0
_PRUNE_S = 60.0
#: How long a commit under way may take when we are asked to stop.
_LAST_COMMIT_S = 5.0
_BACKOFF_S = (0.05, 2.0)
#: A commit costs 2 ms of processor time and more, whether it carries one event or ten. An event after a quiet moment is committed at
#: once; in a steady trickle a commit waits for this many events, from the commit before no less than ``PACE_S`` and no more than
#: ``LINGER_S``. At 400 events a second that is a third of the commits.
WORTH_A_COMMIT = 4
PACE_S = 0.003
LINGER_S = 0.012

#: ``(code, severity, entity)``: how the composition root is asked to append ``system.alert_raised``.
Alert = Callable[[str, str, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Following:
    """What a runner follows. ``lock`` makes the advisory lock's key; ``forgetful`` streams drop old messages by themselves."""

    name: str
    lock: int
    projections: Sequence[Projection]
    decode: Callable[[Recorded], LogEvent]
    forgetful: bool = False


class Runner:
    """One stream's projector. ``status`` is a state of the module's diagram; ``seq`` how far all its projections are."""

    def __init__(
        self, following: Following, source: LogSource, conninfo: str, *, clock: Clock, on_alert: Alert | None = None
    ) -> None:
        self.status = "starting"
        self.error: str | None = None
        self.seq = 0
        self._following = following
        self._source = source
        self._conninfo = conninfo
        self._clock = clock
        self._on_alert = on_alert
        self._changed = asyncio.Condition()
        self._identity: LogIdentity | None = None
        self._committing: asyncio.Task[list[Quarantined]] | None = None
        self._ticked_s = 0.0
        self._pruned_s = 0.0

    @property
    def committing(self) -> bool:
        """Whether a commit is under way."""
        return self._committing is not None and not self._committing.done()

    async def wait_for(self, *statuses: str) -> str:
        """Wait until the status is one of ``statuses``."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.status in statuses)
        return self.status

    async def reached(self, seq: int) -> None:
        """Wait until everything up to ``seq`` is committed by this runner."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.seq >= seq)

    async def run(self) -> None:
        """Run until cancelled, or until the log is another one (``regressed``)."""
        delay_s = _BACKOFF_S[0]
        while True:
            began = self._clock.monotonic_s()
            try:
                await self._lead()
            except LogRegression as error:
                if await self._is_superseded():
                    await self._set("starting", error.detail)
                    continue
                _log.critical("log regression: the projector stops", stream=self._following.name, detail=error.detail)
                await self._set("regressed", error.detail)
                return
            except StaleCheckpoint as error:
                _log.info("checkpoint moved elsewhere", stream=self._following.name, detail=error.detail)
                await self._set("starting")
            except (psycopg.Error, Unavailable, OSError) as error:
                detail = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                _log.warning("projector interrupted", stream=self._following.name, error=detail, retry_in_s=delay_s)
                await self._set("starting", detail)
            if self._clock.monotonic_s() - began > _BACKOFF_S[1]:
                delay_s = _BACKOFF_S[0]
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _BACKOFF_S[1])

    async def _is_superseded(self) -> bool:
        """Whether the log that is no longer ours was accepted as it is now."""
        known = self._identity
        if known is None:
            return False
        try:
            identity = await self._source.identity()
        except (Unavailable, LogRegression):
            return False
        return identity.epoch != known.epoch and (self._following.forgetful or identity.supersedes(known.epoch))

    async def _set(self, status: str, error: str | None = None) -> None:
        async with self._changed:
            self.status, self.error = status, error
            self._changed.notify_all()

    async def _advanced(self, seq: int) -> None:
        async with self._changed:
            self.seq = seq
            self._changed.notify_all()

    async def _lead(self) -> None:
        connection = await connect(self._conninfo, f"aura-projector-{self._following.name}")
        try:
            await migrate(connection)
            lock = (LOCK_SPACE, self._following.lock)
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%s, %s) AS mine", lock)
            row = await cursor.fetchone()
            if row is None or not row["mine"]:
                await self._set("standby")
                await connection.execute("SELECT pg_advisory_lock(%s, %s)", lock)
            await tune_for_writing(connection)
            live = await self._live(connection)
            writer = Writer(
                connection,
                live,
                epoch=(self._identity or await self._source.identity()).epoch,
                decode=self._following.decode,
            )
            await self._set("leading")
            await self._advanced(writer.seq)
            await self._pump(writer)
        finally:
            await connection.close()

    async def _live(self, connection: Connection) -> list[Version]:
        """The live versions, of this code's shape, checked against the log."""
        found = [await versions.live(connection, one) for one in self._following.projections]
        self._identity = await check(self._source, found, forgetful=self._following.forgetful)
        for place, version in enumerate(found):
            replaced = superseded(self._identity, version, forgetful=self._following.forgetful)
            if replaced or version.shape != version.projection.shape:
                why = "another log was accepted" if replaced else "the tables have another shape"
                _log.warning("rebuilding", projection=version.name, why=why)
                await rebuild(
                    version.projection,
                    self._source,
                    self._conninfo,
                    decode=self._following.decode,
                    forgetful=self._following.forgetful,
                )
                found[place] = await versions.live(connection, version.projection)
        return found

    # --- following

    async def _pump(self, writer: Writer) -> None:
        assert self._identity is not None
        position = writer.seq
        if position == 0 or self._following.forgetful:
            position = max(position, self._identity.first_seq - 1, 0)
        feed = Feed(position, forgetful=self._following.forgetful)
        filling = asyncio.create_task(feed.fill(self._source.follow(position + 1)))
        committing: asyncio.Task[list[Quarantined]] | None = None
        self._committing = None
        self._ticked_s = self._clock.monotonic_s()
        try:
            while True:
                if committing is None and not await feed.wait(_TICK_S):
                    await self._tick(writer)
                    continue
                batch = await writer.fold(feed.take()) if len(feed) else None
                if committing is not None:
                    await self._settle(writer, committing)
                    committing = None
                if batch is None:
                    continue
                if self._clock.monotonic_s() - self._ticked_s > _TICK_S:
                    await self._tick(writer)
                began_s = self._clock.monotonic_s()
                committing = self._committing = asyncio.create_task(writer.commit(batch))
                if len(feed) <= LIVE_BATCH:
                    # Keeping up: commit at once; what arrives meanwhile is the next batch.
                    await self._settle(writer, committing)
                    committing = None
                    await self._linger(feed, began_s)
        finally:
            filling.cancel()
            if committing is not None:
                await _ended(committing)
            with suppress(asyncio.CancelledError):
                await filling

    async def _linger(self, feed: Feed, began_s: float) -> None:
        """Let the next commit be worth its cost."""
        await asyncio.sleep(max(0.0, began_s + PACE_S - self._clock.monotonic_s()))
        await feed.wait(began_s + LINGER_S - self._clock.monotonic_s(), WORTH_A_COMMIT)

    async def _settle(self, writer: Writer, committing: asyncio.Task[list[Quarantined]]) -> None:
        quarantined = await asyncio.shield(committing)
        await self._advanced(writer.seq)
        for one in quarantined:
            _log.error("entity quarantined", projection=one.projection, kind=one.kind, seq=one.seq, reason=one.reason)
        if self._on_alert is not None:
            for entity in dict.fromkeys(f"{one.kind}:{one.entity}"[:200] for one in quarantined):
                await self._on_alert("projection_quarantine", "critical", entity)

    async def _tick(self, writer: Writer) -> None:
        """Once a second: is it still our log, is our connection alive, did somebody ask for a release?"""
        self._ticked_s = self._clock.monotonic_s()
        identity = await self._source.identity()
        for version in writer.versions:
            check_ends(identity, version, forgetful=self._following.forgetful)
        await quarantine.release_requested(writer, self._source, self._following.decode)
        if self._following.forgetful and self._ticked_s - self._pruned_s > _PRUNE_S:
            self._pruned_s = self._ticked_s
            for version in writer.versions:
                text = sql.for_schema(version.projection.file("prune"), version.schema)
                await writer.connection.execute(text, {"first_seq": identity.first_seq})


async def _ended(committing: asyncio.Task[list[Quarantined]]) -> None:
    """Let a commit end, so that its rows and its checkpoint are there or not, as Postgres says; not for ever."""
    await asyncio.wait({committing}, timeout=_LAST_COMMIT_S)
    if not committing.done():
        committing.cancel()
    elif not committing.cancelled() and (error := committing.exception()) is not None:
        _log.info("last commit failed", error=type(error).__name__)


__all__ = ["Alert", "Batch", "Following", "Runner"]
