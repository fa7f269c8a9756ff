"""One stored event as folds need it. The hot path of every projection: orjson only, no pydantic.

Events were validated when they were appended, so reading checks only what a fold relies on: a JSON object whose type the subject
agrees with and this code knows, in a version it can read, with a time, an actor, and (jobs, models, sessions) a carried state of
today's version. Anything else is *poison* (G17): a value, not an exception, so that one bad event costs nothing but itself.
"""

from __future__ import annotations

from typing import Any

import orjson

from aura.domain.job_state import STATE_VERSION as JOB_STATE_VERSION
from aura.domain.model import STATE_VERSION as MODEL_STATE_VERSION
from aura.domain.session import STATE_VERSION as SESSION_STATE_VERSION
from aura.errors import PoisonEvent
from aura.events import subjects, upcasting
from aura.events.catalogue import CATALOGUE
from aura.log.store import Recorded

_VERSIONS = {type_: model.V for type_, model in CATALOGUE.items()}
_STATE_VERSIONS = {"job": JOB_STATE_VERSION, "model": MODEL_STATE_VERSION, "session": SESSION_STATE_VERSION}


class LogEvent:
    """A decoded event. ``kind``/``entity`` name its entity (a system event's entity is its own type, so that a poison one
    keeps no other aside), ``flat`` is the whole body, ``stored_ns`` Unix nanoseconds. ``poison`` says why it cannot be applied."""

    __slots__ = (
        "actor",
        "entity",
        "flat",
        "kind",
        "poison",
        "project",
        "seq",
        "state",
        "stored_ns",
        "subject",
        "ts",
        "type",
    )

    def __init__(self, recorded: Recorded, kind: str, entity: str) -> None:
        self.seq = recorded.seq
        self.subject = recorded.subject
        self.stored_ns = recorded.stored_at_ns
        self.kind = kind
        self.entity = entity
        self.project: int | None = None
        self.type = ""
        self.ts = ""
        self.actor = ""
        self.flat: dict[str, Any] = {}
        self.state: dict[str, Any] | None = None
        self.poison: str | None = None


def decode(recorded: Recorded) -> LogEvent:
    """An event of the log. Never raises for what it reads: see :attr:`LogEvent.poison`."""
    try:
        subject = subjects.parse(recorded.subject)
    except ValueError:
        event = LogEvent(recorded, "unknown", recorded.subject[:200])
        event.poison = "not a subject of the log"
        return event
    event = LogEvent(recorded, subject.kind, subject.entity or subject.type)
    event.project = subject.project
    event.type = subject.type
    try:
        _fill(event, recorded.body)
    except PoisonEvent as error:
        event.poison = error.detail
    return event


def _fill(event: LogEvent, body: bytes) -> None:
    flat = _json_object(body)
    version = _VERSIONS.get(event.type)
    if version is None or flat.get("type") != event.type:
        raise PoisonEvent(f"unknown event type {str(flat.get('type'))[:60]!r}")
    if (told := flat.get("v")) != version or told is True:
        if isinstance(told, bool):
            raise PoisonEvent("the version is not a number")
        try:
            flat = upcasting.upcast(flat, CATALOGUE[event.type])
        except (ValueError, KeyError) as error:
            raise PoisonEvent(f"{event.type} in a version this code cannot read") from error
    ts, actor = flat.get("ts"), flat.get("actor")
    if not isinstance(ts, str) or not isinstance(actor, str):
        raise PoisonEvent("no time or no actor")
    event.flat, event.ts, event.actor = flat, ts, actor
    state = flat.get("state")
    wanted = _STATE_VERSIONS.get(event.kind)
    if wanted is not None:
        if not isinstance(state, dict) or state.get("v") != wanted:
            raise PoisonEvent("no carried state of a version this code knows")
        event.state = state


def decode_heartbeat(recorded: Recorded) -> LogEvent:
    """A message of ``AURA_HEALTH`` (subject ``health.aura.<model>.<worker>``). Never raises."""
    tokens = recorded.subject.split(".")
    event = LogEvent(recorded, "worker", "/".join(tokens[2:])[:200])
    event.type = "model.heartbeat"
    try:
        if len(tokens) != 4:
            raise PoisonEvent("not a subject of a heartbeat")
        event.flat = _json_object(recorded.body)
        if not isinstance(event.flat.get("ts"), str) or not isinstance(event.flat.get("payload"), dict):
            raise PoisonEvent("not a heartbeat")
        event.ts = event.flat["ts"]
    except PoisonEvent as error:
        event.poison = error.detail
    return event


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        flat = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PoisonEvent("not JSON") from error
    if not isinstance(flat, dict):
        raise PoisonEvent("not a JSON object")
    return flat
