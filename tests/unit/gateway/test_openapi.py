"""``/openapi.json`` is valid OpenAPI 3.1 and describes exactly the routes that exist."""

from __future__ import annotations

from typing import Any

import orjson
from openapi_spec_validator import validate
from starlette.routing import Route, WebSocketRoute

from aura.gateway.api.openapi import STREAMS, build
from aura.gateway.api.routes import ENDPOINTS
from aura.gateway.app import create_app
from aura.gateway.edge import Edge
from tests.support.gateway import make_world

#: Routes that are not an API: the page and the API's own description.
UNDOCUMENTED = {"/", "/page/app.js", "/page/style.css", "/favicon.ico", "/openapi.json", "/asyncapi.json"}
#: API.md's paths that belong to this gateway.
PROMISED = """
GET /health|GET /livez|GET /ready|GET /readyz|GET /version|GET /metrics|GET /stats|GET /events|GET /projections
POST /prds|GET /prds|GET /prds/{root_job_id}|GET /jobs|GET /jobs/{job_id}|GET /jobs/{job_id}/events|GET /jobs/{job_id}/output
GET /jobs/{job_id}/logs|GET /jobs/{job_id}/explain|POST /jobs/{job_id}/assign|POST /jobs/{job_id}/claim
POST /models/{name}/next|POST /jobs/{job_id}/heartbeat|POST /jobs/{job_id}/stream|POST /jobs/{job_id}/log
POST /jobs/{job_id}/progress|POST /jobs/{job_id}/stage|POST /jobs/{job_id}/complete|POST /jobs/{job_id}/fail
POST /jobs/{job_id}/cancel|POST /jobs/{job_id}/retry|POST /jobs/{job_id}/accept|POST /jobs/{job_id}/reject|POST /jobs/bulk
POST /models/{name}/heartbeat|GET /models/health|GET /models/{name}/health|GET /archives|GET /archives/{job_id}
POST /archives/{job_id}/purge|GET /projects/{project_id}/subjects|GET /sse/events|GET /sse/job/{job_id}
"""


def document() -> dict[str, Any]:
    built: dict[str, Any] = orjson.loads(orjson.dumps(build(ENDPOINTS, "1.2.3")))
    return built


def documented() -> set[str]:
    return {f"{method.upper()} {path}" for path, methods in document()["paths"].items() for method in methods}


def test_the_document_is_valid() -> None:
    validate(document())


def test_every_route_is_documented_and_every_document_entry_is_a_route() -> None:
    edge = create_app(make_world().ctx)
    assert isinstance(edge, Edge)
    routes = {
        f"{method} {route.path}"
        for route in edge._app.routes  # type: ignore[attr-defined]
        if isinstance(route, Route) and route.path not in UNDOCUMENTED
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes == documented()
    sockets = {route.path for route in edge._app.routes if isinstance(route, WebSocketRoute)}  # type: ignore[attr-defined]
    assert {"/ws/events", "/ws/job/{job_id}"} <= sockets


def test_everything_that_is_promised_is_there() -> None:
    promised = {entry.strip() for line in PROMISED.split("\n") for entry in line.split("|") if entry.strip()}
    assert promised <= documented()


def test_names_are_unique_and_every_command_says_its_body() -> None:
    names = [endpoint.name for endpoint in ENDPOINTS] + [name for _, name, _, _ in STREAMS]
    assert len(names) == len(set(names))
    for endpoint in ENDPOINTS:
        assert (endpoint.body is not None) == (endpoint.method == "POST")


def test_every_operation_of_the_command_service_is_reachable_over_http() -> None:
    world = make_world()
    reachable = {
        endpoint.name.removesuffix("_job").removesuffix("_prd").removesuffix("_archive") for endpoint in ENDPOINTS
    }
    assert set(world.commands.operations) <= reachable
