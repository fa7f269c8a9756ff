"""RFC 9457 problem details for everything that goes wrong, from one table: the classes of ``aura.errors``.

``code`` is what clients match; ``detail`` is for people and says nothing about our insides; ``trace_id`` finds the
request in the log. A status that Starlette raises (404, 405, …) and an unexpected exception (500) get the same shape.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.types import Send

from aura.commands import wire
from aura.errors import AuraError, TooLarge, Unauthenticated, Unavailable

log = structlog.get_logger("aura.gateway")

MEDIA_TYPE = "application/problem+json"
_TYPE = "urn:aura:problem:"
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    type: str = "",
    instance: str = "",
    trace_id: str = "",
    **extra: Any,
) -> bytes:
    """The body. ``detail`` falls back to the status's own phrase."""
    title = HTTPStatus(status).phrase
    body = {
        "type": type or _TYPE + code,
        "title": title,
        "status": status,
        "detail": detail or title,
        "instance": instance,
        "code": code,
        "trace_id": trace_id,
        **extra,
    }
    return orjson.dumps(body)


def of(error: Exception, *, instance: str = "", trace_id: str = "") -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers for any exception. Unexpected ones, and internal ones of ours, are logged and say only
    "500"."""
    headers: dict[str, str] = {}
    match error:
        case AuraError() if error.http_status != 500:
            if isinstance(error, Unavailable):
                headers["retry-after"] = str(error.retry_after_s)
            if isinstance(error, Unauthenticated):
                headers["www-authenticate"] = "Bearer"
            if isinstance(error, TooLarge):
                headers["connection"] = "close"
            body = problem(**wire.described(error), instance=instance, trace_id=trace_id)
            return error.http_status, body, headers
        case HTTPException():
            headers.update(error.headers or {})
            code = _CODES.get(error.status_code, "refused")
            body = problem(error.status_code, code, "", instance=instance, trace_id=trace_id)
            return error.status_code, body, headers
        case _:
            log.error("request.failed", trace_id=trace_id, path=instance, exc_info=error)
            return 500, problem(500, "internal", "", instance=instance, trace_id=trace_id), headers


def embedded(error: AuraError, trace_id: str) -> dict[str, Any]:
    """A problem as part of a larger answer (a line of a bulk answer)."""
    body: dict[str, Any] = orjson.loads(of(error, trace_id=trace_id)[1])
    return body


def instance_of(scope: Any) -> str:
    """The path as it was sent (still percent-encoded, without the query, which may carry secrets), bounded."""
    raw = scope.get("raw_path") or scope.get("path", "").encode("utf-8", "replace")
    return str(raw[:300].decode("ascii", "replace"))


async def refuse_websocket(send: Send, scope: Any, error: Exception) -> None:
    """Answer a handshake with an HTTP problem (``websocket.http.response``)."""
    status, body, headers = of(error, instance=instance_of(scope), trace_id=scope.get("aura.trace_id", ""))
    pairs = [(b"content-type", MEDIA_TYPE.encode()), (b"x-content-type-options", b"nosniff")]
    pairs += [(name.encode(), value.encode()) for name, value in headers.items() if name != "connection"]
    await send({"type": "websocket.http.response.start", "status": status, "headers": pairs})
    await send({"type": "websocket.http.response.body", "body": body})
