"""Is this still the log that our checkpoint speaks of? (G5)

A checkpoint is ``(epoch, seq, sha256 of the event at seq)``. Before a projector writes, and again every second while it does, the log
must have the same epoch, reach at least ``seq``, and hold the same bytes there. A stream that forgets (``AURA_HEALTH``) may
have dropped the event; the log may not have dropped what comes after it.

The way out of ``LogRegression`` is a person's: ``aura log accept --new-epoch``. A version from before an accepted epoch is not
checked but *superseded*: it is rebuilt from the log as it is now. A forgetful stream's epoch supersedes by itself: what was
in it is gone in a day anyway, and nothing is decided on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from aura.errors import LogRegression
from aura.log.store import LogIdentity
from aura.projections.projection import LogSource
from aura.projections.versions import Version


def sha256(body: bytes) -> str:
    """What a checkpoint remembers of the event it stands on."""
    return hashlib.sha256(body).hexdigest()


async def check(source: LogSource, versions: Sequence[Version], *, forgetful: bool = False) -> LogIdentity:
    """The log's identity, if every version's checkpoint fits it. Raises ``LogRegression``, ``Unavailable``."""
    identity = await source.identity()
    for version in versions:
        if superseded(identity, version, forgetful=forgetful):
            continue
        check_ends(identity, version, forgetful=forgetful)
        if version.epoch:
            recorded = await source.get(version.seq)
            if recorded is not None and sha256(recorded.body) != version.sha256:
                raise LogRegression(f"the event at {version.seq} is not the one that {version.name} was built from")
            if recorded is None and identity.first_seq <= version.seq <= identity.last_seq and not forgetful:
                raise LogRegression(f"the log has no event at {version.seq}")
    return identity


def superseded(identity: LogIdentity, version: Version, *, forgetful: bool = False) -> bool:
    """Whether ``version`` is to start over, by somebody's decision (see the module)."""
    if not version.epoch or version.epoch == identity.epoch:
        return False
    return forgetful or identity.supersedes(version.epoch)


def check_ends(identity: LogIdentity, version: Version, *, forgetful: bool = False) -> None:
    """The cheap half of :func:`check`: epoch and length."""
    if not version.epoch:
        return
    if identity.epoch != version.epoch:
        raise LogRegression(f"the log's epoch is {identity.epoch}; {version.name} was built from {version.epoch}")
    if identity.last_seq < version.seq:
        raise LogRegression(f"the log ends at {identity.last_seq}; {version.name} has read up to {version.seq}")
    if identity.first_seq > version.seq + 1 and not forgetful:
        raise LogRegression(f"the log begins at {identity.first_seq}; {version.name} has read only up to {version.seq}")
