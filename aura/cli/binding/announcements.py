"""What the projector says about itself, as events: ``system.alert_raised`` and ``system.projection_rebuilt``."""

from __future__ import annotations

import structlog

from aura.clock import Clock, rfc3339
from aura.errors import AuraError
from aura.events import envelope, subjects
from aura.events.catalogue import Event, SystemAlertRaised, SystemProjectionRebuilt
from aura.ids import IdSource
from aura.log.store import Append, EventStore
from aura.projections.rebuild import Rebuilt

log = structlog.get_logger("aura.projections")


class Announcements:
    """Best effort: what is announced stands in Postgres in any case."""

    def __init__(self, store: EventStore, clock: Clock, ids: IdSource) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids

    async def alert(self, code: str, severity: str, entity: str) -> None:
        """Implements ``projections.runner.Alert``."""
        await self._append(SystemAlertRaised.model_validate({"code": code, "severity": severity, "entity": entity}))

    async def rebuilt(self, done: Rebuilt) -> None:
        """A projection was rebuilt and switched."""
        event = SystemProjectionRebuilt(
            projection=done.projection,
            version=done.version,
            at_seq=done.seq,
            rows=done.rows,
            differences=done.differences,
        )
        await self._append(event)

    async def _append(self, event: Event) -> None:
        event_id = self._ids.uuid7()
        stamp = envelope.Stamp(rfc3339(self._clock.now()), "projector:log", event_id, event_id)
        body = envelope.seal(event, event_id=event_id, stamp=stamp, ids={})
        try:
            await self._store.append(Append(subjects.system_event(event.TYPE), None, 0, event_id, body))
        except AuraError as error:
            log.error("announcement.not_recorded", type=event.TYPE, code=error.code)
