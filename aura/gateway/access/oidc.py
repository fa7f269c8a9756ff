"""Access tokens of an OpenID Connect provider (JWS compact, RFC 7515; JWT, RFC 7519).

What is refused, always with the same opaque 401: more than 8 KiB; any algorithm but RS256, PS256, ES256, EdDSA (so never ``none``, and
never a symmetric one with a public key as its secret); a header that brings or names its own key (``jwk``, ``jku``, ``x5u``, ``x5c`` …)
or is critical in any way (``crit``); a ``kid`` that the issuer's set does not have; another issuer or audience; no ``exp``, or one that
has passed; ``nbf`` or ``iat`` in the future. Clocks may differ by :data:`LEEWAY_S`.

Roles and projects are claims, by configurable paths (``realm_access.roles``); of projects the first 64 count, as many as a key may have.
A verified token is remembered until it expires, so a client's next request costs one SHA-256. Others are verified in turn, one signature
per round of the event loop: a flood of forged tokens makes a good one wait a little, and never costs it its answer.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from joserfc import jws
from joserfc.errors import JoseError

from aura.clock import Clock
from aura.domain.access_key import KEY_ID, MAX_PROJECTS, ROLES
from aura.errors import Unauthenticated
from aura.events.subjects import MAX_PROJECT
from aura.gateway.access.jwks import KINDS, KeySource, PublicKey
from aura.gateway.access.principal import Principal

MAX_TOKEN = 8 * 1024
MAX_HEADER = 2 * 1024
LEEWAY_S = 20.0
REMEMBERED = 4_096
#: Headers that say where the key is, or change what the others mean. RFC 7515 §4.1, RFC 7797.
_FORBIDDEN = frozenset({"jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "crit", "b64", "zip", "enc"})
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_SUBJECT = re.compile(r"[A-Za-z0-9_.:@-]{1,80}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True)
class OidcPolicy:
    """Whose tokens for whom, and which claims say what. ``project_claim`` ``None``: a token is good for all projects."""

    issuer: str
    audience: str
    role_claim: str = "roles"
    project_claim: str | None = None


class Oidc:
    """Verifies tokens."""

    def __init__(self, policy: OidcPolicy, keys: KeySource, clock: Clock) -> None:
        self._policy = policy
        self._keys = keys
        self._clock = clock
        self._known: OrderedDict[bytes, Principal] = OrderedDict()
        self._turn = asyncio.Lock()

    def known(self, token: str) -> Principal | None:
        """The principal of a token that was verified before and has not expired."""
        if len(token) > MAX_TOKEN:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found = self._known.get(digest)
        if found is None:
            return None
        if found.expires_at is None or self._now() >= found.expires_at:
            del self._known[digest]
            return None
        self._known.move_to_end(digest)
        return found

    async def verify(self, token: str) -> Principal:
        """The principal. Raises ``Unauthenticated``, and ``Unavailable`` when the issuer's keys cannot be had."""
        if len(token) > MAX_TOKEN or not _TOKEN.match(token):
            raise _unknown()
        alg, kid = _header(token)
        key = await self._keys.key(kid, alg)
        if key is None:
            raise _unknown()
        async with self._turn:
            await asyncio.sleep(0)
            return self._verified(token, key, alg)

    def _verified(self, token: str, key: PublicKey, alg: str) -> Principal:
        try:
            signed = jws.deserialize_compact(token, key, algorithms=[alg])
        except (JoseError, ValueError, TypeError):
            raise _unknown() from None
        principal = self._principal(_object(signed.payload))
        self._known[hashlib.sha256(token.encode()).digest()] = principal
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return principal

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        now, policy = self._now(), self._policy
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        expires_at = _instant(claims, "exp")
        if claims.get("iss") != policy.issuer or policy.audience not in audiences or expires_at is None:
            raise _unknown()
        starts = max(_instant(claims, "nbf") or 0.0, _instant(claims, "iat") or 0.0)
        if now >= expires_at + LEEWAY_S or starts > now + LEEWAY_S:
            raise _unknown()
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 1 <= len(subject) <= 255:
            raise _unknown()
        said = _at(claims, policy.role_claim)
        roles = said if isinstance(said, list) else said.split() if isinstance(said, str) else []
        return Principal(
            actor=f"user:{_name(policy.issuer, subject)}",
            roles=frozenset(role for role in ROLES if role in roles),
            projects=_projects(claims, policy.project_claim),
            expires_at=expires_at + LEEWAY_S,
        )


def _unknown() -> Unauthenticated:
    """One refusal for everything: what was wrong helps only who forges."""
    return Unauthenticated("these credentials are not accepted")


def _header(token: str) -> tuple[str, str]:
    """Algorithm and key id of a token whose header is as it should be. Raises ``Unauthenticated``."""
    encoded = token.partition(".")[0]
    if len(encoded) > MAX_HEADER:
        raise _unknown()
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _unknown() from None
    header = _object(raw)
    alg, kid = header.get("alg"), header.get("kid")
    if not isinstance(alg, str) or alg not in KINDS or not isinstance(kid, str) or not 1 <= len(kid) <= 256:
        raise _unknown()
    if not _FORBIDDEN.isdisjoint(header) or str(header.get("typ", "JWT")).lower() not in _TYPES:
        raise _unknown()
    return alg, kid


def _object(raw: bytes | None) -> dict[str, Any]:
    try:
        found = orjson.loads(raw or b"")
    except orjson.JSONDecodeError:
        raise _unknown() from None
    if not isinstance(found, dict):
        raise _unknown()
    return found


def _instant(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 §2). Raises ``Unauthenticated`` for one that is none."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise _unknown()
    return float(value)


def _at(claims: Mapping[str, Any], path: str) -> object:
    """A claim by its path; a claim whose own name has dots comes first."""
    if path in claims:
        return claims[path]
    found: object = claims
    for part in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _projects(claims: Mapping[str, Any], path: str | None) -> frozenset[int] | None:
    """``*`` or ``["*"]`` are all; numbers, or text of numbers, those; anything else none."""
    if path is None:
        return None
    said = _at(claims, path)
    listed = said if isinstance(said, list) else said.replace(",", " ").split() if isinstance(said, str) else [said]
    if "*" in listed:
        return None
    found: set[int] = set()
    for one in listed:
        text = str(one) if isinstance(one, int | str) and not isinstance(one, bool) else ""
        if text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= MAX_PROJECT:
            found.add(int(text))
        if len(found) == MAX_PROJECTS:
            break
    return frozenset(found)


def _name(issuer: str, subject: str) -> str:
    """The subject as an actor's name; one that is not a plain name, or could be taken for an API key's id, by its hash."""
    if _SUBJECT.match(subject) and not KEY_ID.match(subject) and not subject.startswith("sub-"):
        return subject
    return "sub-" + hashlib.sha256(f"{issuer}\0{subject}".encode("utf-8", "replace")).hexdigest()[:32]
