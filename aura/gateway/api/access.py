"""Keys, tickets, and who one is: ``/auth/…``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from aura.clock import rfc3339
from aura.domain.access_key import check_key_id
from aura.gateway.access.principal import Principal
from aura.gateway.api.commands import arguments, caller_of, json, principal_of
from aura.gateway.context import Gateway
from aura.log.topology import TICKET_S


def _described(principal: Principal) -> dict[str, object]:
    return {
        "actor": principal.actor,
        "roles": sorted(principal.roles),
        "projects": sorted(principal.projects) if principal.projects is not None else None,
        "key_id": principal.key_id,
        "actions": principal.actions(),
    }


async def me(gateway: Gateway, request: Request) -> Response:
    """``GET /auth/me``."""
    principal = principal_of(request)
    expires = None
    if principal.expires_at is not None:
        now = gateway.ctx.clock.now()
        expires = rfc3339(now.fromtimestamp(principal.expires_at, now.tzinfo))
    return json({**_described(principal), "modes": sorted(gateway.access.modes), "expires_at": expires})


async def ticket(gateway: Gateway, request: Request) -> Response:
    """``POST /auth/tickets``: good for one live connection, soon."""
    await arguments(gateway, request)
    return json({"ticket": await gateway.access.ticket(principal_of(request)), "expires_in_s": TICKET_S}, 201)


async def keys(gateway: Gateway, request: Request) -> Response:
    """``GET /auth/keys``."""
    found = await gateway.ctx.commands.call("list_keys", {}, caller_of(gateway, request))
    return json(found["keys"])


async def issue(gateway: Gateway, request: Request) -> Response:
    """``POST /auth/keys``: shows the key, this once. It works here when the answer leaves."""
    params = await arguments(gateway, request)
    answer = await gateway.ctx.commands.call("issue_key", params, caller_of(gateway, request))
    await gateway.access.key_reached(answer["key_id"], answer["seq"])
    return json(answer, 201)


async def revoke(gateway: Gateway, request: Request) -> Response:
    """``POST /auth/keys/{key_id}/revoke``: opens nothing here any more when the answer leaves."""
    params = await arguments(gateway, request)
    params["key_id"] = check_key_id(request.path_params["key_id"])
    answer = await gateway.ctx.commands.call("revoke_key", params, caller_of(gateway, request))
    await gateway.access.key_reached(answer["key_id"], answer["seq"])
    return json(answer)
