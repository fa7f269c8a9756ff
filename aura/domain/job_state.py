"""The state of a job that its decider needs, and its small JSON form carried by every event (``state``).

The JSON form is at most 512 bytes, names its version in ``v`` and leaves out what is at its default, so that ``nats sub``
stays readable. A reader that meets another ``v`` folds the history instead (DECISIONS.md, Loading).

So that the last :data:`KEPT_KEYS` idempotency keys fit besides, long things have a short form. In the JSON the trace id is 22 characters of
base64url (older events have 32 of hex). Everywhere a holder of more than 24 characters is its hash (:func:`short_holder`), and of a key and
its request the first characters of their hashes are kept (:class:`SeenKey`); what older events carry is cut when it is read. With a role of
8, a model of 20, and a worker and a holder of 24 characters all 8 keys fit, to sequences of ten digits; with 64 characters each the last 4
(3 of a closed job), and G2 for commands holds for those (``tests/unit/domain/test_job_state.py``).

A ``msgspec.Struct`` and not a dataclass because every event makes several of them: a frozen dataclass of this size takes 6 µs to
copy, a struct 0.3 µs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import orjson
from msgspec import Struct
from msgspec.structs import replace

STATE_VERSION = 1
MAX_STATE_BYTES = 512
#: How many idempotency keys of commands an entity remembers (the exact meaning of G2 for commands).
KEPT_KEYS = 8
#: Characters (of six bits) kept of the hash of a key, and of that of its request: to tell apart 8 keys, and a repeat from a mistake.
_KEY_CHARS, _BODY_CHARS = 8, 6
_LONGEST_HOLDER, _SHORT_TRACE = 24, 22


class JobStatus(StrEnum):
    """Where a job is, as clients see it."""

    QUEUED = "QUEUED"
    ASSIGNED = "ASSIGNED"
    IN_PROGRESS = "IN_PROGRESS"
    SUBMITTED = "SUBMITTED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def closed(self) -> bool:
        """In the archive: a terminal event carried ``retention_until``."""
        return self in _CLOSED

    @property
    def open(self) -> bool:
        """Still wants something from the scheduler, a worker, or a person waiting for it to end."""
        return self not in _CLOSED


_CLOSED = frozenset({JobStatus.SUBMITTED, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class Purge(StrEnum):
    """How far erasure has come."""

    NONE = "none"
    REQUESTED = "requested"
    PURGED = "purged"


class SeenKey(Struct, frozen=True):
    """One remembered idempotency key, made by :func:`seen_key`. ``seq`` 0 means "the event that carries this state"; :func:`placed`
    fills it in."""

    key: str
    body: str
    seq: int = 0

    def of_request(self, body: str) -> bool:
        """Whether the key came with the request of this hash."""
        return self.body == body[:_BODY_CHARS]


def seen_key(key: str, body: str, seq: int = 0) -> SeenKey:
    """What is remembered of a key's hash and its request's."""
    return SeenKey(key[:_KEY_CHARS], body[:_BODY_CHARS], seq)


def short_holder(owner: str | None) -> str | None:
    """What a state keeps of who holds a lease: the name, or 128 bits of its hash where that is shorter (which it leaves as it is)."""
    if owner is None or len(owner) <= _LONGEST_HOLDER:
        return owner
    return "#" + _base64(hashlib.sha256(owner.encode()).digest()[:16])


def trace_of(carried: str | None) -> str | None:
    """The trace id in a carried state, as 32 hex digits."""
    if carried is None or len(carried) != _SHORT_TRACE:
        return carried
    return base64.urlsafe_b64decode(carried + "==").hex()


def _short_trace(trace: str) -> str:
    return _base64(bytes.fromhex(trace)) if len(trace) == 32 else trace


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class JobState(Struct, frozen=True):
    """What the decider knows. ``attempt`` is the newest attempt's number (0 = never claimed), ``spent`` how many attempts
    have failed since the job was created or retried, ``not_before`` when it may run next, ``late`` the attempts whose late
    result has been recorded, ``count`` how many events the job has, ``trace`` the W3C trace id (32 hex digits) of the request that
    created it: the ``correlation_id`` of everything that happens to it. ``holder`` is a :func:`short_holder`."""

    status: JobStatus
    role: str
    max_attempts: int = 3
    priority: int = 5
    attempt: int = 0
    spent: int = 0
    model: str | None = None
    worker: str | None = None
    holder: str | None = None
    lease_ttl_s: float | None = None
    not_before: str | None = None
    deps: int = 0
    retention_until: str | None = None
    held: bool = False
    purge: Purge = Purge.NONE
    late: tuple[int, ...] = ()
    keys: tuple[SeenKey, ...] = ()
    count: int = 1
    trace: str | None = None

    def remembering(self, key: SeenKey) -> JobState:
        """With one more key, forgetting the oldest beyond :data:`KEPT_KEYS`."""
        return replace(self, keys=(*self.keys, key)[-KEPT_KEYS:])

    def key_seen(self, key: str) -> SeenKey | None:
        """The remembered use of a key of this hash, if it is among the last :data:`KEPT_KEYS`."""
        short = key[:_KEY_CHARS]
        return next((seen for seen in self.keys if seen.key == short), None)


def placed(state: JobState, seq: int) -> JobState:
    """The state once its event has a sequence: a key used by that event learns it."""
    if not state.keys or state.keys[-1].seq:
        return state
    return replace(state, keys=(*state.keys[:-1], replace(state.keys[-1], seq=seq)))


def fitting(state: JobState) -> JobState:
    """The state without the oldest keys that its carried form cannot hold. Whoever keeps a state in memory keeps this one, or two
    processes would remember different keys and the fold would differ from what is carried."""
    if len(state.keys) < 2:
        return state
    kept = len(to_json(state).get("keys", ()))
    return state if kept == len(state.keys) else replace(state, keys=state.keys[len(state.keys) - kept :])


def to_json(state: JobState) -> dict[str, Any]:
    """The carried form. Forgets the oldest keys in the rare case that 512 bytes would not hold them."""
    flat: dict[str, Any] = {"v": STATE_VERSION, "status": state.status.value, "role": state.role}
    if state.max_attempts != 3:
        flat["max_attempts"] = state.max_attempts
    if state.priority != 5:
        flat["priority"] = state.priority
    if state.attempt:
        flat["attempt"] = state.attempt
    if state.spent:
        flat["spent"] = state.spent
    if state.model is not None:
        flat["model"] = state.model
    if state.worker is not None:
        flat["worker"] = state.worker
    if state.holder is not None:
        flat["holder"] = state.holder
    if state.lease_ttl_s is not None:
        flat["lease_ttl_s"] = state.lease_ttl_s
    if state.not_before is not None:
        flat["not_before"] = state.not_before
    if state.deps:
        flat["deps"] = state.deps
    if state.retention_until is not None:
        flat["retention_until"] = state.retention_until
    if state.held:
        flat["held"] = True
    if state.purge is not Purge.NONE:
        flat["purge"] = state.purge.value
    if state.late:
        flat["late"] = list(state.late)
    flat["n"] = state.count
    if state.trace is not None:
        flat["trace"] = _short_trace(state.trace)
    if state.keys:
        flat["keys"] = keys = [f"{seen.key}.{seen.body}.{seen.seq}" for seen in state.keys]
        while keys and len(orjson.dumps(flat)) > MAX_STATE_BYTES:
            keys.pop(0)
    return flat


def from_json(flat: Mapping[str, Any]) -> JobState | None:
    """Inverse of :func:`to_json`; ``None`` for another version of the state (fold instead)."""
    if flat.get("v") != STATE_VERSION:
        return None
    return JobState(
        status=JobStatus(flat["status"]),
        role=flat["role"],
        max_attempts=flat.get("max_attempts", 3),
        priority=flat.get("priority", 5),
        attempt=flat.get("attempt", 0),
        spent=flat.get("spent", 0),
        model=flat.get("model"),
        worker=flat.get("worker"),
        holder=short_holder(flat.get("holder")),
        lease_ttl_s=flat.get("lease_ttl_s"),
        not_before=flat.get("not_before"),
        deps=flat.get("deps", 0),
        retention_until=flat.get("retention_until"),
        held=flat.get("held", False),
        purge=Purge(flat.get("purge", "none")),
        late=tuple(flat.get("late", ())),
        keys=tuple(_key(text) for text in flat.get("keys", ())),
        count=flat["n"],
        trace=trace_of(flat.get("trace")),
    )


def _key(text: str) -> SeenKey:
    key, body, seq = text.split(".")
    return seen_key(key, body, int(seq))
