"""``/asyncapi.json`` is valid AsyncAPI 3.0 and says what the streams really send.

The official schema comes from the npm package ``@asyncapi/specs`` 6.11.1 (Apache-2.0)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from starlette.routing import Route, WebSocketRoute

from aura.clock import ManualClock
from aura.events.catalogue import CATALOGUE
from aura.gateway.api import asyncapi
from aura.gateway.app import create_app
from aura.gateway.edge import Edge
from aura.gateway.live import heartbeats
from aura.gateway.live.dialects import native, studio
from aura.gateway.live.dialects.job import START
from aura.gateway.live.dialects.orchestrator import Orchestrator
from aura.gateway.live.fanout.frames import reset_note
from aura.gateway.live.taps import flat_record
from aura.gateway.ports import OutputMessage
from tests.support.gateway import make_world

GOLDEN = Path(__file__).parents[2] / "golden"
JOB = "0199c0de-0000-7000-8000-000000000001"
TS = "2026-11-22T00:00:00.000000Z"
#: Stands for a frame of the log: the orchestrator looks at its flat form only.
_FRAME: Any = object()


@cache
def document() -> dict[str, Any]:
    built: dict[str, Any] = orjson.loads(orjson.dumps(asyncapi.build("1.2.3")))
    return built


def check(message: str, value: object) -> None:
    """``value`` is what the document says of ``message``."""
    payload = document()["components"]["messages"][message]["payload"]
    schema = {**payload, "components": document()["components"]}
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)


def event(name: str) -> dict[str, Any]:
    """The golden event of that type, as clients get it."""
    newest = sorted((GOLDEN / "events").glob(f"{name}.v*.json"))[-1]
    return {"seq": 7, **json.loads(newest.read_text())}


def test_the_document_is_valid() -> None:
    schema = json.loads((GOLDEN / "asyncapi-3.0.0.schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(document())


def test_every_reference_leads_somewhere() -> None:
    def walk(value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name == "$ref":
                    found: Any = document()
                    for part in inner.removeprefix("#/").split("/"):
                        found = found[part]
                else:
                    walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document())


def test_every_stream_is_a_channel_and_every_channel_is_a_stream() -> None:
    edge = create_app(make_world().ctx)
    assert isinstance(edge, Edge)
    routes = edge._app.routes  # type: ignore[attr-defined]
    streams = {route.path for route in routes if isinstance(route, WebSocketRoute) and route.path != "/{path:path}"}
    streams |= {route.path for route in routes if isinstance(route, Route) and route.path.startswith("/sse/")}
    channels = {channel["address"] for channel in document()["channels"].values()}
    assert {address for address in channels if address.startswith("/")} == streams


def test_every_event_of_the_catalogue_is_a_message_of_the_feed() -> None:
    assert set(CATALOGUE) <= set(document()["channels"]["ws-events"]["messages"])


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_events_are_as_described(name: str) -> None:
    check(name, event(name))


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("stream", {"chunk": "text", "final": False}),
        ("log", {"level": "INFO", "line": "a line"}),
        ("progress", {"percent": 12.5, "step": "reading", "agent": "reader", "data": {"rows": 3}}),
        ("progress", {"percent": 100, "step": None}),
    ],
)
def test_records_are_as_described_here_and_in_the_studio(kind: Any, record: dict[str, Any]) -> None:
    flat = flat_record(JOB, 1, OutputMessage(5, 1, kind, ()), {"i": 0, "ts": TS, **record})
    check(f"job.{kind}", flat)
    told = studio.of_record(flat)
    if kind == "stream":
        assert told is None
    else:
        assert told is not None
        check(f"studio.{told['type']}", told)


def test_heartbeats_and_resets_are_as_described() -> None:
    sent = orjson.dumps({"payload": {"status": "ok"}, "slots": 4, "in_flight": [{"job_id": JOB, "attempt": 1}]})
    note = heartbeats.note_of("health.aura.m.w", sent, ManualClock())
    assert note is not None
    check("model.heartbeat", orjson.loads(note.text))
    check("reset", orjson.loads(reset_note("epoch", "why", 3).text))


@pytest.mark.parametrize("name", ["job.created", "job.claimed", "job.stage_changed", "job.completed"])
def test_the_studio_is_as_described(name: str) -> None:
    found = studio.of_event(event(name), "subject-1")
    assert found
    for message in found:
        check(f"studio.{message['type']}", message)


def test_the_orchestrator_is_as_described() -> None:
    teller = Orchestrator("s-1", "sse")
    names = ["session.started", "session.agent_started", "session.agent_completed", "session.agent_failed"]
    told = [_message(bytes(text)) for name in names if (text := teller.tell(_FRAME, event(name), START))]
    told.append(_message(teller.heartbeat(TS)))
    teller.tell(_FRAME, event("session.completed"), START)
    told.append(_message(teller.complete({"forecast": [1, 2]}, START)))
    assert {message["type"] for message in told} == {"agent_status", "error", "heartbeat", "complete"}
    for message in told:
        check(f"orchestrator.{message['type']}", message)


def _message(sse: bytes) -> Any:
    (line,) = [line for line in sse.decode().splitlines() if line.startswith("data: ")]
    return json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("welcome", native.welcome("epoch", 5)),
        ("subscribed", native.subscribed("s1", 5, recovered=True)),
        ("reset", native.reset("s1", "epoch", "why", 5)),
        ("live", native.marker("live", "s1", 5)),
        ("replayed", native.marker("replayed", "s1", 5)),
        ("unsubscribed", native.marker("unsubscribed", "s1", 5)),
        ("pong", native.PONG),
        ("error", native.error(None, "invalid_request", "why")),
        ("frame", b'{"seq":7,"subject":"aura.job.1.x.created","event":{}}'),
    ],
)
def test_what_aura_v1_says_is_as_described(name: str, said: bytes) -> None:
    check(f"aura.v1.{name}", orjson.loads(said))


@pytest.mark.parametrize(
    "op",
    [
        {"op": "subscribe", "id": "s1", "subject": "aura.job.1.>", "from": "now"},
        {"op": "subscribe", "id": "s1", "subject": "aura.job.1.>", "from": {"seq": 7}},
        {"op": "unsubscribe", "id": "s1"},
        {"op": "replay", "id": "r", "subject": "aura.>", "from": {"seq": 1}, "to": {"seq": 9}, "speed": 10},
        {"op": "auth", "ticket": "t"},
        {"op": "ping"},
    ],
)
def test_what_a_client_may_say_is_as_described(op: dict[str, Any]) -> None:
    assert not isinstance(native.parse(json.dumps(op))[0], native.Refusal)
    check(f"aura.v1.ask.{op['op']}", op)


def test_the_check_itself_refuses() -> None:
    with pytest.raises(jsonschema.ValidationError):
        check("aura.v1.welcome", {"op": "welcome", "epoch": 5})
