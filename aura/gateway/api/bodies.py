"""Request bodies: at most 1 MiB, counted while they arrive; JSON only, and stricter than JSON parsers are.

Refused with 413, 408, 415 or 422: duplicate keys (two readers would see two requests), ``NaN`` and numbers beyond a
double, nesting deeper than 64, integers beyond 64 bits, lone surrogates, bytes that are not UTF-8.

Content types. ``application/json`` (or ``+json``). A body without a type, or with curl's default
``application/x-www-form-urlencoded``, is read as JSON too, but only from a caller that is no browser (no ``Origin``,
``Sec-Fetch-*``, ``Cookie`` or ``Referer``): ``curl -d '{…}'`` works and a form on a foreign page does not.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from aura.errors import InvalidRequest, TooLarge
from aura.gateway.limits import Limits

#: A body this large is parsed in a thread: it must not hold up the event loop.
_PARSE_IN_THREAD = 64 * 1024
_BROWSER = ("origin", "sec-fetch-site", "sec-fetch-mode", "cookie", "referer")
_FORM = "application/x-www-form-urlencoded"
#: What an absent body parses to; a JSON ``null`` is ``None``.
ABSENT: Any = object()


async def read(request: Request, limits: Limits) -> bytes:
    """The body's bytes. Raises ``TooLarge``, 408 for a body that trickles."""
    too_large = TooLarge(f"the body is larger than {limits.body_bytes} bytes", limit=limits.body_bytes)
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        if "expect" not in request.headers:
            await _discard(request, limits)
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, headers={"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400) from None
    return b"".join(parts)


async def _discard(request: Request, limits: Limits) -> None:
    """Let a client that writes first and reads afterwards finish, within bounds, or it never sees the answer but a reset."""
    size = 0
    try:
        async with asyncio.timeout(limits.discard_s):
            async for part in request.stream():
                size += len(part)
                if size > limits.discard_bytes:
                    return
    except (TimeoutError, ClientDisconnect):
        return


def check_content_type(request: Request) -> None:
    """Raise 415 unless the body may be read as JSON: by its type, in UTF-8, and not compressed."""
    sent, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    sent = sent.strip()
    charset = next((value for name, _, value in _parameters(parameters) if name == "charset"), "utf-8")
    if (
        charset not in ("utf-8", "utf8", "us-ascii")
        or request.headers.get("content-encoding", "identity") != "identity"
    ):
        raise HTTPException(415)
    if sent == "application/json" or (sent.startswith("application/") and sent.endswith("+json")):
        return
    if sent in ("", _FORM) and not any(name in request.headers for name in _BROWSER):
        return
    raise HTTPException(415)


def _parameters(text: str) -> list[tuple[str, str, str]]:
    parts = [part.partition("=") for part in text.split(";")]
    return [(name.strip(), equals, value.strip().strip('"')) for name, equals, value in parts]


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidRequest("the body has an object with the same key twice")
    return found


def _constant(_: str) -> NoReturn:
    raise InvalidRequest("NaN and Infinity are not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidRequest("a number is out of range")
    return value


def _int(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise InvalidRequest("an integer is out of range")
    return value


def parse(body: bytes, *, depth: int) -> Any:
    """Strict JSON, or :data:`ABSENT` for an empty body. Raises ``InvalidRequest``."""
    if not body.strip():
        return ABSENT
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float, parse_int=_int)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate has no UTF-8
    except RecursionError:
        raise InvalidRequest(f"the body is nested deeper than {depth}") from None
    except UnicodeError:
        raise InvalidRequest("the body is not valid Unicode") from None
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):
            raise InvalidRequest(f"the body is not JSON: {error.msg} at character {error.pos}") from None
        raise InvalidRequest("the body is not JSON") from None
    if body.count(b"[") + body.count(b"{") > depth:
        _check_depth(value, depth)
    return value


def _check_depth(value: Any, depth: int) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise InvalidRequest(f"the body is nested deeper than {depth}")


async def read_json(request: Request, limits: Limits) -> Any:
    """The body as strict JSON, or :data:`ABSENT`; the same value when asked again. Raises as :func:`read`, :func:`check_content_type`,
    :func:`parse`."""
    if "aura.json" not in request.scope:
        request.scope["aura.json"] = await _parsed(request, limits)
    return request.scope["aura.json"]


async def _parsed(request: Request, limits: Limits) -> Any:
    body = await read(request, limits)
    if not body:
        return ABSENT
    check_content_type(request)
    if len(body) > _PARSE_IN_THREAD:
        return await asyncio.to_thread(parse, body, depth=limits.json_depth)
    return parse(body, depth=limits.json_depth)
