"""``x-director-key`` (``AURA_DIRECTOR_API_KEY``): works in every mode, for the actions in :data:`DIRECTORS`.

It may be short (whoever configures it chooses), so guessing is what has to be slow: an address that failed too often is not listened
to, not even when it is right. These failures have a budget of their own: they close nothing to API keys, tokens and tickets, nor those
to it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

import structlog

from aura.config import MIN_DIRECTOR_KEY
from aura.errors import Forbidden, Overloaded
from aura.gateway.access.failures import Failures, address_of

log = structlog.get_logger("aura.gateway")

#: What the director's configured key opens.
DIRECTORS = frozenset({"archives.hold", "archives.release", "archives.purge", "keys.read", "keys.manage"})

Scope = Mapping[str, Any]


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """As the edge has checked them."""
    headers: Mapping[bytes, bytes] = scope["aura.headers"]
    return headers


class DirectorKey:
    """See the module docstring. ``failures`` are of this key alone."""

    def __init__(self, configured: str | None, failures: Failures) -> None:
        self._configured = configured.encode() if configured is not None else None
        self._failures = failures
        if configured is not None and len(configured) < MIN_DIRECTOR_KEY:
            log.warning(
                "access.short_director_key", mend=f"give AURA_DIRECTOR_API_KEY at least {MIN_DIRECTOR_KEY} characters"
            )

    @property
    def set(self) -> bool:
        """Whether there is one."""
        return self._configured is not None

    def sent(self, scope: Scope, action: str) -> bool:
        """Whether it came along, right, for something it opens. Raises ``Forbidden`` for a wrong one, ``Overloaded``."""
        if action not in DIRECTORS:
            return False
        sent = headers_of(scope).get(b"x-director-key")
        if sent is None:
            return False
        address = address_of(scope.get("client"))
        if self._failures.limited(address):
            raise Overloaded("too many failed attempts from this address", retry_after_s=5)
        if self._configured is not None and hmac.compare_digest(sent, self._configured):
            return True
        self._failures.failed(address)
        raise Forbidden("this needs the director's key")
