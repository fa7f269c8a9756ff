"""Health, readiness, version, metrics, and the API's own description."""

from __future__ import annotations

import asyncio

import structlog
from starlette.requests import Request
from starlette.responses import Response

from aura.errors import AuraError
from aura.gateway.api.commands import json, principal_of
from aura.gateway.api.forms import VerboseQuery, query
from aura.gateway.context import Gateway
from aura.gateway.metrics import CONTENT_TYPE

log = structlog.get_logger("aura.gateway")

#: A check that takes longer has failed.
CHECK_TIMEOUT_S = 2.0


async def health(_gateway: Gateway, _request: Request) -> Response:
    """``GET /health`` and ``/livez``: this process answers."""
    return json({"status": "ok"})


async def _log(gateway: Gateway) -> str | None:
    await gateway.ctx.store.identity()
    return None


async def _hub(gateway: Gateway) -> str | None:
    return gateway.hub.failure


async def _read_models(gateway: Gateway) -> str | None:
    await gateway.ctx.queries.projections_status()
    return None


async def failures(gateway: Gateway) -> dict[str, str]:
    """Every check by name: ``ok``, or what is wrong."""
    checks = {
        "log": lambda: _log(gateway),
        "hub": lambda: _hub(gateway),
        "read_models": lambda: _read_models(gateway),
        **gateway.ctx.checks,
    }

    async def run(name: str) -> str:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await checks[name]() or "ok"
        except TimeoutError:
            return "does not answer"
        except AuraError as error:
            return error.detail or error.code
        except Exception as error:  # noqa: BLE001 - whatever a dependency raises means "not ready"
            log.warning("ready.check_failed", check=name, error=type(error).__name__)
            return "failed"

    return dict(zip(checks, await asyncio.gather(*(run(name) for name in checks)), strict=True))


async def ready(gateway: Gateway, request: Request) -> Response:
    """``GET /ready`` and ``/readyz``: 503 names what is not."""
    verbose = query(VerboseQuery, request).verbose is not None
    found = await failures(gateway)
    broken = {name: state for name, state in found.items() if state != "ok"}
    answer: dict[str, object] = {"ready": not broken}
    if broken or verbose:
        answer["checks"] = found if verbose else broken
    return json(answer, 503 if broken else 200, {"retry-after": "1"} if broken else None)


async def version(gateway: Gateway, _request: Request) -> Response:
    """``GET /version``."""
    return json({"version": gateway.ctx.version, "epoch": gateway.hub.epoch})


async def metrics(gateway: Gateway, request: Request) -> Response:
    """``GET /metrics``: what this process counted, and what the read models say of all projects to whoever may know."""
    state = await gateway.state_metrics.exposition() if principal_of(request).projects is None else b""
    return Response(gateway.ctx.metrics.exposition() + state, headers={"content-type": CONTENT_TYPE})
