"""Identifiers. The only module (with ``clock``) that draws randomness.

* ``uuid7`` – RFC 9562 §5.7, time-ordered: events, unkeyed jobs, batches.
* ``derived`` – RFC 9562 §5.5 (UUIDv5): what a keyed request creates, so that a repeat meets its own entities for ever.
"""

from __future__ import annotations

import os
import struct
import time
import uuid
from typing import Protocol

#: Namespace of every derived id. Stable for ever: changing it would break idempotency across versions.
AURA_NAMESPACE = uuid.UUID("6f1c1b1e-7b0a-5c55-9d6e-0a5a0c0de0a1")

_TAILS = "64Q"


class IdSource(Protocol):
    """Where fresh ids come from; a simulation passes a seeded one."""

    def uuid7(self) -> str:
        """A new time-ordered UUID in canonical text form."""

    def random_bytes(self, n: int) -> bytes:
        """``n`` unpredictable bytes (keys, nonces, salts)."""


class SystemIds:
    """Ids from the operating system's randomness and clock, strictly increasing within the process."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._counter = 0
        self._tails: list[int] = []

    def uuid7(self) -> str:
        ms = time.time_ns() // 1_000_000
        if ms <= self._last_ms:
            ms = self._last_ms
            self._counter += 1
            if self._counter > 0xFFF:
                ms += 1
                self._counter = 0
        else:
            self._counter = 0
        self._last_ms = ms
        if not self._tails:  # one system call for many ids
            self._tails.extend(struct.unpack(_TAILS, os.urandom(struct.calcsize(_TAILS))))
        tail = self._tails.pop()
        variant = 0x8000 | (tail >> 50)
        return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{self._counter:03x}-{variant:04x}-{tail & 0xFFFF_FFFF_FFFF:012x}"

    def random_bytes(self, n: int) -> bytes:
        return os.urandom(n)


def derived(*parts: str | int) -> str:
    """A UUIDv5 of the parts, joined unambiguously (length-prefixed)."""
    name = "".join(f"{len(str(p))}:{p}" for p in parts)
    return str(uuid.uuid5(AURA_NAMESPACE, name))
