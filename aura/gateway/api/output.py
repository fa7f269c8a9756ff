"""Content of one job over HTTP: its output, log lines and result, decrypted on the way out and streamed.

An answer is written as it is read, page by page: no job's output is ever in memory as a whole. Only attempts that the log claimed are
shown. Text is for terminals: log lines lose control characters (forged lines,
ANSI escapes), stream chunks are exactly what the worker wrote. Everything is ``nosniff`` and never HTML.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aura.commands.heads import JobHead
from aura.commands.results import reported
from aura.domain.job_state import Purge
from aura.errors import NotFound
from aura.events import subjects
from aura.events.subjects import OutputKind
from aura.gateway.api import accept
from aura.gateway.api.commands import json
from aura.gateway.api.forms import FreshOnly, OutputQuery, query
from aura.gateway.api.reads import logged
from aura.gateway.context import Gateway
from aura.gateway.live.taps import flat_record
from aura.gateway.ports import OutputMessage

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
Render = Callable[[dict[str, Any]], bytes]


def printable(text: str) -> str:
    """One line of a terminal: what could start a new one or steer it is shown as an escape."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _as_json(flat: dict[str, Any]) -> bytes:
    return orjson.dumps(flat)


def _as_line(flat: dict[str, Any]) -> bytes:
    return orjson.dumps(flat) + b"\n"


def _as_text(flat: dict[str, Any]) -> bytes:
    return str(flat.get("chunk", "")).encode("utf-8", "replace")


def _as_log_line(flat: dict[str, Any]) -> bytes:
    line = printable(str(flat.get("line", "")))
    return f"{flat.get('ts', '')} {flat.get('level', ''):<8} {line}\n".encode("utf-8", "replace")


async def _pieces(
    head: JobHead, read: AsyncIterator[Sequence[OutputMessage]], render: Render, *, as_array: bool
) -> AsyncIterator[bytes]:
    """One piece per message; with ``as_array`` all of them are one JSON array."""
    opening = b"["
    async for batch in read:
        for message in batch:
            parts = [render(flat_record(head.job_id, head.project, message, record)) for record in message.records]
            yield opening + b",".join(parts) if as_array else b"".join(parts)
            opening = b","
    if as_array:
        yield b"[]" if opening == b"[" else b"]"


async def _stream(
    gateway: Gateway, request: Request, kinds: Sequence[OutputKind], renders: Mapping[str, Render]
) -> Response:
    job_id = subjects.check_job_id(request.path_params["job_id"])
    asked = query(OutputQuery, request)
    await logged(gateway, asked)
    media = accept.choose(request, tuple(renders))
    head = await gateway.ctx.commands.jobs.head(job_id, consistent=True)
    claimed = range(1, head.state.attempt + 1)
    if isinstance(asked.attempt, int):
        attempts = [attempt for attempt in (asked.attempt,) if attempt in claimed]
    elif asked.attempt is None and media == accept.TEXT:
        attempts = list(claimed[-1:])
    else:
        attempts = list(claimed)
    read = gateway.ctx.output.read(head.project, job_id, attempts, from_cursor=asked.from_, kinds=kinds)
    body = _pieces(head, read, renders[media], as_array=media == accept.JSON)
    headers = {"aura-job-seq": str(head.seq), "content-disposition": "inline"}
    return StreamingResponse(body, headers=headers, media_type=media)


async def output(gateway: Gateway, request: Request) -> Response:
    """``GET /jobs/{id}/output``: the stream's text, or every record as NDJSON."""
    if accept.choose(request, (accept.TEXT, accept.NDJSON)) == accept.TEXT:
        return await _stream(gateway, request, ("stream",), {accept.TEXT: _as_text})
    return await _stream(gateway, request, subjects.OUTPUT_KINDS, {accept.NDJSON: _as_line})


async def logs(gateway: Gateway, request: Request) -> Response:
    """``GET /jobs/{id}/logs``: log lines as a JSON array, NDJSON, or text."""
    renders = {accept.JSON: _as_json, accept.NDJSON: _as_line, accept.TEXT: _as_log_line}
    return await _stream(gateway, request, ("log",), renders)


async def result(gateway: Gateway, request: Request) -> Response:
    """``GET /jobs/{id}/result``: the details handed in, and the last error text. 404 when there are none, or they are
    purged."""
    job_id = subjects.check_job_id(request.path_params["job_id"])
    await logged(gateway, query(FreshOnly, request))
    head = await gateway.ctx.commands.jobs.head(job_id, consistent=True)
    if head.state.purge is not Purge.NONE:
        raise NotFound("result", job_id)
    found = await reported(gateway.ctx.store, gateway.ctx.content, head)
    if found.details is None and found.error is None and not head.state.status.closed:
        raise NotFound("result", job_id)
    return json(
        {
            "job_id": job_id,
            "status": head.state.status.value,
            "attempt": head.state.attempt,
            "details": orjson.loads(found.details) if found.details is not None else None,
            "error": orjson.loads(found.error) if found.error is not None else None,
            "seq": head.seq,
        }
    )
