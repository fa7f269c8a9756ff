"""JSON Schema (2020-12) of the stored form of every event: the contract for readers in other languages."""

from __future__ import annotations

from typing import Any

from aura.events.catalogue import CATALOGUE, Event

_STRING = {"type": "string"}
_COMMON: dict[str, dict[str, Any]] = {
    "id": {"type": "string", "format": "uuid", "description": "UUIDv7; also the Nats-Msg-Id"},
    "type": _STRING,
    "v": {"type": "integer", "minimum": 1},
    "ts": {"type": "string", "format": "date-time"},
    "actor": _STRING,
    "correlation_id": _STRING,
    "causation_id": _STRING,
}
_IDS: dict[str, dict[str, dict[str, Any]]] = {
    "job": {"project_id": {"type": "integer"}, "job_id": {"type": "string", "format": "uuid"}},
    "archive": {"project_id": {"type": "integer"}, "job_id": {"type": "string", "format": "uuid"}},
    "model": {"model": _STRING},
    "session": {"project_id": {"type": "integer"}, "session_id": _STRING},
    "system": {},
}


def event_schema(event: type[Event]) -> dict[str, Any]:
    """The flat object of one event type: common fields, entity ids, own fields, ``state``."""
    own = event.model_json_schema(mode="serialization", by_alias=True, ref_template=f"#/$defs/{event.TYPE}.{{model}}")
    kind = event.TYPE.partition(".")[0]
    properties: dict[str, Any] = {
        **_COMMON,
        "type": {"const": event.TYPE},
        "v": {"const": event.V},
        **_IDS[kind],
        **own.get("properties", {}),
    }
    if kind != "system":
        properties["state"] = {"type": "object", "description": "the decider state the event led to"}
    nullable_absent = [name for name, field in event.model_fields.items() if field.is_required()]
    aliases = {name: field.serialization_alias or name for name, field in event.model_fields.items()}
    required = [*_COMMON, *_IDS[kind], *(aliases[name] for name in nullable_absent)]
    return {
        "title": event.TYPE,
        "description": (event.__doc__ or "").strip(),
        "type": "object",
        "properties": properties,
        "required": required,
    }


def catalogue_schema() -> dict[str, Any]:
    """One document for the whole catalogue, discriminated by ``type``."""
    definitions: dict[str, Any] = {}
    for name, event in CATALOGUE.items():
        own = event.model_json_schema(mode="serialization", ref_template=f"#/$defs/{name}.{{model}}")
        definitions.update({f"{name}.{model}": body for model, body in own.get("$defs", {}).items()})
        definitions[name] = event_schema(event)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:aura:events",
        "title": "Aura Orchestra events",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in CATALOGUE],
        "$defs": definitions,
    }
