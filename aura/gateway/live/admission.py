"""Who may be connected at once (G12): so many new clients a second, so many of one user. The total is the hub's.

Users are only known where there is access control; in mode ``open`` everybody is the same nobody and only the total counts.
"""

from __future__ import annotations

from collections.abc import Callable

from aura.clock import Clock
from aura.errors import Overloaded
from aura.gateway.access.principal import ANONYMOUS, Principal
from aura.gateway.limits import Limits
from aura.gateway.metrics import Metrics


class Bucket:
    """A token bucket: ``burst`` at once, ``per_s`` in the long run."""

    __slots__ = ("_at", "_burst", "_clock", "_left", "_per_s")

    def __init__(self, clock: Clock, burst: float, per_s: float) -> None:
        self._clock = clock
        self._burst = self._left = burst
        self._per_s = per_s
        self._at = clock.monotonic_s()

    def take(self) -> bool:
        """Whether one more is within the rate."""
        now = self._clock.monotonic_s()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Admission:
    """See the module docstring."""

    def __init__(self, clock: Clock, limits: Limits, metrics: Metrics) -> None:
        self._arrivals = Bucket(clock, limits.accept_burst, limits.accept_per_s)
        self._most = limits.connections_per_user
        self._metrics = metrics
        self._of_user: dict[str, int] = {}

    def arrive(self) -> None:
        """A client knocks. Raises ``Overloaded``."""
        if not self._arrivals.take():
            self._metrics.dropped.labels("accept_rate").inc()
            raise Overloaded("too many clients connect at once", retry_after_s=2)

    def enter(self, principal: Principal) -> Callable[[], None]:
        """It is let in as ``principal``. Returns how it leaves. Raises ``Overloaded``."""
        if principal is ANONYMOUS:
            return _nothing
        actor = principal.actor
        count = self._of_user.get(actor, 0)
        if count >= self._most:
            self._metrics.dropped.labels("too_many_of_user").inc()
            raise Overloaded(f"you have {self._most} live connections already", retry_after_s=5)
        self._of_user[actor] = count + 1
        return lambda: self._leave(actor)

    def _leave(self, actor: str) -> None:
        self._of_user[actor] -= 1
        if not self._of_user[actor]:
            del self._of_user[actor]


def _nothing() -> None:
    """Nobody in particular."""
