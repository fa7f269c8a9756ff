"""The issuer's public keys (RFC 7517), fetched over HTTP and cached.

::

    nothing yet ──fetch──▶ fresh (FRESH_S) ──older──▶ one fetch, meanwhile and if it fails the old keys serve ──STALE_S──▶ nothing
    a ``kid`` that is not among them ──▶ at most one fetch per :data:`AGAIN_S`, whoever asks how often; MAX_WAITING wait for it

A fetch is bounded in time, size and number of keys, follows no redirect, and goes over TLS unless the issuer is on this machine. Only
public signature keys are taken: a symmetric or private key in the set is ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import orjson
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from aura.clock import Clock
from aura.config import is_loopback
from aura.errors import ConfigError, Overloaded, Unavailable

log = structlog.get_logger("aura.gateway")

FRESH_S = 600.0
STALE_S = 3_600.0
AGAIN_S = 30.0
FETCH_S = 5.0
MAX_BYTES = 256 * 1024
MAX_KEYS = 64
MAX_WAITING = 1_000
MIN_RSA_BITS = 2_048

PublicKey = RSAKey | ECKey | OKPKey
#: Algorithms we verify → what kind of key they need.
KINDS: Mapping[str, tuple[type[PublicKey], str | None]] = {
    "RS256": (RSAKey, None),
    "PS256": (RSAKey, None),
    "ES256": (ECKey, "P-256"),
    "EdDSA": (OKPKey, "Ed25519"),
}


class KeySource(Protocol):
    """Where the verifier finds keys."""

    async def key(self, kid: str, alg: str) -> PublicKey | None:
        """The key of that id, if it is one for that algorithm. Raises ``Unavailable`` when the issuer cannot be asked, ``Overloaded``
        when too many wait for its answer (a key that is known waits for nobody)."""


def check_url(name: str, url: str) -> str:
    """``url`` if a token's keys may be fetched from it. Raises ``ConfigError``."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and parts.hostname and is_loopback(parts.hostname):
        return url
    raise ConfigError(f"{name}: {url!r} must be an https:// URL (http:// only for this machine)")


def public_keys(document: object) -> dict[str, dict[str, Any]]:
    """The usable keys of a JWK set by ``kid``; of two with one id the first."""
    listed = document.get("keys") if isinstance(document, dict) else None
    found: dict[str, dict[str, Any]] = {}
    for jwk in listed[:MAX_KEYS] if isinstance(listed, list) else []:
        if isinstance(jwk, dict) and isinstance(kid := jwk.get("kid"), str) and _is_public(jwk):
            found.setdefault(kid, jwk)
    return found


def _is_public(jwk: dict[str, Any]) -> bool:
    return jwk.get("kty") in ("RSA", "EC", "OKP") and "d" not in jwk and jwk.get("use", "sig") == "sig"


class RemoteKeys:
    """See the module docstring. ``url``: the JWK set's; ``None`` = as the issuer's discovery document says."""

    def __init__(self, issuer: str, url: str | None, clock: Clock) -> None:
        self._issuer = check_url("AURA_OIDC_ISSUER", issuer)
        self._url = check_url("AURA_OIDC_JWKS_URL", url) if url is not None else None
        self._clock = clock
        self._http = httpx.AsyncClient(timeout=FETCH_S, follow_redirects=False, trust_env=False)
        self._keys: dict[str, dict[str, Any]] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._waiting = 0
        self.fetches = 0
        """How often the issuer was asked."""

    async def stop(self) -> None:
        """Close the connection to the issuer."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self._http.aclose()

    async def key(self, kid: str, alg: str) -> PublicKey | None:
        """See :class:`KeySource`."""
        age = self._age(self._fetched_at)
        if age is None or age > STALE_S:
            self._keys, self._fetched_at = {}, None
            await self._refresh()
        elif age > FRESH_S:
            self._start_refresh()
        if kid not in self._keys:
            await self._refresh()
        if self._fetched_at is None:
            raise Unavailable("the identity provider does not answer", retry_after_s=5)
        return _usable(self._keys.get(kid), alg)

    def _age(self, since: float | None) -> float | None:
        return None if since is None else self._clock.monotonic_s() - since

    async def _refresh(self) -> None:
        task = self._start_refresh()
        if task is None:
            return
        if self._waiting >= MAX_WAITING:
            raise Overloaded("too many tokens wait for the identity provider's keys", retry_after_s=1)
        self._waiting += 1
        try:
            await asyncio.shield(task)
        finally:
            self._waiting -= 1

    def _start_refresh(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one if the last was long enough ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        age = self._age(self._asked_at)
        if age is not None and age < AGAIN_S:
            return None
        self._asked_at = self._clock.monotonic_s()
        self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        self.fetches += 1
        try:
            async with asyncio.timeout(2 * FETCH_S):
                url = self._url or await self._discover()
                found = public_keys(await self._get(url))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, ConfigError) as error:
            log.warning("oidc.no_keys", issuer=self._issuer, error=f"{type(error).__name__}: {error}"[:200])
            return
        self._keys, self._fetched_at = found, self._clock.monotonic_s()
        log.info("oidc.keys", issuer=self._issuer, keys=len(found))

    async def _discover(self) -> str:
        """The JWK set's URL from OpenID Connect Discovery 1.0 §4; the document must be the issuer's own (§4.3)."""
        document = await self._get(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ValueError("the discovery document names another issuer")
        return check_url("jwks_uri", str(document.get("jwks_uri")))

    async def _get(self, url: str) -> object:
        async with self._http.stream("GET", url, headers={"accept": "application/json"}) as response:
            if response.status_code != 200:
                raise ValueError(f"{url} answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"{url} answered more than {MAX_BYTES} bytes")
        document: object = orjson.loads(bytes(body))
        return document


def _usable(jwk: dict[str, Any] | None, alg: str) -> PublicKey | None:
    """The key if it is one for ``alg`` and strong enough."""
    if jwk is None or jwk.get("alg", alg) != alg:
        return None
    kind, curve = KINDS[alg]
    try:
        key = kind.import_key({name: value for name, value in jwk.items() if isinstance(value, str)})
    except (JoseError, ValueError, TypeError):
        return None
    if curve is not None and jwk.get("crv") != curve:
        return None
    if isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS:
        return None
    return key
