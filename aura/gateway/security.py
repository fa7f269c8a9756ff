"""Who may talk to us from a browser (DECISIONS "Web"): an open loopback with a command adapter would otherwise be
remote code execution from any page. Pure functions over an ASGI scope.

* **Host** must name this machine or a configured host: a rebound DNS name is refused (421) for every request.
* **Origin**, if sent, must be our own (same scheme, host and port as the Host header) or configured. Checked on every
  WebSocket handshake and every state-changing request; ``null`` and look-alikes are foreign. CORS answers go only to
  configured origins.
* **Sec-Fetch-Site: cross-site** is refused on state-changing requests and handshakes unless the origin is configured.
* A WebSocket handshake with a cookie but without an Origin is refused: browsers always send one.
* ``X-Forwarded-*`` is never read. A token in the query string is refused: URLs end up in logs.

Every answer carries a strict content security policy and the usual headers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException

from aura.errors import Forbidden, InvalidRequest

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SECRET_PARAMS = frozenset({"token", "access_token", "ticket", "api_key", "key", "authorization", "password", "secret"})
#: Methods and headers that a configured foreign origin may use.
_CORS_METHODS = b"GET, HEAD, POST"
_CORS_HEADERS = b", ".join(
    (b"content-type", b"idempotency-key", b"traceparent", b"last-event-id", b"x-director-key", b"accept", b"if-none-match",
     b"authorization", b"x-aura-ticket")
)  # fmt: skip
_CORS_EXPOSE = b"etag, link, retry-after, x-trace-id, aura-epoch"

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)

Headers = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Policy:
    """Configured hosts (``name`` or ``name:port``) and origins (``https://name[:port]``), lower case."""

    hosts: frozenset[str]
    origins: frozenset[str]

    @staticmethod
    def of(hosts: Iterable[str], origins: Iterable[str]) -> Policy:
        """From settings. A configured origin's host is not thereby an allowed Host."""
        return Policy(
            frozenset(host.lower() for host in hosts), frozenset(origin.lower().rstrip("/") for origin in origins)
        )


def header_map(scope: Any) -> dict[bytes, bytes]:
    """Headers by lower-case name. Raises ``InvalidRequest`` when one that we decide on comes twice."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in found and name in _SINGLE:
            raise InvalidRequest(f"the header {name.decode('ascii', 'replace')} was sent more than once")
        found[name] = value
    return found


_SINGLE = frozenset({b"host", b"origin", b"sec-fetch-site", b"content-length", b"content-type", b"x-director-key",
                     b"idempotency-key", b"traceparent", b"authorization", b"x-aura-ticket"})  # fmt: skip


def _split_host(authority: str) -> tuple[str, str]:
    """``[::1]:80`` → (``::1``, ``80``); anything odd → two empty strings."""
    if authority.startswith("["):
        name, bracket, port = authority[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return "", ""
        port = port[1:]
    else:
        name, _, port = authority.partition(":")
    if not name or ":" in port or (port and not (port.isascii() and port.isdigit())):
        return "", ""
    return name, port


@lru_cache(256)
def _is_loopback_name(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_host(policy: Policy, headers: Headers) -> str:
    """The Host, when it is allowed; raises 421 (RFC 9110 §15.5.20) otherwise."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name, _ = _split_host(host)
    if name and (_is_loopback_name(name) or host in policy.hosts or name in policy.hosts):
        return host
    raise HTTPException(421)


def own_origin(scope: Any, host: str) -> str:
    """The origin of a page that this server itself served to the client."""
    secure = scope.get("scheme") in ("https", "wss")
    return f"{'https' if secure else 'http'}://{host}"


def allowed_cors_origin(policy: Policy, headers: Headers) -> bytes | None:
    """The request's origin when it is a configured one."""
    origin = headers.get(b"origin")
    return origin if origin is not None and origin.decode("latin-1").lower() in policy.origins else None


def check_caller(policy: Policy, scope: Any, headers: Headers, host: str) -> None:
    """Refuse what a foreign page may have sent. For state-changing requests and WebSocket handshakes. Raises
    ``Forbidden``."""
    origin = headers.get(b"origin")
    if origin is not None:
        text = origin.decode("latin-1").lower()
        if text in policy.origins:
            return
        if text != own_origin(scope, host):
            raise Forbidden("this origin is not allowed")
    elif scope["type"] == "websocket" and b"cookie" in headers:
        raise Forbidden("a browser's handshake names its origin")
    if headers.get(b"sec-fetch-site", b"none").strip().lower() not in (b"same-origin", b"none"):
        raise Forbidden("cross-site requests are not allowed")


def check_query(scope: Any) -> None:
    """Refuse secrets in the URL, and query strings that are not text. Raises ``InvalidRequest``."""
    raw = scope.get("query_string", b"")
    if raw:
        _check_query(raw)


@lru_cache(64)  # clients that come back at once ask for the same
def _check_query(raw: bytes) -> None:
    if len(raw) > 8_192 or raw.count(b"&") > 64:
        raise InvalidRequest("the query string is too long")
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        if name.lower() in _SECRET_PARAMS:
            raise InvalidRequest("credentials do not belong in a URL", field="query")
        if "\0" in value or "\0" in name:
            raise InvalidRequest("NUL in the query string", field="query")


def cors_headers(origin: bytes) -> list[tuple[bytes, bytes]]:
    """What a configured origin needs to read the answer."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _CORS_EXPOSE),
        (b"vary", b"origin"),
    ]


def preflight_headers(origin: bytes) -> list[tuple[bytes, bytes]]:
    """The answer to a preflight of a configured origin."""
    return [
        *cors_headers(origin),
        (b"access-control-allow-methods", _CORS_METHODS),
        (b"access-control-allow-headers", _CORS_HEADERS),
        (b"access-control-max-age", b"600"),
    ]
