"""The keys that open this gateway: folded from the log at the start, followed through the hub's tail. No database is asked.

Checking a key is one SHA-256, one look-up and one comparison in constant time. A revocation takes effect when its event arrives
(milliseconds after its commit), for requests and, through :meth:`KeyRing.watch`, for what is connected.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from aura.clock import Clock, parse_rfc3339
from aura.commands.access_keys import PREFIX, KeyFold, KeyRecord, key_events
from aura.errors import PoisonEvent, Unavailable
from aura.events import subjects
from aura.gateway.access.principal import Principal
from aura.log.store import EventStore, Recorded

log = structlog.get_logger("aura.gateway")

_KEY_SPACE = subjects.KEY_EVENTS.removesuffix(">")
#: A whole key: prefix, id, underscore, 43 characters of base64url.
KEY_LENGTH = len(PREFIX) + 16 + 1 + 43
_NONE = bytes(32)


class Keys(Protocol):
    """What authentication needs of them."""

    def open(self, key: str) -> Principal | None:
        """The principal of a whole key; ``None`` for one that is unknown, revoked or expired."""


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    principal: Principal
    revoked: bool


def _entry(record: KeyRecord) -> _Entry:
    state = record.state
    principal = Principal(
        actor=state.actor,
        roles=frozenset({state.role}),
        projects=frozenset(state.projects) if state.projects is not None else None,
        expires_at=parse_rfc3339(state.expires_at).timestamp() if state.expires_at is not None else None,
        key_id=state.key_id,
    )
    return _Entry(bytes.fromhex(state.digest), principal, state.revoked)


class KeyRing:
    """See the module docstring. ``observe`` may run before and during :meth:`start`: events count once, in whatever overlap."""

    def __init__(self, store: EventStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._fold = KeyFold()
        self._entries: dict[str, _Entry] = {}
        self._on_revoked: dict[str, dict[object, Callable[[], None]]] = {}
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Fold what the log holds. Raises ``Unavailable``."""
        async for recorded in key_events(self._store):
            self._apply(recorded)
        log.info("access.keys", known=len(self._entries))

    def observe(self, batch: list[Recorded]) -> None:
        """Take what the tail delivers."""
        for recorded in batch:
            if recorded.subject.startswith(_KEY_SPACE):
                self._apply(recorded)

    def open(self, key: str) -> Principal | None:
        """See :class:`Keys`."""
        if len(key) != KEY_LENGTH:
            return None
        entry = self._entries.get(key[5:21])
        same = hmac.compare_digest(
            hashlib.sha256(key.encode("utf-8", "replace")).digest(), entry.digest if entry is not None else _NONE
        )
        return entry.principal if entry is not None and same and self._alive(entry) else None

    def standing(self, key_id: str) -> Principal | None:
        """The principal of a key that was opened before, if it still stands."""
        entry = self._entries.get(key_id)
        return entry.principal if entry is not None and self._alive(entry) else None

    def watch(self, key_id: str, on_revoked: Callable[[], None]) -> Callable[[], None]:
        """Call ``on_revoked`` when the key is revoked; returns how to stop."""
        token = object()
        self._on_revoked.setdefault(key_id, {})[token] = on_revoked

        def stop() -> None:
            watchers = self._on_revoked.get(key_id)
            if watchers is not None and watchers.pop(token, None) is not None and not watchers:
                del self._on_revoked[key_id]

        return stop

    async def reached(self, key_id: str, seq: int, within_s: float = 5.0) -> None:
        """Wait until the key's event at ``seq`` counts here. Raises ``Unavailable``."""
        try:
            async with asyncio.timeout(within_s):
                while (known := self._fold.keys.get(key_id)) is None or known.seq < seq:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable("this gateway has not seen the key's event yet") from None

    def _alive(self, entry: _Entry) -> bool:
        expires_at = entry.principal.expires_at
        return not entry.revoked and (expires_at is None or self._clock.now().timestamp() < expires_at)

    def _apply(self, recorded: Recorded) -> None:
        try:
            record = self._fold.apply(recorded)
            if record is None:
                return
            entry = _entry(record)
        except (PoisonEvent, ValueError) as error:
            # What cannot be read lets nobody in; and a key about which something unreadable was said is not trusted either.
            key_id = subjects.parse(recorded.subject).entity
            known = self._entries.get(key_id)
            self._fold.spoil(recorded)
            log.error("access.key_unreadable", key_id=key_id, seq=recorded.seq, error=str(error))
            if known is None:
                return
            entry = _Entry(known.digest, known.principal, True)
            self._entries[key_id] = entry
        else:
            key_id = record.state.key_id
            self._entries[key_id] = entry
        if entry.revoked:
            for tell in list(self._on_revoked.pop(key_id, {}).values()):
                tell()
        self._changed.set()
