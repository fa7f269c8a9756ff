"""Which projections there are, and what each is built from."""

from __future__ import annotations

from aura.errors import NotFound
from aura.projections.archives import ARCHIVES
from aura.projections.decoding import decode, decode_heartbeat
from aura.projections.health import HEALTH
from aura.projections.jobs import JOBS
from aura.projections.models import MODELS
from aura.projections.projection import Projection
from aura.projections.runner import Following
from aura.projections.sessions import SESSIONS
from aura.projections.timeline import TIMELINE

#: Built from the log in one pass; all at one checkpoint while following.
FROM_LOG = Following(name="log", lock=2, projections=(JOBS, TIMELINE, MODELS, ARCHIVES, SESSIONS), decode=decode)
#: Built from the heartbeats of the last 24 hours.
FROM_HEALTH = Following(name="health", lock=3, projections=(HEALTH,), decode=decode_heartbeat, forgetful=True)


def find(name: str) -> tuple[Projection, Following]:
    """A projection by name and what it follows. Raises ``NotFound``."""
    for following in (FROM_LOG, FROM_HEALTH):
        for projection in following.projections:
            if projection.name == name:
                return projection, following
    raise NotFound("projection", name)
