"""The exception that a problem document (RFC 9457) speaks of: how an answer over HTTP or NATS becomes an error of ``aura.errors``.

The other direction is ``commands/wire.described``; ``tests/unit/client/test_problems.py`` keeps both inverse.
"""

from __future__ import annotations

from typing import Any

import orjson

from aura import errors as e

#: What an answer without a code of ours is, by its status. Anything else under 500 is ``InvalidRequest``.
_BY_STATUS: dict[int, type[e.Refused]] = {401: e.Unauthenticated, 403: e.Forbidden, 409: e.Conflict}


def error_of(status: int, body: bytes) -> e.AuraError:
    """The error that an answer of ``status`` >= 400 describes. One without a readable problem is judged by its status.

    The problem's ``trace_id`` is added as a note, so that it stands under a traceback.
    """
    try:
        flat = orjson.loads(body)
    except orjson.JSONDecodeError:
        flat = {}
    problem = flat if isinstance(flat, dict) else {}
    error = described_by(status, problem)
    if trace := problem.get("trace_id"):
        error.add_note(f"trace id {trace}")
    return error


def described_by(status: int, problem: dict[str, Any]) -> e.AuraError:
    """The same for a problem that is decoded already."""
    detail = str(problem.get("detail") or problem.get("title") or "")
    match problem.get("code"):
        case "not_found":
            error = e.NotFound(str(problem.get("kind", "resource")), "")
            error.detail = detail or error.detail
            return error
        case "fenced":
            return e.Fenced(
                detail,
                status=problem.get("status_of_job"),
                attempt=int(problem.get("attempt") or 0),
                current=int(problem.get("current_attempt") or 0),
            )
        case "conflict":
            return e.Conflict(detail, status=problem.get("status_of_job"))
        case "invalid_request":
            return e.InvalidRequest(detail, field=problem.get("field"))
        case "idempotency_key_reused":
            return e.KeyReused(detail)
        case "forbidden":
            return e.Forbidden(detail)
        case "unauthenticated":
            return e.Unauthenticated(detail)
        case "too_large":
            return e.TooLarge(detail, limit=int(problem.get("limit") or 0))
        case "overloaded":
            return e.Overloaded(detail, retry_after_s=int(problem.get("retry_after_s") or 1))
        case code if code == "unavailable" or status >= 500:
            return e.Unavailable(detail or "the service failed", retry_after_s=int(problem.get("retry_after_s") or 1))
        case _ if status == 429:  # of something that stands before a gateway
            return e.Overloaded(detail or "too many requests")
        case _ if status == 404:
            missing = e.NotFound("resource", "")
            missing.detail = detail or missing.detail
            return missing
        case _:
            return _BY_STATUS.get(status, e.InvalidRequest)(detail)
