"""How commands follow a gateway: the client library, with its interruptions told on stderr."""

from __future__ import annotations

from aura import config
from aura.cli.main import tell
from aura.client import Aura, Reset
from aura.clock import SystemClock
from aura.errors import AuraError

#: The same interruption is told once in so many seconds, however often it is tried meanwhile.
_QUIET_S = 10.0


def client(url: str) -> Aura:
    """A client that says when it has to try again. It is who ``AURA_API_KEY`` says."""
    clock, told = SystemClock(), dict[str, float]()

    def on_retry(error: AuraError) -> None:
        now = clock.monotonic_s()
        if now - told.get(error.detail, -_QUIET_S) >= _QUIET_S:
            told[error.detail] = now
            tell(f"aura: {error.detail}; trying again")

    return Aura(url, config.load().api_key, on_retry=on_retry)


def tell_reset(reset: Reset) -> None:
    """What a reset means to somebody who reads along."""
    tell(f"aura: the log was reset ({reset.reason}); some events may be missing here")
