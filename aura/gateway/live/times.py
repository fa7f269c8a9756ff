"""Which sequence a time means (DECISIONS "As-of"): the greatest one that was stored at or before it. Asks the log itself, so it works
without the read models; about twenty reads of one event, fewer when the ring has it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from aura.clock import parse_rfc3339
from aura.errors import InvalidRequest, Unavailable
from aura.gateway.context import Gateway

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nanoseconds(time: str) -> int:
    """An RFC 3339 time as Unix nanoseconds. Raises ``InvalidRequest``."""
    try:
        return (parse_rfc3339(time) - _EPOCH) // timedelta(microseconds=1) * 1_000
    except (ValueError, OverflowError):
        raise InvalidRequest("a time is RFC 3339, for example 2026-01-31T12:00:00Z", field="time") from None


async def seq_at(gateway: Gateway, time: str) -> int:
    """The sequence, 0 (or the one before the log's first) when nothing is that old. Raises ``InvalidRequest``, ``Unavailable``."""
    at_ns = nanoseconds(time)
    view = gateway.hub.view()
    low, high = view.first - 1, view.head  # stored_at(low) <= at < stored_at(high + 1), with the ends as given
    while low < high:
        middle = (low + high + 1) // 2
        if middle >= gateway.hub.view().ring_first:
            stored_at_ns = gateway.hub.ring_after(middle - 1, 1)[0].stored_at_ns
        else:
            found = await gateway.ctx.store.get(middle)
            if found is None:
                raise Unavailable("the log did not return what it holds")
            stored_at_ns = found.stored_at_ns
        if stored_at_ns <= at_ns:
            low = middle
        else:
            high = middle - 1
    return low
