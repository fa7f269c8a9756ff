"""Live feeds that mend themselves: what broke off is taken up again where it ended, and nothing is shown twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from aura.cli.api import follow
from aura.cli.main import tell
from aura.errors import Unavailable

#: Events after which a job does nothing more by itself (``archive.*`` may still come).
ENDS = {
    "job.completed": "COMPLETED",
    "job.submitted": "SUBMITTED",
    "job.cancelled": "CANCELLED",
    "job.accepted": "COMPLETED",
}
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.2, 5.0


def end_of(event: dict[str, Any]) -> str | None:
    """The closed status that an event led to, or ``None``: a failure may be followed by another attempt."""
    kind = event.get("type", "")
    if kind in ENDS:
        return ENDS[kind]
    if kind in ("job.failed", "job.lease_expired", "job.rejected") and event.get("retention_until"):
        return "FAILED"
    return None


class _Pauses:
    def __init__(self) -> None:
        self.failures = 0

    async def wait(self, error: Unavailable) -> None:
        """Pause before another try; the first connection gets none (somebody typed the wrong URL)."""
        if self.failures == 0:
            tell(f"aura: {error.detail}; trying again")
        self.failures += 1
        await asyncio.sleep(min(_MOST_PAUSE_S, _FIRST_PAUSE_S * 2.0**self.failures))


async def lifecycle(
    url: str, since: int | None = None, last: int | None = None
) -> AsyncGenerator[dict[str, Any], None]:
    """Every event of the log as the gateway tells it, for ever. Raises what the first connection raises."""
    cursor, connected, pauses = since, False, _Pauses()
    while True:
        query = {"since": cursor} if cursor is not None else {"last": last}
        try:
            async with aclosing(follow(url, "/ws/events", query)) as events:
                async for event in events:
                    connected, pauses.failures = True, 0
                    if event.get("type") == "reset":
                        tell(f"aura: the log was reset ({event.get('reason')}); some events may be missing here")
                    if isinstance(seq := event.get("seq"), int):
                        cursor = max(cursor or 0, seq)
                    yield event
            connected = True
        except Unavailable as error:
            if not connected:
                raise
            await pauses.wait(error)


async def one_job(url: str, job_id: str) -> AsyncGenerator[dict[str, Any], None]:
    """A job's events and output from the start, each once, until nobody reads on. Raises what the first connection raises."""
    seen_seq, next_i, connected, pauses = 0, dict[int, int](), False, _Pauses()
    while True:
        try:
            async with aclosing(follow(url, f"/ws/job/{quote(job_id, safe='')}", {})) as messages:
                async for message in messages:
                    connected, pauses.failures = True, 0
                    i, attempt = message.get("i"), message.get("attempt", 0)
                    if isinstance(i, int):
                        if i < next_i.get(attempt, 0):
                            continue
                        next_i[attempt] = i + 1
                    elif isinstance(seq := message.get("seq"), int):
                        if seq <= seen_seq:
                            continue
                        seen_seq = seq
                    yield message
            if connected:
                return  # the server has nothing more to say: 1000
            connected = True
        except Unavailable as error:
            if not connected:
                raise
            await pauses.wait(error)
