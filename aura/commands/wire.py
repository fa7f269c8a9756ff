"""Errors of commands over NATS: a problem object (RFC 9457) one way, the exception of ``aura.errors`` the other.

Only what a client may know travels: the code, the sentence for people, and the fields that the class documents.
"""

from __future__ import annotations

from typing import Any

import orjson

from aura import errors as e


def described(error: e.AuraError) -> dict[str, Any]:
    """The problem object, over NATS and (with what only HTTP knows added) over HTTP. Internal errors say only "internal"."""
    internal = error.http_status >= 500 and not isinstance(error, e.Unavailable | e.LogRegression)
    body: dict[str, Any] = {
        "type": f"urn:aura:problem:{'internal' if internal else error.code}",
        "status": error.http_status,
        "code": "internal" if internal else error.code,
        "detail": "" if internal else error.detail,
    }
    match error:
        case e.Fenced():
            body |= {"status_of_job": error.status, "attempt": error.attempt, "current_attempt": error.current}
        case e.Conflict():
            body |= {"status_of_job": error.status}
        case e.InvalidRequest():
            body |= {"field": error.field}
        case e.NotFound():
            body |= {"kind": error.kind}
        case e.TooLarge():
            body |= {"limit": error.limit}
        case e.Unavailable():
            body |= {"retry_after_s": error.retry_after_s}
        case _:
            pass
    return body


def problem(error: e.AuraError) -> tuple[int, bytes]:
    """HTTP status and problem object as bytes."""
    return error.http_status, orjson.dumps(described(error))


def error_of(status: int, body: bytes) -> e.AuraError:
    """The exception that a problem speaks of; an unreadable one is ``Unavailable`` (5xx) or ``Refused``."""
    try:
        flat = orjson.loads(body)
    except orjson.JSONDecodeError:
        flat = {}
    flat = flat if isinstance(flat, dict) else {}
    detail = str(flat.get("detail") or "")
    match flat.get("code"):
        case "not_found":
            return e.NotFound(str(flat.get("kind", "resource")), "")
        case "fenced":
            return e.Fenced(
                detail,
                status=flat.get("status_of_job"),
                attempt=int(flat.get("attempt") or 0),
                current=int(flat.get("current_attempt") or 0),
            )
        case "conflict":
            return e.Conflict(detail, status=flat.get("status_of_job"))
        case "invalid_request":
            return e.InvalidRequest(detail, field=flat.get("field"))
        case "idempotency_key_reused":
            return e.KeyReused(detail)
        case "forbidden":
            return e.Forbidden(detail)
        case "unauthenticated":
            return e.Unauthenticated(detail)
        case "too_large":
            return e.TooLarge(detail, limit=int(flat.get("limit") or 0))
        case "overloaded":
            return e.Overloaded(detail, retry_after_s=int(flat.get("retry_after_s") or 1))
        case _ if status >= 500:
            return e.Unavailable(
                detail or "the command service failed", retry_after_s=int(flat.get("retry_after_s") or 1)
            )
        case _:
            return e.Refused(detail)
