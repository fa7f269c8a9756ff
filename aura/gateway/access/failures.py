"""Who fails to authenticate too often, by address: a token bucket each.

What counts is looked at first and counted afterwards: credentials that are good open whatever others at the same address did, so nobody can
lock anybody out. (The director's configured key, which may be short, is the exception: ``director.py``.) Forwarding headers are never
believed. At most :data:`MAX_ADDRESSES` are remembered, the most recent.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

from aura.clock import Clock

BURST = 20
PER_S = 1 / 3
MAX_ADDRESSES = 10_000


def address_of(client: object) -> str:
    """Whom an ASGI ``client`` counts as: an IPv4 address, or the /64 of an IPv6 one (a host has that many to choose from)."""
    host = client[0] if isinstance(client, tuple | list) and client else ""
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return str(host)[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


class Failures:
    """Failed attempts by address: :data:`BURST`, then :data:`PER_S` a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def limited(self, address: str) -> bool:
        """Whether the address has failed too often."""
        return self._refilled(address) < 1

    def failed(self, address: str) -> None:
        """One more."""
        self._left[address] = self._refilled(address) - 1, self._clock.monotonic_s()
        self._left.move_to_end(address)
        while len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)

    def _refilled(self, address: str) -> float:
        found = self._left.get(address)
        if found is None:
            return float(BURST)
        left, at = found
        return min(float(BURST), max(left, 0.0) + (self._clock.monotonic_s() - at) * PER_S)
