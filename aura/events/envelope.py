"""The stored form of an event: one flat JSON object, UTF-8, at most 32 KiB.

Order of fields: common (``id type v ts actor correlation_id causation_id``), the entity's ids, the type's own, ``state`` last.
``seq`` and ``epoch`` are not stored; readers get them from the stream. The relay path never parses a body: it writes
``{"seq":N,`` + ``body[1:]``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from aura.errors import InvalidRequest, PoisonEvent, TooLarge
from aura.events import upcasting
from aura.events.catalogue import CATALOGUE, Event

MAX_EVENT_BYTES = 32 * 1024
_ACTOR = re.compile(r"(director|worker|user|scheduler|projector|key|system):[A-Za-z0-9_.:@-]{1,80}\Z|anonymous\Z")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who and why: the same for all events of one command. ``ts`` is RFC 3339 UTC with microseconds."""

    ts: str
    actor: str
    correlation_id: str
    causation_id: str


def check_actor(actor: str) -> str:
    """``director:<key id>``, ``worker:<id>``, ``user:<id>``, ``scheduler:<term>``, ``anonymous``. Raises ``InvalidRequest``."""
    if not _ACTOR.match(actor):
        raise InvalidRequest("the actor is not well formed", field="actor")
    return actor


def seal(
    event: Event, *, event_id: str, stamp: Stamp, ids: Mapping[str, Any], state: Mapping[str, Any] | None = None
) -> bytes:
    """The bytes to store. Raises ``TooLarge`` over 32 KiB."""
    flat: dict[str, Any] = {
        "id": event_id,
        "type": event.TYPE,
        "v": event.V,
        "ts": stamp.ts,
        "actor": stamp.actor,
        "correlation_id": stamp.correlation_id,
        "causation_id": stamp.causation_id,
    }
    flat.update(ids)
    flat.update(event.model_dump(exclude_none=True, by_alias=True))
    if state is not None:
        flat["state"] = state
    body = orjson.dumps(flat)
    if len(body) > MAX_EVENT_BYTES:
        raise TooLarge(f"the event would be {len(body)} bytes; the limit is {MAX_EVENT_BYTES}", limit=MAX_EVENT_BYTES)
    return body


def unseal(body: bytes, *, seq: int = 0, subject: str = "") -> tuple[Event, dict[str, Any]]:
    """The typed event (upcast to today's version) and the flat object as stored.

    Raises ``PoisonEvent`` for rubbish, an unknown type, or a version newer than this code knows.
    """
    try:
        flat = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PoisonEvent("not JSON", seq=seq, subject=subject) from error
    if not isinstance(flat, dict):
        raise PoisonEvent("not a JSON object", seq=seq, subject=subject)
    return typed(flat, seq=seq, subject=subject), flat


def typed(flat: dict[str, Any], *, seq: int = 0, subject: str = "") -> Event:
    """The typed event of a decoded body. Raises ``PoisonEvent``."""
    model = CATALOGUE.get(flat.get("type", ""))
    if model is None:
        raise PoisonEvent("unknown event type", seq=seq, subject=subject)
    try:
        return model.model_validate(upcasting.upcast(flat, model))
    except ValueError as error:
        raise PoisonEvent(f"invalid {model.TYPE}", seq=seq, subject=subject) from error
