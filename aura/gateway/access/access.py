"""The door: who asks, may they, and for how long. One object per gateway, by ``AURA_AUTH``.

``open``: everybody is ``anonymous`` and may what the matrix gives that role; nothing is looked at but ``x-director-key``.
``keys``, ``oidc``: ``Authorization: Bearer`` with an API key or a token; browsers' sockets bring a ticket. Missing, unknown, expired and
revoked credentials are the same 401.

``x-director-key`` (``AURA_DIRECTOR_API_KEY``) works in every mode, for the actions in :data:`DIRECTORS`. One that is sent must be right.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from aura.clock import Clock
from aura.errors import Forbidden, Overloaded, Unauthenticated
from aura.gateway.access import subjects
from aura.gateway.access.denials import Denials
from aura.gateway.access.failures import Failures, address_of
from aura.gateway.access.keys import KeyRing
from aura.gateway.access.matrix import PUBLIC
from aura.gateway.access.principal import ANONYMOUS, DIRECTOR, NOBODY, Principal
from aura.gateway.access.tickets import Tickets
from aura.gateway.metrics import Metrics
from aura.gateway.ports import OnEnd

if TYPE_CHECKING:
    from aura.gateway.access.oidc import Oidc  # joserfc, only where tokens count

#: What the director's configured key opens.
DIRECTORS = frozenset({"archives.hold", "archives.release", "archives.purge", "keys.read", "keys.manage"})
UNAUTHENTICATED, FORBIDDEN = 4401, 4403
#: No timer of the event loop waits longer; one that fires early is set again.
_LONGEST_WAIT_S = 3_600.0
_MAX_FIRST_MESSAGE = 1_024

Scope = Mapping[str, Any]


class Access(Protocol):
    """What the gateway asks at its door; includes ``ports.LiveAccess``."""

    @property
    def modes(self) -> frozenset[str]:
        """``open``, or what is accepted."""

    async def request(self, scope: Scope, action: str) -> Principal:
        """Who sends this request, and that they may. Raises ``Unauthenticated``, ``Forbidden``, ``Overloaded``, ``Unavailable``."""

    def denied(self, principal: Principal, action: str, target: str) -> None:
        """An authenticated principal was refused."""

    async def ticket(self, principal: Principal) -> str:
        """A ticket for a live connection. Raises ``Unavailable``."""

    async def admit(
        self, scope: Scope, first_message: str | bytes | None, action: str = "log.follow"
    ) -> Principal | None:
        """See ``LiveAccess``."""

    def visible(self, principal: Principal) -> tuple[str, ...]:
        """See ``LiveAccess``."""

    def may_follow(self, principal: Principal, pattern: str) -> bool:
        """See ``LiveAccess``."""

    def watch(self, principal: Principal, on_end: OnEnd) -> Callable[[], None]:
        """See ``LiveAccess``."""

    async def key_reached(self, key_id: str, seq: int) -> None:
        """Wait until the key's event at ``seq`` counts here. Raises ``Unavailable``."""

    async def start(self) -> None:
        """Know everybody, once the tail delivers."""

    async def stop(self) -> None:
        """Record what is to be recorded. Safe twice."""


class _DirectorKey:
    """``AURA_DIRECTOR_API_KEY``."""

    def __init__(self, configured: str | None, failures: Failures) -> None:
        self._configured = configured.encode() if configured is not None else None
        self._failures = failures

    @property
    def set(self) -> bool:
        """Whether there is one."""
        return self._configured is not None

    def sent(self, scope: Scope, action: str) -> bool:
        """Whether it came along, right, for something it opens. Raises ``Forbidden`` for a wrong one, ``Overloaded``."""
        if action not in DIRECTORS:
            return False
        sent = _headers(scope).get(b"x-director-key")
        if sent is None:
            return False
        address = address_of(scope.get("client"))
        if self._configured is not None and hmac.compare_digest(sent, self._configured):
            return True
        if self._failures.limited(address):
            raise Overloaded("too many failed attempts from this address", retry_after_s=5)
        self._failures.failed(address)
        raise Forbidden("this needs the director's key")


def _headers(scope: Scope) -> Mapping[bytes, bytes]:
    """As the edge has checked them."""
    headers: Mapping[bytes, bytes] = scope["aura.headers"]
    return headers


class OpenAccess:
    """Mode ``open``."""

    modes = frozenset({"open"})

    def __init__(self, director_key: str | None, clock: Clock) -> None:
        self._director = _DirectorKey(director_key, Failures(clock))

    async def request(self, scope: Scope, action: str) -> Principal:
        if action not in DIRECTORS:
            return ANONYMOUS
        if self._director.sent(scope, action):
            return DIRECTOR
        if not ANONYMOUS.may(action) or (action == "archives.release" and self._director.set):
            raise Forbidden("this needs the director's key")
        return ANONYMOUS

    def denied(self, principal: Principal, action: str, target: str) -> None:
        """Nobody has a name here."""

    async def ticket(self, principal: Principal) -> str:
        """One that is accepted like any other first message: nobody is asked for it."""
        del principal
        return "open"

    async def admit(
        self, scope: Scope, first_message: str | bytes | None, action: str = "log.follow"
    ) -> Principal | None:
        del scope, first_message, action
        return ANONYMOUS

    def visible(self, principal: Principal) -> tuple[str, ...]:
        del principal
        return subjects.EVERYTHING

    def may_follow(self, principal: Principal, pattern: str) -> bool:
        del principal, pattern
        return True

    def watch(self, principal: Principal, on_end: OnEnd) -> Callable[[], None]:
        del principal, on_end
        return _nothing

    async def key_reached(self, key_id: str, seq: int) -> None:
        """Keys open nothing here."""

    async def start(self) -> None:
        """Nothing to know."""

    async def stop(self) -> None:
        """Nothing to record."""


def _nothing() -> None:
    """Nothing to stop."""


class GuardedAccess:
    """Modes ``keys`` and ``oidc``."""

    def __init__(
        self,
        *,
        ring: KeyRing | None,
        oidc: Oidc | None,
        tickets: Tickets,
        denials: Denials,
        director_key: str | None,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.modes = frozenset(name for name, part in (("keys", ring), ("oidc", oidc)) if part is not None)
        self._ring = ring
        self._oidc = oidc
        self._tickets = tickets
        self._denials = denials
        self._failures = Failures(clock)
        self._director = _DirectorKey(director_key, self._failures)
        self._metrics = metrics
        self._clock = clock

    # --- requests

    async def request(self, scope: Scope, action: str) -> Principal:
        if action in PUBLIC:
            return NOBODY
        if self._director.sent(scope, action):
            return DIRECTOR
        principal = await self._authenticated(scope)
        self._allow(principal, action, scope)
        return principal

    def denied(self, principal: Principal, action: str, target: str) -> None:
        self._metrics.access_refused.labels("forbidden").inc()
        if principal.roles or principal.actor != NOBODY.actor:
            self._denials.note(principal.actor, action, target)

    async def _authenticated(self, scope: Scope) -> Principal:
        headers = _headers(scope)
        sent = headers.get(b"authorization")
        if sent is None:
            ticket = headers.get(b"x-aura-ticket")
            if ticket is not None and scope["type"] == "http" and scope["path"].startswith("/sse/"):
                return await self._redeemed(scope, ticket.decode("latin-1"))
            self._metrics.access_refused.labels("missing").inc()
            raise Unauthenticated("credentials are needed: Authorization: Bearer …")
        scheme, _, text = sent.partition(b" ")
        token = text.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
        principal = self._known(token)
        if principal is not None:
            return principal
        self._listen(scope)
        if self._oidc is not None and token.startswith("ey"):
            try:
                return await self._oidc.verify(token)
            except Unauthenticated:
                pass
        raise self._failed(scope)

    def _known(self, token: str) -> Principal | None:
        if self._ring is not None and token.startswith("aura_"):
            return self._ring.open(token)
        return self._oidc.known(token) if self._oidc is not None else None

    def _listen(self, scope: Scope) -> None:
        """Raises ``Overloaded`` for an address that has failed too often."""
        if self._failures.limited(address_of(scope.get("client"))):
            self._metrics.access_refused.labels("limited").inc()
            raise Overloaded("too many failed attempts from this address", retry_after_s=5)

    def _failed(self, scope: Scope) -> Unauthenticated:
        self._failures.failed(address_of(scope.get("client")))
        self._metrics.access_refused.labels("unknown").inc()
        return Unauthenticated("these credentials are not accepted")

    def _allow(self, principal: Principal, action: str, scope: Scope) -> None:
        if not principal.may(action):
            self.denied(principal, action, scope["path"])
            raise Forbidden("your role does not allow this")

    # --- live

    async def ticket(self, principal: Principal) -> str:
        return await self._tickets.issue(principal)

    async def admit(
        self, scope: Scope, first_message: str | bytes | None, action: str = "log.follow"
    ) -> Principal | None:
        if first_message is not None:
            principal = await self._redeemed(scope, _ticket_in(first_message))
        elif b"authorization" in _headers(scope):
            principal = await self._authenticated(scope)
        else:
            return None
        self._allow(principal, action, scope)
        return principal

    async def _redeemed(self, scope: Scope, ticket: object) -> Principal:
        self._listen(scope)
        principal = await self._tickets.redeem(ticket)
        if principal is None:
            raise self._failed(scope)
        return principal

    def visible(self, principal: Principal) -> tuple[str, ...]:
        return subjects.visible(principal)

    def may_follow(self, principal: Principal, pattern: str) -> bool:
        return subjects.may_follow(principal, pattern)

    def watch(self, principal: Principal, on_end: OnEnd) -> Callable[[], None]:
        return _Watch(principal, on_end, self._ring, self._clock).stop

    async def key_reached(self, key_id: str, seq: int) -> None:
        if self._ring is not None:
            await self._ring.reached(key_id, seq)

    async def start(self) -> None:
        if self._ring is not None:
            await self._ring.start()
        await self._denials.start()

    async def stop(self) -> None:
        await self._denials.stop()


def _ticket_in(message: str | bytes) -> object:
    """The ticket of ``{"op":"auth","ticket":"…"}``; ``None`` when the message is another."""
    if len(message) > _MAX_FIRST_MESSAGE:
        return None
    try:
        sent = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    return sent.get("ticket") if isinstance(sent, dict) and sent.get("op") == "auth" else None


class _Watch:
    """One live connection: ends it once, when its credentials are over."""

    def __init__(self, principal: Principal, on_end: OnEnd, ring: KeyRing | None, clock: Clock) -> None:
        self._on_end: OnEnd | None = on_end
        self._clock = clock
        self._expires_at = principal.expires_at
        self._timer: asyncio.TimerHandle | None = None
        self._forget = _nothing
        if principal.key_id is not None and ring is not None:
            self._forget = ring.watch(principal.key_id, lambda: self._end("the key was revoked"))
            if ring.standing(principal.key_id) is None:  # between the handshake and now
                asyncio.get_running_loop().call_soon(self._end, "the key was revoked")
        if self._expires_at is not None:
            self._wait()

    def stop(self) -> None:
        """Watch no more."""
        self._on_end = None
        self._forget()
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        assert self._expires_at is not None
        left = self._expires_at - self._clock.now().timestamp()
        if left <= 0:
            asyncio.get_running_loop().call_soon(self._end, "the credentials have expired")
        else:
            self._timer = asyncio.get_running_loop().call_later(min(left + 0.01, _LONGEST_WAIT_S), self._wait)

    def _end(self, reason: str) -> None:
        on_end = self._on_end
        if on_end is not None:
            self.stop()
            on_end(UNAUTHENTICATED, reason)
