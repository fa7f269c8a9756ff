"""``/openapi.json`` (OpenAPI 3.1), built from the route table and from the models that validate requests: it cannot
drift."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from aura.gateway.access.matrix import PUBLIC
from aura.gateway.api import answers, problems
from aura.gateway.api.endpoint import Answer, Endpoint
from aura.gateway.api.forms import JobLiveQuery, LiveQuery, NoQuery, SessionLiveQuery

_PARAM = re.compile(r"\{(\w+)\}")
_REF = "#/components/schemas/{model}"
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_UUID = {"type": "string", "format": "uuid"}
_PATH_PARAMS: dict[str, dict[str, Any]] = {
    "job_id": _UUID,
    "root_job_id": _UUID,
    "session_id": _NAME,
    "name": _NAME,
    "project_id": {"type": "integer", "minimum": 1},
    "key_id": {"type": "string", "pattern": "^[a-z2-7]{16}$"},
}
_EVERYWHERE = (421, 422, 429, 500, 503)
_POSTED = (403, 408, 413, 415)
_ERROR_TEXT = {
    401: "Who asks is not known (modes keys and oidc)",
    403: "Not allowed",
    404: "No such thing",
    406: "None of the media types asked for",
    408: "The body came too slowly",
    409: "Not in this state",
    413: "Body over 1 MiB",
    415: "Not JSON",
    421: "Unknown Host",
    422: "Malformed or out of bounds",
    429: "Too much at once; see Retry-After",
    500: "A bug",
    503: "Something we depend on does not answer; see Retry-After",
}

#: In mode ``open`` nobody is asked for anything.
_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key (aura_…) or an OpenID Connect access token",
    }
}

#: The event streams, which are not in the route table because they never end.
STREAMS: tuple[tuple[str, str, type[BaseModel], str], ...] = (
    ("/sse/events", "follow_events", LiveQuery, "Every event as it is committed (server-sent events)"),
    ("/sse/job/{job_id}", "follow_job", JobLiveQuery, "One job's events and output (server-sent events)"),
    (
        "/sse/orchestrator/{session_id}",
        "follow_session",
        SessionLiveQuery,
        "An agent workflow, step by step (server-sent events)",
    ),
    ("/sse/studio", "follow_studio", NoQuery, "What changes in all jobs, for a monitoring studio (server-sent events)"),
)


def _models(endpoints: Iterable[Endpoint]) -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = dict.fromkeys((answers.Problem, *(asked for _, _, asked, _ in STREAMS)))
    for endpoint in endpoints:
        bodies = endpoint.body if isinstance(endpoint.body, tuple) else (endpoint.body,)
        found.update((body, None) for body in bodies if body is not None)
        found[endpoint.query] = None
        for answer in endpoint.answers:
            shape = answer.shape.get("x-model") if isinstance(answer.shape, dict) else answer.shape
            if shape is not None:
                found[shape] = None
    return list(found)


def _parameters(path: str, query_schema: dict[str, Any], headers: Iterable[str]) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMS[name]} for name in _PARAM.findall(path)
    ]
    required = query_schema.get("required", [])
    for name, schema in query_schema.get("properties", {}).items():
        found.append({"name": name, "in": "query", "required": name in required, "schema": schema})
    found += [{"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in headers]
    return found


def _content(answer: Answer) -> dict[str, Any]:
    schema: dict[str, Any]
    if answer.shape is None:
        return {}
    if isinstance(answer.shape, dict):
        schema = {key: value for key, value in answer.shape.items() if key != "x-model"}
    else:
        schema = {"$ref": _REF.format(model=answer.shape.__name__)}
    text = {"type": "string"}
    return {media: {"schema": schema if media.endswith("json") else text} for media in answer.media}


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for answer in endpoint.answers:
        entry = found.setdefault(str(answer.status), {"description": answer.description})
        if content := _content(answer):
            entry.setdefault("content", {}).update(content)
    asked = () if endpoint.action in PUBLIC else (401, 403)
    for status in sorted({*_EVERYWHERE, *asked, *endpoint.errors, *(_POSTED if endpoint.method == "POST" else ())}):
        found.setdefault(
            str(status),
            {
                "description": _ERROR_TEXT[status],
                "content": {problems.MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
            },
        )
    return found


_COMPOUND = {"array", "object"}


def _request_body(endpoint: Endpoint) -> dict[str, Any]:
    bodies = endpoint.body if isinstance(endpoint.body, tuple) else (endpoint.body,)
    shapes: list[dict[str, Any]] = [{"$ref": _REF.format(model=body.__name__)} for body in bodies if body is not None]
    if endpoint.text_field is not None:
        shapes.append({"type": "string", "description": endpoint.text_field})
    return {
        "required": False,
        "content": {"application/json": {"schema": shapes[0] if len(shapes) == 1 else {"anyOf": shapes}}},
    }


def _arguments(endpoint: Endpoint, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """The body's fields as query parameters, but for those that are lists or objects."""
    bodies = endpoint.body if isinstance(endpoint.body, tuple) else (endpoint.body,)
    fields: dict[str, Any] = {}
    for body in bodies:
        fields |= schemas[body.__name__].get("properties", {}) if body is not None else {}
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in fields.items()
        if not _COMPOUND & {part.get("type") for part in (schema, *schema.get("anyOf", ()))} and "$ref" not in schema
    ]


def _operation(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    headers = list(endpoint.headers)
    if endpoint.method == "POST":
        headers += ["idempotency-key", "traceparent"]
    query = schemas[endpoint.query.__name__]
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": _parameters(endpoint.path, query, headers),
        "responses": _responses(endpoint),
        "x-aura-action": endpoint.action,
    }
    if endpoint.action in PUBLIC:
        operation["security"] = []
    if endpoint.text_field is not None:
        operation["parameters"] += _arguments(endpoint, schemas)
    if endpoint.body is not None:
        operation["requestBody"] = _request_body(endpoint)
    return operation


def _stream(name: str, path: str, query: dict[str, Any], summary: str) -> dict[str, Any]:
    events = {"description": "Events until one side leaves", "content": {"text/event-stream": {"schema": answers.TEXT}}}
    problem = {"content": {problems.MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["live"],
        "parameters": _parameters(path, query, ("last-event-id", "x-aura-ticket")),
        "x-aura-action": "log.follow",
        "responses": {
            "200": events,
            **{
                str(status): {"description": _ERROR_TEXT[status], **problem}
                for status in (401, 403, 404, 421, 422, 429, 500, 503)
            },
        },
    }


def build(endpoints: tuple[Endpoint, ...], version: str) -> dict[str, Any]:
    """The document."""
    _, definitions = models_json_schema([(model, "validation") for model in _models(endpoints)], ref_template=_REF)
    schemas: dict[str, Any] = definitions["$defs"]
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    for path, name, query, summary in STREAMS:
        paths[path] = {"get": _stream(name, path, schemas[query.__name__], summary)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Aura Orchestra",
            "version": version,
            "summary": "An event-sourced control room for AI jobs",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _SCHEMES},
        "security": [{"bearer": []}, {}],
    }
