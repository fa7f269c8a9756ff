"""Commands that work on the log and Postgres themselves, without a gateway: rebuild, verify, replay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TYPE_CHECKING

from aura.cli.compose import World, connected

if TYPE_CHECKING:
    from aura.projections.rebuild import Rebuilt


async def rebuild(at: World, name: str, *, switch: bool, progress: Callable[[int, int], None]) -> Rebuilt:
    """``aura projections rebuild|verify``. Raises ``NotFound``, ``InvalidRequest``, ``Unavailable``, ``LogRegression``."""
    from aura.cli.binding.announcements import Announcements
    from aura.log.health import HealthLog
    from aura.log.jetstream import JetStreamEventStore
    from aura.projections import catalog, connection
    from aura.projections.projection import LogSource
    from aura.projections.rebuild import rebuild as run

    projection, following = catalog.find(name)
    link = await connected(at, "projector")
    store = JetStreamEventStore(link, at.clock, at.ids)
    source: LogSource = HealthLog(link, at.clock, at.ids) if following is catalog.FROM_HEALTH else store
    try:
        with connection.unavailable():
            return await run(
                projection,
                source,
                at.settings.require_database(),
                decode=following.decode,
                forgetful=following.forgetful,
                switch=switch,
                progress=progress,
                on_rebuilt=Announcements(store, at.clock, at.ids).rebuilt,
            )
    finally:
        await store.close()
        await link.close()


async def replay(
    at: World, start: int | datetime | None, end: int | datetime | None, *, subject: str | None, speed: float | None
) -> AsyncIterator[bytes]:
    """``aura audit replay``: JSON lines. Raises ``InvalidRequest``, ``Unavailable``."""
    from aura.audit.replay import replay as lines
    from aura.log.jetstream import JetStreamEventStore

    link = await connected(at, "admin")
    store = JetStreamEventStore(link, at.clock, at.ids)
    try:
        async for line in lines(
            store,
            clock=at.clock,
            from_seq=start if isinstance(start, int) else None,
            to_seq=end if isinstance(end, int) else None,
            from_time=start if isinstance(start, datetime) else None,
            to_time=end if isinstance(end, datetime) else None,
            subject=subject,
            speed=speed,
        ):
            yield line
    finally:
        await store.close()
        await link.close()
