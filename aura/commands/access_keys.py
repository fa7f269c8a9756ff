"""API keys: issued and revoked as guarded events of the log, and folded from it by every gateway.

A key is ``aura_<key id>_<secret>``, 256 bits of secret. It exists in the answer to ``issue_key`` and at its holder's; the log has its
SHA-256. With an ``Idempotency-Key`` both parts are derived from it, from who asks and from this installation's key-encryption key, so a
repeat by the same caller is answered with the same key, which nobody has kept meanwhile; another request under that
``Idempotency-Key`` is refused with ``KeyReused``. Without one they are drawn.

An event that cannot be read spoils only the key that its subject names: that one counts as revoked from there on (G17).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog

from aura.clock import Clock, rfc3339
from aura.commands import requests as r
from aura.commands.handler import MAX_CONFLICTS, Caller
from aura.domain import access_key as domain
from aura.errors import Forbidden, InvalidRequest, NotFound, PoisonEvent, Unavailable, WrongExpectedSequence
from aura.events import catalogue, envelope, subjects
from aura.ids import IdSource
from aura.log.ports import ContentStore
from aura.log.store import Append, EventStore, Recorded

log = structlog.get_logger("aura.commands")

PREFIX = "aura_"
SECRET_BYTES = 32
#: Who revoked a key about which something unreadable was said.
UNREADABLE = "system:unreadable"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key, when it was issued and revoked, and the sequence of its last event."""

    state: domain.KeyState
    issued_at: str
    revoked_at: str | None
    seq: int


class KeyFold:
    """All keys. Events may come twice and overlap (a read of the log, then the tail): each counts once."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyRecord] = {}

    def apply(self, recorded: Recorded) -> KeyRecord | None:
        """The key as it is now, if the event changed one. Raises ``PoisonEvent``."""
        event, flat = envelope.unseal(recorded.body, seq=recorded.seq, subject=recorded.subject)
        if not isinstance(event, catalogue.SystemKeyIssued | catalogue.SystemKeyRevoked):
            raise PoisonEvent("not a key's event", seq=recorded.seq, subject=recorded.subject)
        if recorded.subject != subjects.key_event(event.key_id, event.TYPE):
            raise PoisonEvent(
                "the event names another key than its subject", seq=recorded.seq, subject=recorded.subject
            )
        known = self.keys.get(event.key_id)
        if known is not None and known.seq >= recorded.seq:
            return None
        state = domain.evolve(known.state if known is not None else None, event)
        if state is None:
            return None
        if known is None or isinstance(event, catalogue.SystemKeyIssued):
            record = KeyRecord(state, flat["ts"], None, recorded.seq)
        else:
            record = replace(known, state=state, revoked_at=flat["ts"], seq=recorded.seq)
        self.keys[event.key_id] = record
        return record

    def apply_or_spoil(self, recorded: Recorded) -> None:
        """Like :meth:`apply`, and :meth:`spoil` for what cannot be read."""
        try:
            self.apply(recorded)
        except PoisonEvent as error:
            log.error("keys.unreadable", subject=recorded.subject, seq=recorded.seq, error=str(error))
            self.spoil(recorded)

    def spoil(self, recorded: Recorded) -> None:
        """An event that cannot be read: the key that its subject names, if it is known, is not trusted any more."""
        known = self.keys.get(key_id := subjects.parse(recorded.subject).entity)
        if known is not None and known.seq < recorded.seq:
            by = known.state.revoked_by or UNREADABLE
            self.keys[key_id] = replace(known, state=replace(known.state, revoked_by=by), seq=recorded.seq)


async def key_events(store: EventStore, pattern: str = subjects.KEY_EVENTS) -> AsyncIterator[Recorded]:
    """The events of keys, in order. Raises ``Unavailable``."""
    async for batch in store.read(subject=pattern):
        for recorded in batch:
            yield recorded


def described(record: KeyRecord, now: str) -> dict[str, Any]:
    """What may be told of a key (never its digest). ``now`` is RFC 3339, UTC, as all instants here."""
    state = record.state
    expired = state.expires_at is not None and state.expires_at <= now
    return {
        "key_id": state.key_id,
        "role": state.role,
        "projects": list(state.projects) if state.projects is not None else None,
        "label": state.label,
        "actor": state.actor,
        "status": "revoked" if state.revoked else "expired" if expired else "active",
        "issued_at": record.issued_at,
        "issued_by": state.issued_by,
        "expires_at": state.expires_at,
        "revoked_at": record.revoked_at,
        "revoked_by": state.revoked_by,
        "reason": state.reason,
    }


def within(projects: Iterable[int] | None, limits: frozenset[int] | None) -> bool:
    """Whether a key of ``projects`` (``None`` = all) is of no other project than ``limits``."""
    return limits is None or (projects is not None and limits.issuperset(projects))


class AccessKeys:
    """The operations. A caller that is limited to some projects (``Caller.projects``) deals only in keys of those."""

    def __init__(self, store: EventStore, content: ContentStore, clock: Clock, ids: IdSource) -> None:
        self._store = store
        self._content = content
        self._clock = clock
        self._ids = ids

    async def issue(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Make a key, or answer a repeat as the first time. Raises ``Forbidden``, ``InvalidRequest``, ``KeyReused``, and ``Conflict`` when
        the key cannot be told again, because it was not made under today's key-encryption key."""
        request = r.parse(r.IssueKey, params)
        if not within(request.projects, caller.projects):
            raise Forbidden("a key of other projects than one's own is not for you to issue")
        key_id, secret = self._drawn(caller)
        key = f"{PREFIX}{key_id}_{base64.urlsafe_b64encode(secret).rstrip(b'=').decode()}"
        command = domain.IssueKey(
            key_id=key_id,
            digest=hashlib.sha256(key.encode()).hexdigest(),
            role=request.role,
            projects=tuple(sorted(set(request.projects))) if request.projects is not None else None,
            label=request.label,
            expires_at=_instant(request.expires_at),
            by=caller.actor,
        )
        now = rfc3339(self._clock.now())
        known = (await self._load(key_id))[1] if caller.idempotency_key is not None else None
        if known is None:
            if command.expires_at is not None and command.expires_at <= now:
                raise InvalidRequest("expires_at is not in the future", field="expires_at")
            self._check_room((await self._all()).keys.values(), now, caller)
        record = await self._execute(key_id, command, caller)
        return {"key": key, **described(record, now), "seq": record.seq}

    async def revoke(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Let a key in no longer; saying it again changes nothing. Raises ``NotFound``, ``InvalidRequest``."""
        rest = dict(params)
        key_id = domain.check_key_id(rest.pop("key_id", None))
        request = r.parse(r.Because, rest)
        _, known = await self._load(key_id)
        if known is None or not within(known.state.projects, caller.projects):
            raise NotFound("key", key_id)
        record = await self._execute(key_id, domain.RevokeKey(key_id, caller.actor, request.reason), caller)
        return {**described(record, rfc3339(self._clock.now())), "seq": record.seq}

    async def ls(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """``{keys: […]}``, newest first."""
        r.parse(r.NoArguments, params)
        now = rfc3339(self._clock.now())
        found = sorted((await self._all()).keys.values(), key=lambda record: record.issued_at, reverse=True)
        return {"keys": [described(one, now) for one in found if within(one.state.projects, caller.projects)]}

    def _check_room(self, known: Iterable[KeyRecord], now: str, caller: Caller) -> None:
        """Whether one more may stand. A director of some projects cannot use up what others need. Raises ``InvalidRequest``."""
        standing = [record.state for record in known if record.state.stands(now)]
        most = domain.MAX_KEYS
        if caller.projects is not None:
            own = sum(within(state.projects, caller.projects) for state in standing)
            if own >= domain.MAX_LIMITED:
                raise InvalidRequest(f"there are {own} keys of your projects; no more are made: revoke some")
            most -= domain.RESERVED
        if len(standing) >= most:
            raise InvalidRequest(f"there are {len(standing)} keys; no more are made: revoke some")

    def _drawn(self, caller: Caller) -> tuple[str, bytes]:
        """A key's id and secret."""
        if caller.idempotency_key is None:
            drawn, secret = self._ids.random_bytes(10), self._ids.random_bytes(SECRET_BYTES)
        else:
            used = f"access key\0{caller.actor}\0{caller.idempotency_key}".encode()
            drawn = hashlib.sha256(self._content.fingerprint(used).encode()).digest()[:10]
            secret = self._content.secret(used)
        return base64.b32encode(drawn).decode().lower(), secret

    async def _all(self) -> KeyFold:
        fold = KeyFold()
        async for recorded in key_events(self._store):
            fold.apply_or_spoil(recorded)
        return fold

    async def _load(self, key_id: str) -> tuple[int, KeyRecord | None]:
        """Sequence and record of one key, as the leader of the stream has it."""
        last = await self._store.last(subjects.key_guard(key_id), consistent=True)
        fold, read = KeyFold(), 0
        if last is not None:
            async for recorded in key_events(self._store, subjects.key_guard(key_id)):
                fold.apply_or_spoil(recorded)
                read = recorded.seq
        seq = last.seq if last is not None else 0
        if read != seq:
            raise Unavailable("the key is changing; try again")
        return seq, fold.keys.get(key_id)

    async def _execute(self, key_id: str, command: domain.KeyCommand, caller: Caller) -> KeyRecord:
        for _ in range(MAX_CONFLICTS):
            seq, known = await self._load(key_id)
            events = domain.decide(known.state if known is not None else None, command)
            if not events:
                assert known is not None  # only what is known can be so already
                return known
            append = self._seal(key_id, events[0], seq, caller)
            try:
                stored = await self._store.append(append)
            except WrongExpectedSequence:
                continue
            fold = KeyFold()
            if known is not None:
                fold.keys[key_id] = known
            made = fold.apply(Recorded(stored, append.subject, 0, append.body))
            assert made is not None
            return made
        raise Unavailable("the key is changing too fast; try again")

    def _seal(self, key_id: str, event: catalogue.KeyEvent, seq: int, caller: Caller) -> Append:
        event_id = self._ids.uuid7()
        stamp = envelope.Stamp(rfc3339(self._clock.now()), caller.actor, caller.correlation_id, caller.causation_id)
        body = envelope.seal(event, event_id=event_id, stamp=stamp, ids={})
        return Append(subjects.key_event(key_id, event.TYPE), subjects.key_guard(key_id), seq, event_id, body)


def _instant(given: datetime | None) -> str | None:
    """An instant from outside in our spelling, so that instants compare as text. Raises ``InvalidRequest``."""
    try:
        return rfc3339(given) if given is not None else None
    except OverflowError:
        raise InvalidRequest("expires_at is too far away", field="expires_at") from None
