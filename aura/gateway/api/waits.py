"""Requests that wait long: they end when their answer is there, the client has hung up, the gateway stops, or the credentials they came
with are over (revoked or expired while they waited: 401, and no answer, G13)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from starlette.requests import Request

from aura.errors import AuraError, Unauthenticated
from aura.gateway.access.principal import Principal
from aura.gateway.context import Gateway

log = structlog.get_logger("aura.gateway")
Answer = TypeVar("Answer")


async def waited(
    gateway: Gateway,
    request: Request,
    work: Awaitable[Answer],
    undo: Callable[[Answer], Awaitable[None]] | None = None,
) -> tuple[bool, Answer | None]:
    """``(True, the answer)``, or ``(False, None)`` when the client is gone or the gateway stops: then ``work`` is cancelled.

    Raises what ``work`` raises, and ``Unauthenticated`` when the credentials end first. An answer that had arrived in that very moment is
    handed to ``undo``.
    """
    principal: Principal = request.scope["aura.principal"]
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(_code: int, _reason: str) -> None:
        if not over.done():
            over.set_result(None)

    answer = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    closing = asyncio.ensure_future(gateway.hub.closing.wait())
    unwatch = gateway.access.watch(principal, end)
    ends: set[asyncio.Future[Any]] = {answer, gone, closing, over}
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if over.done():
            if undo is not None and answer.done() and not answer.cancelled() and answer.exception() is None:
                try:
                    await undo(answer.result())
                except AuraError as error:
                    log.warning("wait.not_undone", code=error.code, detail=error.detail)
            raise Unauthenticated("these credentials ended while the request waited")
        return (True, answer.result()) if answer.done() else (False, None)
    finally:
        unwatch()
        for one in ends:
            one.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
