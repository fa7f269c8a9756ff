"""Errors of commands as problem objects (RFC 9457), over NATS and HTTP alike. The other way is ``aura.problems.error_of``.

Only what a client may know travels: the code, the sentence for people, and the fields that the class documents.
"""

from __future__ import annotations

from typing import Any

import orjson

from aura import errors as e

#: Most commands in one ``batch``: here because a worker needs to know it, and little else of this package.
MAX_CALLS = 128


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
