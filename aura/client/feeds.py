"""The two live feeds: the log (``aura.v1``) and one job. Each is a loop around a pure cursor: open, go on from there, hand out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import quote, urlencode

from aura.client.items import Event, Note, Record, Reset
from aura.client.job_cursor import JobCursor, open_until
from aura.client.line import Lines
from aura.client.log_cursor import LogCursor
from aura.errors import InvalidRequest, Unavailable

SUBPROTOCOL = "aura.v1"


async def follow(lines: Lines, subject: str, cursor: LogCursor) -> AsyncGenerator[Event | Note | Reset, None]:
    """What is committed on ``subject`` after the cursor, for ever. Raises what the first connection raises."""
    if subject.startswith("aura.output."):
        raise InvalidRequest("output has an order of its own: watch(job_id)", field="subject")
    notes = subject.startswith("health.")  # no history, so nothing to go on from
    retry = lines.retry()
    while True:
        try:
            async with lines.open("/ws", retry, SUBPROTOCOL) as line, aclosing(line.frames()) as frames:
                welcome = await anext(frames)
                if welcome.get("op") != "welcome":
                    raise Unavailable("the gateway did not say welcome")
                retry.began()
                if (reset := cursor.welcome(str(welcome["epoch"]), int(welcome["seq"]))) is not None:
                    yield reset
                await line.send(
                    {"op": "subscribe", "id": "1", "subject": subject, "from": "now" if notes else cursor.ask()}
                )
                async for frame in frames:
                    if (item := cursor.take(frame)) is not None:
                        yield item
        except Unavailable as error:
            await retry.after(error)


async def watch(
    lines: Lines, job_id: str, history: Callable[[], Awaitable[list[dict[str, Any]]]]
) -> AsyncGenerator[Event | Record | Reset, None]:
    """A job's events and output from the start until it is closed, each once; anew after a :class:`Reset`. ``history`` asks for the job's
    events: on which log they are is only known once a connection is open, and after a reset they are others. Raises what the first
    connection raises, and what ``history`` raises except ``Unavailable``."""
    retry, cursor = lines.retry(), JobCursor(until=None)
    while True:
        try:
            query = urlencode(cursor.query())
            async with lines.open(f"/ws/job/{quote(job_id, safe='')}?{query}".rstrip("?"), retry) as line:
                retry.began()
                if (reset := cursor.welcome(line.epoch)) is not None:
                    yield reset
                async with aclosing(line.frames()) as frames:
                    async for message in frames:
                        if cursor.until is None:
                            cursor.until = open_until(await history())
                        if (item := cursor.take(message)) is not None:
                            yield item
                            if cursor.closed:
                                return
        except Unavailable as error:
            await retry.after(error)
