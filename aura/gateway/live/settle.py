"""Cursors that are ahead of this process. Another gateway may have shown an event a moment before its tail brought it here: a client that
moves from one to the other has not lost anything, and must not be reset."""

from __future__ import annotations

import asyncio

from aura.gateway.context import Gateway

#: How long this process may be behind the log before a cursor between the two is called unknown.
SETTLE_S = 5.0


async def settled(gateway: Gateway, seq: int) -> bool:
    """Whether the log has ``seq``, and if so, this process too. Raises ``Unavailable`` when the log does not answer."""
    if seq <= gateway.hub.head:
        return True
    if seq > (await gateway.ctx.store.identity()).last_seq:
        return False
    try:
        async with asyncio.timeout(SETTLE_S):
            await gateway.hub.caught_up(seq)
    except TimeoutError:
        return False
    return True
