"""``aura.v1``: what a client may say, strictly parsed, and what it is answered. Pure.

Client → server, one object or an array of them per message: ``subscribe``, ``unsubscribe``, ``replay``, ``auth``, ``ping``. Anything
else, an unknown field, a value out of bounds, or JSON that two parsers could read differently, is answered with ``error`` and changes
nothing; the connection stays.

Server → client: ``welcome``, ``subscribed``, ``live``, ``reset``, ``replayed``, ``unsubscribed``, ``pong``, ``error``, and events, which
have no ``op``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta, Struct, field

from aura.errors import AuraError, InvalidRequest
from aura.gateway.api import bodies
from aura.gateway.live.fanout.trie import check_pattern
from aura.gateway.live.feed import MAX_SEQ, Cursor

SUBPROTOCOL = "aura.v1"
#: Operations in one message.
MOST_OPS = 128
#: Events of ``{"last": n}``.
MOST_LAST = 100_000
_DEPTH = 8

MAX_ID = 128
#: The client's own name for a subscription: printable, nothing that forges a log line or a screen.
_ID = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+(?![\s\S])"
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID, pattern=_ID)]
Seq = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
Text = Annotated[str, Meta(max_length=512)]


class From(Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of: at sequence ``seq`` (of the log ``epoch``, if given; the event itself is included, as everywhere in the API where
    ``from`` is said), after the last event stored at or before ``time``, or with the ``last`` n events."""

    seq: Seq | None = None
    time: Annotated[str, Meta(max_length=40)] | None = None
    last: Annotated[int, Meta(ge=0, le=MOST_LAST)] | None = None
    epoch: Annotated[str, Meta(max_length=64)] | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.seq, self.time, self.last)) != 1:
            raise ValueError('from is "now" or has one of seq, time and last')
        if self.epoch is not None and self.seq is None:
            raise ValueError("epoch says which log seq belongs to")


Origin = Literal["now"] | From


class Subscribe(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="subscribe"):
    """Follow ``subject`` from somewhere on, under a name of the client's choice."""

    id: Id
    subject: Text
    from_: Origin = field(name="from", default="now")


class Unsubscribe(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="unsubscribe"):
    """End a subscription or a replay."""

    id: Id


class Replay(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="replay"):
    """Play a window of the log again, ``speed`` times as fast as it happened. ``to`` is inclusive, ``"now"`` is the head."""

    id: Id
    subject: Text
    from_: From = field(name="from")
    to: Origin = "now"
    speed: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0


class Auth(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="auth"):
    """Only the first message of a connection that needs it; here it comes too late."""

    ticket: Text


class Ping(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="ping"):
    """Answered with ``pong``."""


Op = Subscribe | Unsubscribe | Replay | Auth | Ping


class Refusal(Struct, frozen=True):
    """What was not understood."""

    id: str | None
    code: str
    detail: str


def parse(message: str | bytes) -> list[Op | Refusal]:
    """The operations of one message, in order; what is wrong with each that is none."""
    if isinstance(message, bytes):
        return [Refusal(None, "invalid_request", "messages are text, not binary")]
    try:
        value = bodies.parse(message.encode(), depth=_DEPTH)
    except InvalidRequest as error:
        return [Refusal(None, "invalid_request", error.detail.replace("the body", "the message"))]
    except UnicodeEncodeError:
        return [Refusal(None, "invalid_request", "the message is not valid Unicode")]
    if isinstance(value, list):
        if not 1 <= len(value) <= MOST_OPS:
            return [Refusal(None, "invalid_request", f"a message has 1 to {MOST_OPS} operations")]
        return [_parse_one(item) for item in value]
    return [_parse_one(value)]


def _parse_one(value: Any) -> Op | Refusal:
    if not isinstance(value, dict):
        return Refusal(None, "invalid_request", "an operation is a JSON object")
    name, id = value.get("op"), value.get("id")
    known = id if isinstance(id, str) and len(id) <= MAX_ID else None
    try:
        return msgspec.convert(_spelled_out(value), Op)  # type: ignore[no-any-return] # a union is a type for msgspec
    except msgspec.ValidationError as error:
        if not isinstance(name, str) or name not in ("subscribe", "unsubscribe", "replay", "auth", "ping"):
            return Refusal(known, "unknown_op", "op is subscribe, unsubscribe, replay, auth or ping")
        detail = str(error)
        if detail.startswith("Expected `str` matching regex"):
            detail = f"id is 1 to {MAX_ID} printable characters"
        return Refusal(known, "invalid_request", detail)


def _spelled_out(value: dict[str, Any]) -> dict[str, Any]:
    """A bare sequence in ``from`` or ``to`` means ``{"seq": …}``."""
    bare = {name: {"seq": value[name]} for name in ("from", "to") if type(value.get(name)) is int}
    return value | bare if bare else value


def cursor_of(origin: From | Literal["now"], since_time: int | None = None) -> Cursor:
    """Where the feed begins; ``since_time`` is what ``time`` stands for."""
    if isinstance(origin, str):
        return Cursor()
    if origin.time is not None:
        return Cursor(since=since_time)
    return Cursor(None if origin.seq is None else max(origin.seq - 1, 0), origin.last, origin.epoch)


class Target(Struct, frozen=True):
    """What a subject means: events of the log (``patterns``), heartbeats, or the output of one job."""

    kind: Literal["log", "health", "output"]
    subject: str


def target_of(subject: str) -> Target:
    """Check a client's subject strictly. Raises ``InvalidRequest``."""
    tokens = subject.split(".")
    if tokens[0] == "health":
        check_pattern(".".join(["aura", *tokens[1:]]))
        if tokens[1:2] == ["aura"] and 3 <= len(tokens) <= 4:
            return Target("health", subject)
        raise InvalidRequest("heartbeats are health.aura.<model>.<worker>", field="subject")
    check_pattern(subject)
    if tokens[1:2] == ["output"]:
        return Target("output", subject)
    return Target("log", subject)


# ---------------------------------------------------------------- what the server says


def welcome(epoch: str, seq: int) -> bytes:
    """The first message."""
    return orjson.dumps({"op": "welcome", "epoch": epoch, "seq": seq})


def subscribed(id: str, seq: int, recovered: bool) -> bytes:
    """``seq``: it begins after it. ``recovered``: that is what was asked for."""
    return orjson.dumps({"op": "subscribed", "id": id, "seq": seq, "recovered": recovered})


def reset(id: str, epoch: str, reason: str, seq: int) -> bytes:
    """The cursor cannot be honoured: the subscription goes on after ``seq``."""
    return orjson.dumps({"op": "reset", "id": id, "epoch": epoch, "reason": reason, "seq": seq})


def marker(op: Literal["live", "replayed", "unsubscribed"], id: str, seq: int) -> bytes:
    """Catch-up ended, the window ended, the subscription ended."""
    return orjson.dumps({"op": op, "id": id, "seq": seq})


PONG = b'{"op":"pong"}'


def error(id: str | None, code: str, detail: str) -> bytes:
    """What was refused, and why."""
    return orjson.dumps({"op": "error", "id": id, "code": code, "detail": detail})


def error_of(id: str | None, cause: AuraError) -> bytes:
    """The same, for an error of ours. Details of internal ones are not for clients."""
    known = cause.http_status != 500
    return error(id, cause.code if known else "internal", cause.detail if known else "internal error")


def named(id: str, event: bytes) -> bytes:
    """An event of a replay: unlike shared ones it says whose it is."""
    return b'{"id":%b,%b' % (orjson.dumps(id), event[1:])
