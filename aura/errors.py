"""Every error that Aura raises on purpose, as one small tree.

::

    AuraError
    ├── Refused                     the request was understood and is not allowed
    │   ├── InvalidRequest          422  malformed or out of bounds
    │   ├── NotFound                404  no such job, model, session, archive
    │   ├── Conflict                409  not in this state (carries ``status``)
    │   │   └── Fenced              409  an older attempt than the current one
    │   ├── KeyReused               422  an idempotency key seen with another body
    │   ├── Forbidden               403  known caller, not allowed
    │   ├── Unauthenticated         401  unknown caller
    │   └── TooLarge                413  over a documented limit
    ├── Unavailable                 503  try again later (``retry_after_s``)
    │   └── Overloaded              429  a queue is full
    ├── WrongExpectedSequence       internal: the guard of an append did not hold
    ├── LogRegression               the log is shorter, rewritten or re-created: stop
    ├── PoisonEvent                 a stored event that no version of the code can read
    ├── JobError                    raised by a worker's handler: this attempt failed
    │   ├── Retryable               another attempt may succeed
    │   ├── Fatal                   no attempt will succeed
    │   └── AgentError              raised by an agent of a workflow, in words for the workflow's user
    │       ├── AgentTimeout        it took longer than it may
    │       └── UnknownAgent        nobody registered an agent of that name
    └── ConfigError                 refused at start-up

Errors carry data (``code`` and attributes), never only prose. ``code`` is stable and is what clients match;
``detail`` is for people and never carries internals or secrets. HTTP statuses and CLI exit codes are derived in one table
each (``gateway/problems.py``, ``cli/main.py``) from the class, so that a new error needs no second edit.
"""

from __future__ import annotations

from typing import ClassVar


class AuraError(Exception):
    """Base of the tree. ``code`` is the stable machine name, ``detail`` a sentence for people."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class Refused(AuraError):
    """The request is understood and refused; repeating it unchanged will be refused again."""

    code = "refused"
    http_status = 400


class InvalidRequest(Refused):
    """Malformed, or a value out of its bounds. ``field`` names the culprit when there is one."""

    code = "invalid_request"
    http_status = 422

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


class NotFound(Refused):
    """``kind`` is what was looked for (``job``, ``model``, …), ``key`` its id."""

    code = "not_found"
    http_status = 404

    def __init__(self, kind: str, key: str) -> None:
        super().__init__(f"no such {kind}")
        self.kind = kind
        self.key = key


class Conflict(Refused):
    """The entity is in a state that does not allow the command. ``status`` is that state."""

    code = "conflict"
    http_status = 409

    def __init__(self, detail: str, *, status: str | None = None) -> None:
        super().__init__(detail)
        self.status = status


class Fenced(Conflict):
    """A heartbeat, output or result of an attempt that is no longer the current one."""

    code = "fenced"

    def __init__(self, detail: str, *, status: str | None = None, attempt: int = 0, current: int = 0) -> None:
        super().__init__(detail, status=status)
        self.attempt = attempt
        self.current = current


class KeyReused(Refused):
    """An ``Idempotency-Key`` seen before with another body."""

    code = "idempotency_key_reused"
    http_status = 422


class Forbidden(Refused):
    """The caller is known (or anonymous access is off for this) and may not do it."""

    code = "forbidden"
    http_status = 403


class Unauthenticated(Refused):
    """The caller is not known."""

    code = "unauthenticated"
    http_status = 401


class TooLarge(Refused):
    """Over a documented size limit. ``limit`` is in bytes."""

    code = "too_large"
    http_status = 413

    def __init__(self, detail: str, *, limit: int) -> None:
        super().__init__(detail)
        self.limit = limit


class Unavailable(AuraError):
    """Something we depend on does not answer. Nothing is known to be lost; retry with the same idempotency key."""

    code = "unavailable"
    http_status = 503

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    """A bounded queue is full."""

    code = "overloaded"
    http_status = 429


class WrongExpectedSequence(AuraError):
    """The guard of an append did not hold. ``actual`` is the entity's last sequence when the server named it."""

    code = "wrong_expected_sequence"
    http_status = 409

    def __init__(self, guard: str, expected: int, actual: int | None) -> None:
        super().__init__(f"expected sequence {expected}, found {actual}")
        self.guard = guard
        self.expected = expected
        self.actual = actual


class LogRegression(AuraError):
    """The log's identity (epoch, length, bytes at the checkpoint) is not what it was (G5). Writers stop."""

    code = "log_regression"
    http_status = 503


class PoisonEvent(AuraError):
    """A stored event that cannot be decoded, upcast or applied (G17)."""

    code = "poison_event"

    def __init__(self, detail: str, *, seq: int = 0, subject: str = "") -> None:
        super().__init__(detail)
        self.seq = seq
        self.subject = subject


class JobError(AuraError):
    """A handler's word that its attempt failed. ``error_code`` goes into the event; ``detail`` is content (kept encrypted)."""

    code = "worker_error"
    http_status = 500
    retryable: ClassVar[bool] = True

    def __init__(self, detail: str = "", *, error_code: str | None = None) -> None:
        super().__init__(detail)
        self.error_code = error_code or self.code


class Retryable(JobError):
    """Another attempt may succeed: the job is queued again while attempts remain."""


class Fatal(JobError):
    """No attempt will succeed: the job fails now."""

    code = "worker_fatal"
    retryable = False


class AgentError(JobError):
    """An agent of a workflow failed, and ``detail`` (≤ 200 characters) is for the workflow's user: no internals. The one error whose text
    leaves the worker; whatever else an agent raises becomes a generic sentence, and goes to the worker's log."""

    code = "agent_failed"
    retryable = False


class AgentTimeout(AgentError):
    """An agent took longer than its caller waits."""

    code = "agent_timeout"


class UnknownAgent(AgentError):
    """Nobody registered an agent of that name."""

    code = "unknown_agent"


class ConfigError(AuraError):
    """Configuration refused at start-up; ``detail`` says which setting and how to mend it."""

    code = "config"
