"""Whoever waits or is connected is told, once, when the credentials it came with are over: expired, or their key revoked."""

from __future__ import annotations

import asyncio

from aura.clock import Clock
from aura.gateway.access.keys import KeyRing
from aura.gateway.access.principal import Principal
from aura.gateway.ports import OnEnd

UNAUTHENTICATED = 4401
#: No timer of the event loop waits longer; one that fires early is set again.
_LONGEST_WAIT_S = 3_600.0


def nothing() -> None:
    """Nothing to stop."""


class Watch:
    """One live connection or waiting request."""

    def __init__(self, principal: Principal, on_end: OnEnd, ring: KeyRing | None, clock: Clock) -> None:
        self._on_end: OnEnd | None = on_end
        self._clock = clock
        self._expires_at = principal.expires_at
        self._timer: asyncio.TimerHandle | None = None
        self._forget = nothing
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
