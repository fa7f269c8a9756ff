"""Tickets: how a browser, which cannot send a header with a WebSocket, brings its principal along (never in the URL).

``POST /auth/tickets`` → 256 random bits, good for one connection within :data:`TICKET_S`, bound to who asked. What waits for the ticket is
the principal; one that came from an API key is looked up again when the ticket is redeemed, so a key that was revoked meanwhile opens
nothing. Any gateway can redeem it (``log/tickets.py``).
"""

from __future__ import annotations

import base64
import re

import orjson

from aura.clock import Clock
from aura.gateway.access.keys import KeyRing
from aura.gateway.access.principal import Principal
from aura.ids import IdSource
from aura.log.tickets import TicketStore
from aura.log.topology import TICKET_S

_TICKET = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class Tickets:
    """Makes and redeems them."""

    def __init__(self, store: TicketStore, ring: KeyRing | None, clock: Clock, ids: IdSource) -> None:
        self._store = store
        self._ring = ring
        self._clock = clock
        self._ids = ids

    async def issue(self, principal: Principal) -> str:
        """A ticket for ``principal``. Raises ``Unavailable``."""
        ticket = base64.urlsafe_b64encode(self._ids.random_bytes(32)).rstrip(b"=").decode()
        kept = {
            "until": self._clock.now().timestamp() + TICKET_S,
            "actor": principal.actor,
            "roles": sorted(principal.roles),
            "projects": sorted(principal.projects) if principal.projects is not None else None,
            "expires_at": principal.expires_at,
            "key_id": principal.key_id,
        }
        await self._store.put(ticket, orjson.dumps(kept))
        return ticket

    async def redeem(self, ticket: object) -> Principal | None:
        """Whom it was made for, once; ``None`` when it opens nothing (any more). Raises ``Unavailable``."""
        if not isinstance(ticket, str) or not _TICKET.match(ticket):
            return None
        value = await self._store.take(ticket)
        if value is None:
            return None
        kept = orjson.loads(value)
        now = self._clock.now().timestamp()
        if now >= kept["until"] or (kept["expires_at"] is not None and now >= kept["expires_at"]):
            return None
        if kept["key_id"] is not None:
            return self._ring.standing(kept["key_id"]) if self._ring is not None else None
        projects = frozenset(kept["projects"]) if kept["projects"] is not None else None
        return Principal(kept["actor"], frozenset(kept["roles"]), projects, kept["expires_at"])
