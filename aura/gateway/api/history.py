"""Reads of the log itself: ``GET /events`` and a job's timeline, as JSON, NDJSON or CloudEvents by ``Accept``.

JSON and NDJSON are the stored bytes with the sequence in front; only CloudEvents needs to look inside.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from aura.errors import InvalidRequest
from aura.events import subjects
from aura.gateway.api import accept
from aura.gateway.api.commands import principal_of
from aura.gateway.api.forms import EventsQuery, JobEventsQuery, query
from aura.gateway.api.reads import logged
from aura.gateway.context import Gateway
from aura.gateway.live.fanout.frames import event_json
from aura.gateway.live.fanout.trie import matches
from aura.log.store import Recorded

CLOUDEVENTS = "application/cloudevents-batch+json"
#: Events looked at for one answer to somebody who may not see all of them; ``Link`` goes on from there.
MAX_LOOKED_AT = 20_000
#: Most events asked of the log at once.
BATCH = 1_000
#: An answer ends (and ``Link`` goes on) after about so many bytes.
MAX_BYTES = 8 * 1024 * 1024
MEDIA = (accept.JSON, accept.NDJSON, CLOUDEVENTS, "application/cloudevents+json")


def cloudevent(recorded: Recorded, epoch: str) -> dict[str, object]:
    """One event as CloudEvents 1.0 (structured JSON). ``sequence`` and ``correlationid`` are extension attributes."""
    flat = orjson.loads(event_json(recorded.seq, recorded.body))
    return {
        "specversion": "1.0",
        "id": flat.get("id", f"{epoch}-{recorded.seq}"),
        "source": f"/aura/{epoch}",
        "type": flat.get("type", "system.unreadable"),
        "subject": recorded.subject,
        **({"time": flat["ts"]} if "ts" in flat else {}),
        "datacontenttype": "application/json",
        "sequence": f"{recorded.seq:020d}",
        **({"correlationid": flat["correlation_id"]} if "correlation_id" in flat else {}),
        "data": flat,
    }


def render(events: Sequence[Recorded], media: str, epoch: str, headers: dict[str, str]) -> Response:
    """The events in one of :data:`MEDIA`."""
    if media in (accept.JSON, accept.NDJSON):
        lines = [event_json(recorded.seq, recorded.body) for recorded in events]
        body = b"[" + b",".join(lines) + b"]" if media == accept.JSON else b"".join(line + b"\n" for line in lines)
        return Response(body, headers=headers, media_type=media)
    return Response(orjson.dumps([cloudevent(r, epoch) for r in events]), headers=headers, media_type=CLOUDEVENTS)


async def _each(batches: AsyncIterator[list[Recorded]]) -> AsyncIterator[Recorded]:
    async for batch in batches:
        for recorded in batch:
            yield recorded


async def events(gateway: Gateway, request: Request) -> Response:
    """``GET /events``: sequences ``from … to`` (inclusive), at most ``limit``; ``Link`` names the rest."""
    asked = query(EventsQuery, request)
    media = accept.choose(request, MEDIA)
    if asked.to is not None and asked.to < asked.from_:
        raise InvalidRequest("to is before from", field="to")
    await logged(gateway, asked)
    subject, wanted = _allowed(gateway, request, asked.subject)
    found: list[Recorded] = []
    size = looked_at = next_seq = 0
    # Of what is filtered here many may be looked at for one that is found: never in a request to the log for each.
    batch = min(asked.limit + 1, BATCH) if wanted is None else BATCH
    window = gateway.ctx.store.read(max(asked.from_, 1), to_seq=asked.to, subject=subject, batch=batch)
    async for recorded in _each(window):
        if len(found) == asked.limit or size > MAX_BYTES or looked_at == MAX_LOOKED_AT:
            next_seq = recorded.seq
            break
        if wanted is not None:
            looked_at += 1
            if not any(matches(pattern, recorded.subject) for pattern in wanted):
                continue
        found.append(recorded)
        size += len(recorded.body)
    headers = {}
    if next_seq:
        pairs = [(name, value) for name, value in request.query_params.multi_items() if name != "from"]
        headers["link"] = f'</events?{urlencode([*pairs, ("from", next_seq)])}>; rel="next"'
    return render(found, media, gateway.hub.epoch, headers)


def _allowed(gateway: Gateway, request: Request, asked: str | None) -> tuple[str | None, tuple[str, ...] | None]:
    """What to read, and the patterns of which each event must match one (``None``: it may have them all)."""
    principal = principal_of(request)
    if gateway.access.may_follow(principal, asked or "aura.>"):
        return asked, None
    return asked, gateway.access.visible(principal)


async def job_events(gateway: Gateway, request: Request) -> Response:
    """``GET /jobs/{id}/events``: the job's whole timeline, from the log."""
    job_id = subjects.check_job_id(request.path_params["job_id"])
    asked = query(JobEventsQuery, request)
    media = accept.choose(request, MEDIA)
    await logged(gateway, asked)
    head = await gateway.ctx.commands.jobs.head(job_id)
    found: list[Recorded] = []
    pattern = subjects.job_guard(head.project, job_id)
    async for batch in gateway.ctx.store.read(asked.since + 1, subject=pattern):
        found += batch
    return render(found, media, gateway.hub.epoch, {})
