"""The decider of API keys: a key is issued once and revoked once. Pure.

::

    (none) ─issued→ ACTIVE ─revoked→ REVOKED        past expires_at an ACTIVE key opens nothing

The log holds the SHA-256 of a key, never the key. What a key may do never changes: issue another and revoke this one. So a gateway
that has folded a key knows all about it but whether it is revoked. Revoking twice is ``[]``, and so is issuing the same key again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import assert_never, get_args

from aura.errors import Conflict, InvalidRequest, KeyReused, NotFound
from aura.events import catalogue as e

Role = e.AccessRole
ROLES: tuple[Role, ...] = get_args(Role)
#: Made by us: 10 random bytes in base 32.
KEY_ID = re.compile(r"[a-z2-7]{16}\Z")
MAX_PROJECTS = 64
#: Keys that stand (neither revoked nor expired) at once.
MAX_KEYS = 10_000
#: Of them, those of a limited director's projects when that director issues another; and how many stay for directors without limits.
MAX_LIMITED, RESERVED = 1_000, 1_000


def actor_of(role: str, key_id: str) -> str:
    """How events name the key's holder (EVENTS.md): ``director:<key id>``, ``worker:<key id>``, else ``user:<key id>``."""
    return f"{role if role in ('director', 'worker') else 'user'}:{key_id}"


def check_key_id(value: object) -> str:
    """A key's id. Raises ``InvalidRequest``."""
    if not isinstance(value, str) or not KEY_ID.match(value):
        raise InvalidRequest("key_id must be 16 characters of a-z and 2-7", field="key_id")
    return value


@dataclass(frozen=True, slots=True)
class KeyState:
    """``digest`` is SHA-256 of the whole key, hexadecimal. ``projects``: ``None`` = all. Instants are RFC 3339."""

    key_id: str
    digest: str
    role: Role
    projects: tuple[int, ...] | None
    label: str
    expires_at: str | None
    issued_by: str
    revoked_by: str | None = None
    reason: str = ""

    @property
    def revoked(self) -> bool:
        """Opens nothing any more."""
        return self.revoked_by is not None

    def stands(self, now: str) -> bool:
        """Whether it opens anything at ``now`` (RFC 3339, UTC, spelled as ours)."""
        return not self.revoked and (self.expires_at is None or self.expires_at > now)

    @property
    def actor(self) -> str:
        """How events name its holder."""
        return actor_of(self.role, self.key_id)


@dataclass(frozen=True, slots=True)
class IssueKey:
    """Let a new key in."""

    key_id: str
    digest: str
    role: Role
    projects: tuple[int, ...] | None
    label: str
    expires_at: str | None
    by: str


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Let a key in no longer."""

    key_id: str
    by: str
    reason: str = ""


KeyCommand = IssueKey | RevokeKey


def decide(state: KeyState | None, command: KeyCommand) -> list[e.KeyEvent]:
    """The events that ``command`` leads to. Raises ``KeyReused`` (issued for something else), ``Conflict`` (issued with another secret),
    ``NotFound``."""
    match command:
        case IssueKey(key_id, digest, role, projects, label, expires_at, by):
            if state is not None:
                if (state.role, state.projects, state.label, state.expires_at) != (role, projects, label, expires_at):
                    raise KeyReused("this Idempotency-Key was used with another request")
                if state.digest != digest:
                    raise Conflict("this key was issued already and cannot be shown again: revoke it and issue another")
                return []
            own = list(projects) if projects is not None else None
            return [
                e.SystemKeyIssued(
                    key_id=key_id, digest=digest, role=role, projects=own, label=label, expires_at=expires_at, by=by
                )
            ]
        case RevokeKey(key_id, by, reason):
            if state is None:
                raise NotFound("key", key_id)
            return [] if state.revoked else [e.SystemKeyRevoked(key_id=key_id, by=by, reason=reason)]
        case _:
            assert_never(command)


def evolve(state: KeyState | None, event: e.KeyEvent) -> KeyState | None:
    """The state after ``event``. Total: a revocation of what is not known leaves nothing."""
    match event:
        case e.SystemKeyIssued():
            projects = tuple(event.projects) if event.projects is not None else None
            return KeyState(event.key_id, event.digest, event.role, projects, event.label, event.expires_at, event.by)
        case e.SystemKeyRevoked(by=by, reason=reason):
            return replace(state, revoked_by=by, reason=reason) if state is not None else None
        case _:
            assert_never(event)
