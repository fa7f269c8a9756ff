"""``aura events tail``: the log on a terminal."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import click

from aura.cli.feeds import client, tell_reset
from aura.cli.output import Format, safe, write_json, write_line
from aura.client import Event, Note, Reset

#: Shown apart, or of no use to a reader of one line.
_HIDDEN = frozenset(
    {
        "seq",
        "id",
        "type",
        "v",
        "ts",
        "actor",
        "correlation_id",
        "causation_id",
        "state",
        "job_id",
        "project_id",
        "idempotency_key",
    }
)


def _show(event: dict[str, Any], output: Format) -> None:
    if output == "jsonl":
        write_line(event)
        return
    if output == "json":
        write_json(event)
        return
    what = event.get("job_id") or event.get("model") or event.get("session_id") or ""
    rest = " ".join(
        f"{key}={_brief(value)}" for key, value in event.items() if key not in _HIDDEN and value not in (None, [], {})
    )
    click.echo(
        safe(
            f"{event.get('seq', ''):>8} {event.get('ts', '')[11:23]} {event.get('type', ''):<24} {what} {rest}"
        ).rstrip()
    )


def _brief(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_brief(item)}" for key, item in value.items()) + "}"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


async def tail_events(url: str, pattern: str, since: int | None, last: int | None, output: Format) -> None:
    """Follow for ever."""
    async with client(url) as aura, aclosing(aura.follow(pattern, since=since, last=last)) as items:
        async for item in items:
            match item:
                case Event():
                    _show(item.flat, output)
                case Reset():
                    tell_reset(item)
                case Note():
                    pass


def tail_stored(url: str, pattern: str, since: int | None, last: int | None, output: Format) -> None:
    """What the log holds now: of its ``last`` events, or of all after ``since``, those that match."""
    from aura.cli.api import Api

    with Api(url) as api:
        start = (since or 0) + 1
        if last is not None:
            rows: list[dict[str, Any]] = api.get("/projections")
            ends = [row["seq"] + row["lag_events"] for row in rows if row["lag_events"] is not None]
            start = max(start, max(ends, default=0) - last + 1)
        while True:
            page: list[dict[str, Any]] = api.get("/events", {"subject": pattern, "from": start, "limit": 1000})
            for event in page:
                _show(event, output)
            if len(page) < 1000:
                return
            start = page[-1]["seq"] + 1
