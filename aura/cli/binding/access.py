"""Who is at the gateway's door, by ``AURA_AUTH``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from aura import config
from aura.config import Settings
from aura.gateway.access.access import Access, GuardedAccess, OpenAccess
from aura.gateway.access.denials import Denials
from aura.gateway.access.keys import KeyRing
from aura.gateway.access.tickets import Tickets
from aura.gateway.metrics import Metrics
from aura.log.store import EventStore, Recorded
from aura.log.tickets import TicketStore

if TYPE_CHECKING:
    from aura.cli.compose import World
    from aura.gateway.access.oidc import Oidc

Observe = Callable[[list[Recorded]], None]


def access_of(
    at: World, store: EventStore, tickets: TicketStore, metrics: Metrics, parts: AsyncExitStack
) -> tuple[Access, tuple[Observe, ...]]:
    """The door, and what must see every event for it. What is open for it closes with ``parts``. Raises ``ConfigError``."""
    settings = at.settings
    if "open" in settings.auth_modes:
        return OpenAccess(settings.director_api_key, at.clock), ()
    ring = KeyRing(store, at.clock) if "keys" in settings.auth_modes else None
    access = GuardedAccess(
        ring=ring,
        oidc=_oidc(settings, at, parts) if "oidc" in settings.auth_modes else None,
        tickets=Tickets(tickets, ring, at.clock, at.ids),
        denials=Denials(store, at.clock, at.ids),
        director_key=settings.director_api_key,
        metrics=metrics,
        clock=at.clock,
    )
    return access, (ring.observe,) if ring is not None else ()


def _oidc(settings: Settings, at: World, parts: AsyncExitStack) -> Oidc:
    from aura.gateway.access.jwks import RemoteKeys  # httpx and joserfc: only where tokens count
    from aura.gateway.access.oidc import Oidc, OidcPolicy

    config.refuse_open_bind(settings)
    assert settings.oidc_issuer is not None
    assert settings.oidc_audience is not None
    keys = RemoteKeys(settings.oidc_issuer, settings.oidc_jwks_url, at.clock)
    parts.push_async_callback(keys.stop)
    policy = OidcPolicy(
        settings.oidc_issuer, settings.oidc_audience, settings.oidc_role_claim, settings.oidc_project_claim
    )
    return Oidc(policy, keys, at.clock)
