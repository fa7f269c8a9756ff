"""Poison is recognised as a value, never by an exception (G17); every catalogue type is read (G18)."""

from __future__ import annotations

import orjson
import pytest

from aura.events.catalogue import CATALOGUE
from aura.log.store import Recorded
from aura.projections.decoding import decode, decode_heartbeat

JOB = "00000000-0000-7000-8000-000000000001"


def recorded(subject: str, body: object) -> Recorded:
    return Recorded(5, subject, 10, body if isinstance(body, bytes) else orjson.dumps(body))


def created(**changed: object) -> dict[str, object]:
    return {
        "type": "job.created",
        "v": 1,
        "ts": "2026-01-01T00:00:00.000000Z",
        "actor": "anonymous",
        "state": {"v": 1},
    } | changed


def test_a_good_event_has_no_poison() -> None:
    event = decode(recorded(f"aura.job.3.{JOB}.created", created()))
    assert (event.poison, event.kind, event.entity, event.project, event.type) == (None, "job", JOB, 3, "job.created")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"rubbish", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": NaN}', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (created(type="job.exploded"), "unknown event type"),
        (created(v=99), "version"),
        (created(v="1"), "version"),
        (created(v=True), "version"),
        (created(ts=None), "no time"),
        (created(actor=7), "no time or no actor"),
        (created(state=None), "carried state"),
        (created(state={"v": 2}), "carried state"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested too deeply"),
        (b"[" * 1_010 + b"]" * 1_010, "nested too deeply"),
        (b"[" * 15_000 + b"]" * 15_000, "nested too deeply"),
        (orjson.dumps(created()).replace(b'"v":1}', b'"v":1,"lease_ttl_s":1e999}'), "not JSON"),
        (orjson.dumps(created(title="?")).replace(b"?", b"1\\ud800"), "not JSON"),
        (orjson.dumps(created(x="?")).replace(b"?", b"\\u0000"), "NUL"),
    ],
)
def test_g17_what_cannot_be_read_is_poison_of_its_own_entity(body: object, why: str) -> None:
    event = decode(recorded(f"aura.job.3.{JOB}.created", body))
    assert event.poison is not None
    assert why in event.poison
    assert (event.kind, event.entity) == ("job", JOB)


def test_what_only_looks_odd_is_as_it_was() -> None:
    for text in ("1e999", "12345678901234567890", "\\u0000", '"[{' * 100, "\U0001f600"):
        body = created(title=text)
        event = decode(recorded(f"aura.job.3.{JOB}.created", body))
        assert event.poison is None
        assert event.flat == body


def test_g17_a_poison_system_event_keeps_only_its_own_type_aside() -> None:
    event = decode(recorded("aura.system.alert_raised", b"?"))
    assert (event.kind, event.entity) == ("system", "system.alert_raised")


def test_g17_an_unknown_subject_is_poison() -> None:
    assert decode(recorded("aura.job.x", b"{}")).poison is not None


def test_g18_every_type_of_the_catalogue_is_known_to_the_hot_path() -> None:
    for type_, model in CATALOGUE.items():
        kind, _, name = type_.partition(".")
        subject = {
            "job": f"aura.job.1.{JOB}.{name}" + (".m" if name == "assigned" else ""),
            "archive": f"aura.job.1.{JOB}.archive.{name}",
            "model": f"aura.model.m.{name}",
            "session": f"aura.session.1.s.{name}",
            "system": f"aura.system.{name}",
        }[kind]
        assert decode(recorded(subject, created(type=type_, v=model.V))).poison is None, type_


def test_heartbeats() -> None:
    body = {"type": "model.heartbeat", "ts": "2026-01-01T00:00:00.000000Z", "payload": {"status": "ok"}}
    assert decode_heartbeat(recorded("health.aura.m.w", body)).entity == "m/w"
    assert decode_heartbeat(recorded("health.aura.m.w", body)).poison is None
    assert decode_heartbeat(recorded("health.aura.m.w", body | {"payload": 3})).poison is not None
    assert decode_heartbeat(recorded("health.aura.m", body)).poison is not None
