"""Query strings and the few bodies that are not commands: validated like commands, unknown names refused."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from starlette.datastructures import QueryParams

from aura.commands import requests as r
from aura.domain.job_state import JobStatus
from aura.domain.session import SessionStatus
from aura.errors import InvalidRequest
from aura.events.subjects import MAX_PROJECT
from aura.gateway.live.fanout.trie import check_pattern
from aura.gateway.live.feed import MAX_SEQ

Q = TypeVar("Q", bound=BaseModel)


def _commas(value: Any) -> Any:
    """``?status=A,B`` and ``?status=A&status=B`` are the same."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list):
        return parts
    return [part for text in parts for part in (text.split(",") if isinstance(text, str) else [text])]


def _pattern(value: str) -> str:
    try:
        return check_pattern(value)
    except InvalidRequest as error:
        raise ValueError(error.detail) from None


Seq = Annotated[int, Field(ge=0, le=MAX_SEQ)]
Limit = Annotated[int, Field(ge=1, le=500)]
OpaqueCursor = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_=.:|-]+$")]
#: A sequence, or an RFC 3339 time (the state after the last event stored until then).
Moment = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[0-9TZtz:.+ -]+$")]
Project = Annotated[int, Field(ge=1, le=MAX_PROJECT)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Statuses = Annotated[list[JobStatus], BeforeValidator(_commas), Field(max_length=7)]
SessionStatuses = Annotated[list[SessionStatus], BeforeValidator(_commas), Field(max_length=4)]
Search = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(r._text)]


class NoQuery(r.Request):
    """No parameters at all."""


class Fresh(r.Request):
    """``min_seq`` waits (bounded) until the read model has that sequence; ``as_of`` looks at the past."""

    min_seq: Seq | None = None
    as_of: Moment | None = None


class FreshOnly(r.Request):
    """For what has no past."""

    min_seq: Seq | None = None


class JobsQuery(Fresh):
    """Filters of the job list."""

    status: Statuses = Field(default_factory=list)
    project_id: Project | None = None
    role: r.Role | None = None
    model: r.Name | None = None
    q: Search | None = None
    limit: Limit = 100
    cursor: OpaqueCursor | None = None


class PageQuery(FreshOnly):
    """A page of a list."""

    project_id: Project | None = None
    limit: Limit = 100
    cursor: OpaqueCursor | None = None


class SessionsQuery(PageQuery):
    """Filters of the session list."""

    status: SessionStatuses = Field(default_factory=list)


class SessionQuery(FreshOnly):
    """One session; ``project_id`` where several projects have one of that name."""

    project_id: Project | None = None


class OutputQuery(FreshOnly):
    """Which output. ``from`` is a cursor; ``attempt`` defaults to the newest for text and to all for NDJSON."""

    from_: Annotated[Seq, Field(alias="from")] = 0
    attempt: Annotated[int, Field(ge=1, le=2**31 - 1)] | Literal["all"] | None = None


class EventsQuery(FreshOnly):
    """A window of the log, both ends inclusive. ``from`` and ``to`` are sequences."""

    subject: Pattern | None = None
    from_: Annotated[Seq, Field(alias="from")] = 1
    to: Seq | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100


class JobEventsQuery(FreshOnly):
    """A job's timeline after ``since``."""

    since: Seq = 0


class LiveQuery(r.Request):
    """Where a live feed begins: after ``since``, or with the ``last`` n events. ``epoch`` is the log that ``since``
    belongs to."""

    since: Seq | None = None
    last: Annotated[int, Field(ge=0, le=100_000)] | None = None
    epoch: Annotated[str, Field(max_length=64)] | None = None
    subject: Pattern | None = None


class JobLiveQuery(r.Request):
    """Where a job's feed begins: events after ``since``, output from message ``from`` on, in that message after
    record ``after``. ``epoch`` is the log that ``since`` belongs to."""

    since: Seq = 0
    from_: Annotated[Seq, Field(alias="from")] = 0
    after: Annotated[int, Field(ge=-1, le=MAX_SEQ)] = -1
    epoch: Annotated[str, Field(max_length=64)] | None = None


class SessionLiveQuery(JobLiveQuery):
    """Where a session's feed begins: as a job's. ``project_id`` when several projects use the name."""

    project_id: Project | None = None


class VerboseQuery(r.Request):
    """``?verbose`` lists every check."""

    verbose: str | None = None


class Next(r.Request):
    """A worker asks its pool for work and waits for it."""

    worker_id: r.Name
    wait_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 30
    lease_ttl_s: Annotated[float, Field(ge=5, le=3_600)] | None = None


class Selection(r.Request):
    """Filters of a bulk action."""

    status: Statuses = Field(default_factory=list)
    project_id: Project | None = None
    role: r.Role | None = None
    model: r.Name | None = None
    q: Search | None = None


class BulkDryRun(r.Request):
    """Which jobs a bulk action would touch, at a sequence. Post the ids back to act."""

    action: Literal["cancel", "retry"]
    filter: Selection = Selection()
    dry_run: Literal[True]


def _is_list(model: type[BaseModel], name: str) -> bool:
    field = next((field for key, field in model.model_fields.items() if name in (key, field.alias)), None)
    if field is None:
        return False
    kinds = [field.annotation, *get_args(field.annotation)]
    return any(get_origin(kind) is list for kind in kinds)


def query(model: type[Q], request: Mapping[str, Any]) -> Q:
    """The query string of a request (or of its scope) as ``model``. Raises ``InvalidRequest``: unknown, repeated or malformed
    parameters."""
    parsed = _parsed if _has_list(model) else _shared
    found: Q = parsed(model, request["query_string"])
    return found


@lru_cache
def _has_list(model: type[BaseModel]) -> bool:
    return any(_is_list(model, name) for name in model.model_fields)


def _parsed(model: type[Any], raw: bytes) -> Any:
    found: dict[str, Any] = {}
    for name, value in QueryParams(raw).multi_items():
        if name in found and not _is_list(model, name):
            raise InvalidRequest("a query parameter was given more than once", field="query")
        if _is_list(model, name):
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return r.parse(model, found)


#: Clients that come back at once ask for the same, and forms are frozen; but a list in one is not.
_shared = lru_cache(64)(_parsed)
