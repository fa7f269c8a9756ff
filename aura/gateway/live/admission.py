"""Who may be connected at once (G12): so many new clients a second, so many of one user. The total is the hub's.

Users are only known where there is access control; in mode ``open`` everybody is the same nobody and only the total counts.
"""

from __future__ import annotations

from collections.abc import Callable

from aura.clock import Clock
from aura.errors import Overloaded
from aura.gateway.access.principal import ANONYMOUS, Principal
from aura.gateway.limits import Limits
from aura.gateway.live.fanout.outlet import Ending, Outlet
from aura.gateway.metrics import Metrics


class Bucket:
    """A token bucket: ``burst`` at once, ``per_s`` in the long run."""

    __slots__ = ("_at", "_burst", "_clock", "_left", "_per_s")

    def __init__(self, clock: Clock, burst: float, per_s: float) -> None:
        self._clock = clock
        self._burst = self._left = burst
        self._per_s = per_s
        self._at = clock.monotonic_s()

    def take(self, n: int = 1) -> bool:
        """Whether ``n`` more are within the rate."""
        now = self._clock.monotonic_s()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < n:
            return False
        self._left -= n
        return True


class Admission:
    """See the module docstring."""

    def __init__(self, clock: Clock, limits: Limits, metrics: Metrics) -> None:
        self._arrivals = Bucket(clock, limits.accept_burst, limits.accept_per_s)
        self._most = limits.connections_per_user
        self._metrics = metrics
        self._of_user: dict[str, int] = {}
        self.pending = Pending(limits, metrics)

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


class Pending:
    """Clients that were let in without credentials and have yet to send a ticket: few, and outside the hub's places.

    One more than there is room for, of its address or of all, makes the one that has waited longest go (1013). A client of good faith
    sends its ticket at once, so it is not the one; refusing the newcomer instead would let anybody keep an address's places taken.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._most = limits.pending
        self._most_of_one = limits.pending_per_address
        self._metrics = metrics
        self._waiting: dict[Outlet, str] = {}
        self._by_address: dict[str, dict[Outlet, None]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, outlet: Outlet, address: str) -> None:
        """Begin to wait."""
        of_address = self._by_address.get(address, {})
        if len(of_address) >= self._most_of_one:
            self._push_out(next(iter(of_address)))
        elif len(self._waiting) >= self._most:
            self._push_out(next(iter(self._waiting)))
        self._waiting[outlet] = address
        self._by_address.setdefault(address, {})[outlet] = None

    def leave(self, outlet: Outlet) -> None:
        """Wait no more. Safe twice."""
        address = self._waiting.pop(outlet, None)
        if address is not None:
            of_address = self._by_address[address]
            del of_address[outlet]
            if not of_address:
                del self._by_address[address]

    def _push_out(self, outlet: Outlet) -> None:
        self.leave(outlet)
        self._metrics.dropped.labels("no_ticket").inc()
        outlet.end(Ending.TRY_LATER, "others wait too: send the ticket at once")


def _nothing() -> None:
    """Nobody in particular."""
