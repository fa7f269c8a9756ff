"""Re-play any window of the log: JSON lines with the exact stored bytes, at any speed.

A line is the stored object with ``seq`` put first: ``{"seq":N,`` + body[1:]. Nothing is parsed or written anew, so a line proves
what was stored. A stored body that is no JSON object (poison) becomes ``{"seq":N,"subject":…,"raw":base64}``.

Times are store times: ``from_time`` begins with the first event stored at or after it, ``to_time`` ends with the last one
stored at or before it (found by bisection: a few direct gets, no scan).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import orjson

from aura.clock import Clock
from aura.errors import InvalidRequest
from aura.log.store import EventStore, Recorded

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Sleep = Callable[[float], Awaitable[None]]


def line(recorded: Recorded) -> bytes:
    """One event as a JSON line, newline included."""
    body = recorded.body.strip()
    if body[:1] == b"{" and body[-1:] == b"}":
        rest = body[1:]
        return b'{"seq":%d%b%b\n' % (recorded.seq, b"" if rest.strip() == b"}" else b",", rest)
    raw = {"seq": recorded.seq, "subject": recorded.subject, "raw": base64.b64encode(recorded.body).decode()}
    return orjson.dumps(raw) + b"\n"


async def replay(
    store: EventStore,
    *,
    clock: Clock,
    from_seq: int | None = None,
    to_seq: int | None = None,
    from_time: datetime | None = None,
    to_time: datetime | None = None,
    speed: float | None = None,
    subject: str | None = None,
    sleep: Sleep = asyncio.sleep,
) -> AsyncIterator[bytes]:
    """JSON lines of the window, in order, up to the end of the log as of the call.

    ``speed`` 1 keeps the original pauses, 10 is ten times as fast, ``None`` does not wait. ``subject`` is a NATS pattern.
    Raises ``InvalidRequest`` for an impossible window or speed, ``Unavailable``.
    """
    if speed is not None and not 0 < speed <= 1_000_000:
        raise InvalidRequest("speed must be more than 0", field="speed")
    start, end = await _window(store, from_seq, to_seq, from_time, to_time)
    if start > end:
        return
    began_s = clock.monotonic_s()
    first_ns: int | None = None
    async for batch in store.read(start, to_seq=end, subject=subject):
        for recorded in batch:
            if speed is not None:
                first_ns = recorded.stored_at_ns if first_ns is None else first_ns
                due_s = began_s + (recorded.stored_at_ns - first_ns) / 1e9 / speed
                if (wait_s := due_s - clock.monotonic_s()) > 0:
                    await sleep(wait_s)
            yield line(recorded)


async def _window(
    store: EventStore, from_seq: int | None, to_seq: int | None, from_time: datetime | None, to_time: datetime | None
) -> tuple[int, int]:
    for name, seq in (("from", from_seq), ("to", to_seq)):
        if seq is not None and seq < 0:
            raise InvalidRequest(f"{name} is not a sequence", field=name)
    identity = await store.identity()
    start, end = max(identity.first_seq, 1), identity.last_seq
    if from_time is not None:
        start = max(start, await _first_after(store, start, end, _ns(from_time) - 1))
    if to_time is not None:
        end = min(end, await _first_after(store, start, end, _ns(to_time)) - 1)
    return max(start, from_seq or 0), min(end, end if to_seq is None else to_seq)


async def _first_after(store: EventStore, low: int, high: int, ns: int) -> int:
    """The first sequence in [low, high] stored after ``ns``; ``high + 1`` if there is none."""
    while low <= high:
        middle = (low + high) // 2
        recorded = await store.get(middle)
        if recorded is not None and recorded.stored_at_ns > ns:
            high = middle - 1
        else:
            low = middle + 1
    return low


def _ns(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1_000
