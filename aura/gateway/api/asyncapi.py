"""``/asyncapi.json`` (AsyncAPI 3.0): everything that streams, over WebSocket, server-sent events and NATS.

Events come from the catalogue, what clients may say on ``aura.v1`` from the types that parse it, queries from the models that validate
them; the rest is in ``asyncapi_shapes.py`` and held against the dialects by a test. So the document cannot drift.

``send`` is what the gateway sends, ``receive`` what it is sent (AsyncAPI 3.0, Operation Object: from the application's side).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from aura.events.catalogue import CATALOGUE
from aura.events.schema import catalogue_schema
from aura.gateway.api import asyncapi_shapes as shapes
from aura.gateway.api.forms import JobLiveQuery, LiveQuery, NoQuery, SessionLiveQuery
from aura.gateway.live.dialects import native

_SCHEMAS = "#/components/schemas/"
_MESSAGES = "#/components/messages/"
_PARAM = re.compile(r"\{(\w+)\}")
_PARAMETERS = {
    "job_id": "The job's UUID",
    "session_id": "The session's id, 1 to 64 of A-Z a-z 0-9 _ -",
    "project": "The project's number",
    "model": "The model's name",
    "event": "The event's name",
    "attempt": "The attempt's number",
    "kind": "stream, log or progress",
    "worker": "The worker's id",
}

_ALL = tuple(CATALOGUE)


def _events(*kinds: str) -> tuple[str, ...]:
    return tuple(name for name in _ALL if name.partition(".")[0] in kinds)


_JOB = (*_events("job", "archive"), *shapes.RECORDS, "reset")
_FEED = (*_ALL, *shapes.HEARTBEATS, "job.log", "reset")
_TOLD = (*(f"orchestrator.{name}" for name in shapes.ORCHESTRATOR), "reset")
_STUDIO = tuple(f"studio.{name}" for name in shapes.STUDIO)
_NATIVE = ("aura.v1.frame", *(f"aura.v1.{name}" for name in shapes.NATIVE))
_OPS = ("subscribe", "unsubscribe", "replay", "auth", "ping")

#: What streams from the gateway: (name, path under ``/ws`` and ``/sse``, query, messages, about).
LIVE: tuple[tuple[str, str, type[BaseModel], tuple[str, ...], str], ...] = (
    ("events", "/events", LiveQuery, _FEED, "Every event as it is committed"),
    ("job", "/job/{job_id}", JobLiveQuery, _JOB, "One job's events and output"),
    ("orchestrator", "/orchestrator/{session_id}", SessionLiveQuery, _TOLD, "An agent workflow, step by step"),
    ("studio", "", NoQuery, _STUDIO, "What changes in all jobs, for a monitoring studio"),
)
#: Where the studio's server-sent events are; its socket is ``/ws`` itself.
_SSE_STUDIO = "/sse/studio"
#: Subjects in NATS: (name, address, messages, about).
NATS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("job-events", "aura.job.{project}.{job_id}.{event}", _events("job", "archive"), "Committed events of jobs"),
    ("model-events", "aura.model.{model}.{event}", _events("model"), "Committed events of models"),
    (
        "session-events",
        "aura.session.{project}.{session_id}.{event}",
        _events("session"),
        "Committed events of sessions",
    ),
    ("system-events", "aura.system.{event}", _events("system"), "Committed events of the system"),
    ("heartbeats", "health.aura.{model}.{worker}", tuple(shapes.HEARTBEATS), "Workers' heartbeats"),
)


def _rewritten(value: Any) -> Any:
    """References into ``$defs`` become references into the components."""
    if isinstance(value, dict):
        return {
            name: inner.replace("#/$defs/", _SCHEMAS) if name == "$ref" else _rewritten(inner)
            for name, inner in value.items()
        }
    return [_rewritten(inner) for inner in value] if isinstance(value, list) else value


def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = dict(_rewritten(catalogue_schema()["$defs"]))
    found |= shapes.RECORDS | shapes.HEARTBEATS | {"reset": shapes.RESET}
    found |= {f"orchestrator.{name}": schema for name, schema in shapes.ORCHESTRATOR.items()}
    found |= {f"studio.{name}": schema for name, schema in shapes.STUDIO.items()}
    found |= {"aura.v1.frame": shapes.FRAME} | {f"aura.v1.{name}": schema for name, schema in shapes.NATIVE.items()}
    _, ops = msgspec.json.schema_components([native.Op], ref_template=_SCHEMAS + "{name}")
    return found | ops


def _op_schema(op: str) -> str:
    return op.capitalize()


def _queries() -> dict[type[BaseModel], dict[str, Any]]:
    models = list(dict.fromkeys(asked for _, _, asked, _, _ in LIVE))
    _, document = models_json_schema([(model, "validation") for model in models], ref_template="{model}")
    return {model: _rewritten(document["$defs"][model.__name__]) for model in models}


def _messages() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (*_FEED, *_JOB, *_TOLD, *_STUDIO, *_NATIVE):
        payload: dict[str, Any] = {"$ref": _SCHEMAS + name}
        if name in CATALOGUE:
            payload = {"allOf": [payload, {"type": "object", "properties": {"seq": {"type": "integer", "minimum": 1}}}]}
        found[name] = {"name": name, "contentType": "application/json", "payload": payload}
    for op in _OPS:
        found[f"aura.v1.ask.{op}"] = {
            "name": op,
            "contentType": "application/json",
            "payload": {"$ref": _SCHEMAS + _op_schema(op)},
        }
    return found


def _channel(address: str, server: str, messages: Iterable[str], about: str, **more: Any) -> dict[str, Any]:
    parameters = {name: {"description": _PARAMETERS[name]} for name in _PARAM.findall(address)}
    return {
        "address": address,
        "description": about,
        "servers": [{"$ref": f"#/servers/{server}"}],
        "messages": {name: {"$ref": _MESSAGES + name} for name in messages},
        **({"parameters": parameters} if parameters else {}),
        **more,
    }


def _query_binding(schema: dict[str, Any]) -> dict[str, Any]:
    return {"bindings": {"ws": {"query": schema}}} if schema.get("properties") else {}


def _channels() -> dict[str, Any]:
    queries = _queries()
    found: dict[str, Any] = {}
    for name, path, asked, messages, about in LIVE:
        found[f"ws-{name}"] = _channel(f"/ws{path}", "gateway", messages, about, **_query_binding(queries[asked]))
        found[f"sse-{name}"] = _channel(f"/sse{path}" if path else _SSE_STUDIO, "gateway-sse", messages, about)
    asks = tuple(f"aura.v1.ask.{op}" for op in _OPS)
    found["ws-native"] = _channel(
        "/ws",
        "gateway",
        (*_NATIVE, *asks),
        "Subprotocol aura.v1: subscriptions by subject with resume and replay. One message is one object or an array of them",
    )
    for name, address, messages, about in NATS:
        found[f"nats-{name}"] = _channel(address, "nats", messages, about)
    return found


def _operations(channels: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, channel in channels.items():
        asks = [message for message in channel["messages"] if message.startswith("aura.v1.ask.")]
        sends = [message for message in channel["messages"] if message not in asks]
        for action, messages in (("send", sends), ("receive", asks)):
            if messages:
                found[f"{action}-{name}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{name}"},
                    "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in messages],
                }
    return found


def build(version: str) -> dict[str, Any]:
    """The document."""
    channels = _channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Aura Orchestra, live",
            "version": version,
            "description": "Every lifecycle event in the order of the log, with resume by sequence: no gap, no duplicate.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {"host": "127.0.0.1:8000", "protocol": "ws", "description": "The gateway's WebSockets"},
            "gateway-sse": {"host": "127.0.0.1:8000", "protocol": "http", "description": "Server-sent events"},
            "nats": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "The log's republished subjects"},
        },
        "channels": channels,
        "operations": _operations(channels),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }
