"""Content negotiation (RFC 9110 §12.5.1), as much of it as clients use: types, wildcards, ``q``."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request

JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain"
#: Another name that clients use for NDJSON.
_ALIASES = {"application/ndjson": NDJSON, "application/jsonl": NDJSON}


def choose(request: Request, offered: Sequence[str]) -> str:
    """The offered type that the client prefers; the first one when it does not say. Raises 406."""
    header = request.headers.get("accept", "").strip()
    if not header:
        return offered[0]
    best, best_quality = "", 0.0
    for part in header[:1_000].lower().split(",")[:32]:
        wanted, *parameters = [piece.strip() for piece in part.split(";")]
        quality = _quality(parameters)
        wanted = _ALIASES.get(wanted, wanted)
        match = next((media for media in offered if _covers(wanted, media)), None)
        if match is not None and quality > best_quality:
            best, best_quality = match, quality
    if not best:
        raise HTTPException(406)
    return best


def _covers(wanted: str, media: str) -> bool:
    return wanted in (media, "*/*") or (wanted.endswith("/*") and media.startswith(wanted[:-1]))


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
