"""The door: who asks, may they, and for how long. One object per gateway, by ``AURA_AUTH``.

``open``: everybody is ``anonymous`` and may what the matrix gives that role; nothing is looked at but ``x-director-key``.
``keys``, ``oidc``: ``Authorization: Bearer`` with an API key or a token; browsers' sockets bring a ticket. Missing, unknown, expired and
revoked credentials are the same 401.

What is presented is looked at before anybody is turned away: failures of others at an address (all clients of a proxy have one) never cost
a good key, token or ticket its answer. They only turn the refusal of a bad one from 401 into 429.

A gateway that hears nothing from the log does not hear of revocations: when it last compared itself with the log more than
:data:`MAX_AGE_S` ago, API keys (and tickets made with them) are answered 503. Tokens end by their own time and go on.

``x-director-key`` (``AURA_DIRECTOR_API_KEY``) works in every mode (``director.py``). One that is sent must be right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import orjson

from aura.clock import Clock
from aura.errors import Forbidden, Overloaded, Unauthenticated, Unavailable
from aura.events.subjects import EVERYTHING
from aura.gateway.access import subjects
from aura.gateway.access.denials import Denials
from aura.gateway.access.director import DIRECTORS, DirectorKey, Scope, headers_of
from aura.gateway.access.failures import Failures, address_of
from aura.gateway.access.keys import KeyRing
from aura.gateway.access.matrix import PUBLIC
from aura.gateway.access.principal import ANONYMOUS, DIRECTOR, NOBODY, Principal
from aura.gateway.access.tickets import Tickets
from aura.gateway.access.watching import Watch, nothing
from aura.gateway.metrics import Metrics
from aura.gateway.ports import OnEnd

if TYPE_CHECKING:
    from aura.gateway.access.oidc import Oidc  # joserfc, only where tokens count

_MAX_FIRST_MESSAGE = 1_024
#: How old the last comparison with the log may be before keys are not believed any more: a revocation may have been missed.
MAX_AGE_S = 30.0


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

    def no_ticket(self, scope: Scope) -> None:
        """See ``LiveAccess``."""

    def visible(self, principal: Principal) -> tuple[str, ...]:
        """See ``LiveAccess``."""

    def may_follow(self, principal: Principal, pattern: str) -> bool:
        """See ``LiveAccess``."""

    def watch(self, principal: Principal, on_end: OnEnd) -> Callable[[], None]:
        """See ``LiveAccess``."""

    async def key_reached(self, key_id: str, seq: int) -> None:
        """Wait until the key's event at ``seq`` counts here. Raises ``Unavailable``."""

    def follows(self, age_s: Callable[[], float]) -> None:
        """``age_s`` says how many seconds ago what is known here was all that the log had."""

    async def start(self) -> None:
        """Know everybody, once the tail delivers."""

    async def stop(self) -> None:
        """Record what is to be recorded. Safe twice."""


class OpenAccess:
    """Mode ``open``."""

    modes = frozenset({"open"})

    def __init__(self, director_key: str | None, clock: Clock) -> None:
        self._director = DirectorKey(director_key, Failures(clock))

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
        return EVERYTHING

    def may_follow(self, principal: Principal, pattern: str) -> bool:
        del principal, pattern
        return True

    def watch(self, principal: Principal, on_end: OnEnd) -> Callable[[], None]:
        del principal, on_end
        return nothing

    async def key_reached(self, key_id: str, seq: int) -> None:
        """Keys open nothing here."""

    def no_ticket(self, scope: Scope) -> None:
        """None is asked for here."""

    def follows(self, age_s: Callable[[], float]) -> None:
        """Nothing here can be revoked."""

    async def start(self) -> None:
        """Nothing to know."""

    async def stop(self) -> None:
        """Nothing to record."""


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
        self._director = DirectorKey(director_key, Failures(clock))
        self._metrics = metrics
        self._clock = clock
        self._age_s: Callable[[], float] = lambda: 0.0

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
        headers = headers_of(scope)
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
        if principal is None and self._oidc is not None and token.startswith("ey"):
            try:
                principal = await self._oidc.verify(token)
            except Unauthenticated:
                pass
        return self._accepted(scope, principal)

    def _known(self, token: str) -> Principal | None:
        if self._ring is not None and token.startswith("aura_"):
            return self._ring.open(token)
        return self._oidc.known(token) if self._oidc is not None else None

    def _accepted(self, scope: Scope, principal: Principal | None) -> Principal:
        """Who presented something that opens; ``None``: it does not. Raises ``Unauthenticated``, ``Overloaded``, ``Unavailable``."""
        if principal is not None:
            if principal.key_id is not None and self._age_s() > MAX_AGE_S:
                self._metrics.access_refused.labels("stale").inc()
                raise Unavailable("this gateway is cut off from the log and cannot tell whether a key still stands")
            return principal
        address = address_of(scope.get("client"))
        if self._failures.limited(address):
            self._metrics.access_refused.labels("limited").inc()
            raise Overloaded("too many failed attempts from this address", retry_after_s=5)
        self._failures.failed(address)
        self._metrics.access_refused.labels("unknown").inc()
        raise Unauthenticated("these credentials are not accepted")

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
        elif b"authorization" in headers_of(scope):
            principal = await self._authenticated(scope)
        else:
            return None
        self._allow(principal, action, scope)
        return principal

    async def _redeemed(self, scope: Scope, ticket: object) -> Principal:
        return self._accepted(scope, await self._tickets.redeem(ticket))

    def no_ticket(self, scope: Scope) -> None:
        self._failures.failed(address_of(scope.get("client")))
        self._metrics.access_refused.labels("missing").inc()

    def visible(self, principal: Principal) -> tuple[str, ...]:
        return subjects.visible(principal)

    def may_follow(self, principal: Principal, pattern: str) -> bool:
        return subjects.may_follow(principal, pattern)

    def watch(self, principal: Principal, on_end: OnEnd) -> Callable[[], None]:
        return Watch(principal, on_end, self._ring, self._clock).stop

    async def key_reached(self, key_id: str, seq: int) -> None:
        if self._ring is not None:
            await self._ring.reached(key_id, seq)

    def follows(self, age_s: Callable[[], float]) -> None:
        self._age_s = age_s

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
