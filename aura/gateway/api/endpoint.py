"""One row of the route table: what builds the route, its documentation, and its test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from aura.gateway.access.matrix import check_action
from aura.gateway.api.forms import NoQuery
from aura.gateway.context import Gateway

Handler = Callable[[Gateway, Request], Awaitable[Response]]
Kind = Literal["command", "read", "wait", "free"]
Repeat = Literal["none", "kept", "again", "checked"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One documented answer. ``shape`` is a pydantic model or a JSON Schema; ``media`` its media types."""

    status: int
    description: str
    shape: type[BaseModel] | dict[str, Any] | None = None
    media: tuple[str, ...] = ("application/json",)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``path`` in Starlette's notation. ``action``: what one must be allowed to (``access/matrix.toml``). ``kind`` names the gate that
    bounds its concurrency. ``body`` is the
    request's shape; with ``text_field`` a bare JSON string, or query parameters, mean that field. ``repeat``: what becomes of a
    keyed repeat besides what the log knows of it (``repeats.py``); ``"none"`` also where the answer holds content or a secret."""

    method: Literal["GET", "POST"]
    path: str
    name: str
    handler: Handler
    summary: str
    tag: str
    answers: tuple[Answer, ...]
    action: str
    kind: Kind = "read"
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | tuple[type[BaseModel], ...] | None = None
    text_field: str | None = None
    headers: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    repeat: Repeat = "none"

    def __post_init__(self) -> None:
        check_action(self.action)
