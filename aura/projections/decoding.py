"""One stored event as folds need it. The hot path of every projection: msgspec reads the few fields that folds ask for and leaves the
carried state as the bytes it came in; the rest of the body is parsed only by whoever looks at ``flat``.

Events were validated when they were appended, so reading checks only what a fold relies on: a JSON object whose type the subject
agrees with and this code knows, in a version it can read, with a time, an actor, and (jobs, models, sessions) a carried state of
today's version. Anything else is *poison* (G17): a value, not an exception, so that one bad event costs nothing but itself.

What readers of JSON disagree about is settled before anybody reads (:func:`_plain`), by the bytes alone, so that an event is the same for a
live commit, a rebuild and whoever asks later: deep nesting, NUL and halves of a surrogate pair are poison.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any

import orjson
from msgspec import DecodeError, Meta, Raw, Struct, ValidationError
from msgspec.json import Decoder

from aura.domain.job_state import STATE_VERSION as JOB_STATE_VERSION
from aura.domain.model import STATE_VERSION as MODEL_STATE_VERSION
from aura.domain.session import STATE_VERSION as SESSION_STATE_VERSION
from aura.errors import PoisonEvent
from aura.events import subjects, upcasting
from aura.events.catalogue import CATALOGUE
from aura.log.store import Recorded

_VERSIONS = {type_: model.V for type_, model in CATALOGUE.items()}
_STATE_VERSIONS = {"job": JOB_STATE_VERSION, "model": MODEL_STATE_VERSION, "session": SESSION_STATE_VERSION}


MAX_DEPTH = 64
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]").search
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(rb"[\[\]{}]")

#: What a column, and orjson, can hold.
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Body(Struct, frozen=True, gc=False):
    """What every fold needs of a body, and what the folds of jobs ask of most of their events."""

    type: str
    v: int
    ts: str
    actor: str
    state: Raw = Raw(b"null")
    stage: Any = None
    status: Any = None
    reason: Any = None
    error_code: Any = None
    result: Any = None
    output: Any = None


class JobCarried(Struct, frozen=True, gc=False):
    """The carried state of a job; what it leaves out is at its default."""

    v: int
    status: str
    role: str
    n: Int64
    model: str | None = None
    worker: str | None = None
    attempt: Int64 = 0
    spent: Int64 = 0
    priority: Int64 = 5
    not_before: str | None = None
    lease_ttl_s: float | None = None
    retention_until: str | None = None
    held: bool = False
    purge: str = "none"


_BODY = Decoder(Body).decode
_JOB_CARRIED = Decoder(JobCarried).decode
_NO_BODY = Body("", 0, "", "")


class LogEvent(Struct, gc=False):
    """A decoded event. ``kind``/``entity`` name its entity (a system event's entity is its own type, so that a poison one
    keeps no other aside), ``raw`` is the whole body, ``stored_ns`` Unix nanoseconds, ``carried`` a job's state (``None``: it is not
    one), ``state_json`` any entity's. ``poison`` says why it cannot be applied."""

    seq: int
    subject: str
    stored_ns: int
    raw: bytes
    kind: str
    entity: str
    project: int | None = None
    type: str = ""
    body: Body = _NO_BODY
    state_json: str | None = None
    carried: JobCarried | None = None
    poison: str | None = None

    @property
    def flat(self) -> dict[str, Any]:
        """The whole body, parsed at each call: for the types of which a fold needs much."""
        flat: dict[str, Any] = orjson.loads(self.raw)
        return flat

    @property
    def state(self) -> dict[str, Any]:
        """The carried state, parsed at each call. Only of an entity that carries one."""
        state: dict[str, Any] = orjson.loads(self.state_json or "{}")
        return state

    @property
    def job(self) -> JobCarried:
        """The carried state of a job. Raises ``PoisonEvent`` when it lacks what every job's has."""
        if self.carried is None:
            raise PoisonEvent("the carried state is not a job's", seq=self.seq, subject=self.subject)
        return self.carried


@lru_cache(maxsize=65_536)
def _place(kind: str, project: str, rest: str) -> tuple[int | None, str]:
    """(project, type) of the subjects of jobs and sessions that differ by their entity only. Raises ``ValueError``."""
    subject = subjects.parse(f"aura.{kind}.{project}._.{rest}")
    if (subject.project or 0) > subjects.MAX_PROJECT:
        raise ValueError("not a project")
    return subject.project, subject.type


def decode(recorded: Recorded) -> LogEvent:
    """An event of the log. Never raises for what it reads: see :attr:`LogEvent.poison`."""
    name = recorded.subject
    event = LogEvent(recorded.seq, name, recorded.stored_at_ns, recorded.body, "unknown", name[:200])
    tokens = name.split(".", 4)
    try:
        if len(tokens) == 5 and tokens[0] == "aura" and tokens[1] in ("job", "session"):
            event.project, event.type = _place(tokens[1], tokens[2], tokens[4])
            event.kind, event.entity = tokens[1], tokens[3]
        else:
            subject = subjects.parse(name)
            event.project, event.type = subject.project, subject.type
            event.kind, event.entity = subject.kind, subject.entity or subject.type
    except ValueError:
        event.poison = "not a subject of the log"
        return event
    try:
        _fill(event)
    except PoisonEvent as error:
        event.poison = error.detail
    return event


def _fill(event: LogEvent) -> None:
    body, kind = _body(event), event.kind
    event.body = body
    wanted = _STATE_VERSIONS.get(kind)
    if wanted is None:
        return
    state = bytes(body.state)
    if kind == "job":
        try:
            event.carried = carried = _JOB_CARRIED(state)
            version: Any = carried.v
        except ValidationError:
            version = _version(state)
    else:
        version = _version(state)
    if version != wanted:
        raise PoisonEvent("no carried state of a version this code knows")
    event.state_json = state.decode()


def _body(event: LogEvent) -> Body:
    """The fields, in today's version of the type. Raises ``PoisonEvent``."""
    raw = event.raw = _plain(event.raw)
    type_ = event.type
    version = _VERSIONS.get(type_)
    try:
        if not raw.isascii():
            str(raw, "utf-8")  # which msgspec checks only in what it is asked for
        body = _BODY(raw)
        if body.v == version and body.type == type_:
            return body
    except (DecodeError, UnicodeDecodeError):
        pass  # what is wrong is found below
    flat = _json_object(raw)
    if version is None or flat.get("type") != type_:
        raise PoisonEvent(f"unknown event type {str(flat.get('type'))[:60]!r}")
    if isinstance(flat.get("v"), bool):
        raise PoisonEvent("the version is not a number")
    try:
        event.raw = orjson.dumps(upcasting.upcast(flat, CATALOGUE[type_]))
    except (ValueError, KeyError) as error:
        raise PoisonEvent(f"{type_} in a version this code cannot read") from error
    try:
        return _BODY(event.raw)
    except DecodeError as error:
        raise PoisonEvent("no time or no actor") from error


def _plain(raw: bytes) -> bytes:
    """The body as every reader of JSON understands it. Raises ``PoisonEvent``."""
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise PoisonEvent("nested too deeply")
    if b"\\u" not in raw:
        return raw
    if _NUL(raw) is not None:
        raise PoisonEvent("a text has NUL")
    return raw if _SURROGATE(raw) is None else orjson.dumps(_json_object(raw))


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def scalar(value: Any) -> Any:
    """A value of one column that is not JSON. Raises ``PoisonEvent`` for an object, an array, or a number that no column holds."""
    if value is None or isinstance(value, (str, float)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    raise PoisonEvent("a value is not one text or number")


def _version(state: bytes) -> object:
    try:
        told = orjson.loads(state)
    except orjson.JSONDecodeError as error:
        raise PoisonEvent("the carried state is not JSON") from error
    return told.get("v") if isinstance(told, dict) else None


def decode_heartbeat(recorded: Recorded) -> LogEvent:
    """A message of ``AURA_HEALTH`` (subject ``health.aura.<model>.<worker>``). Never raises."""
    tokens = recorded.subject.split(".")
    entity = "/".join(tokens[2:])[:200]
    event = LogEvent(recorded.seq, recorded.subject, recorded.stored_at_ns, recorded.body, "worker", entity)
    event.type = "model.heartbeat"
    try:
        if len(tokens) != 4:
            raise PoisonEvent("not a subject of a heartbeat")
        flat = _json_object(recorded.body)
        if not isinstance(flat.get("ts"), str) or not isinstance(flat.get("payload"), dict):
            raise PoisonEvent("not a heartbeat")
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
