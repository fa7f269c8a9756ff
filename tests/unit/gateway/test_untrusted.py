"""What workers send reaches clients only field by field: nobody can forge an event, its identity, or the framing (G11)."""

from __future__ import annotations

import orjson
import pytest

from aura.clock import ManualClock
from aura.gateway.live.fanout.frames import Frame, Note, event_json, sse_event
from aura.gateway.live.heartbeats import MAX_BYTES, note_of
from aura.gateway.live.taps import flat_record
from aura.gateway.ports import OutputMessage
from aura.log.store import Recorded

JOB = "0199c0de-0000-7000-8000-000000000000"
SUBJECT = "health.aura.m.w"


def shown(**sent: object) -> dict[str, object]:
    note = note_of(SUBJECT, orjson.dumps(sent), ManualClock())
    assert note is not None
    found: dict[str, object] = orjson.loads(note.text)
    return found


def test_a_heartbeat_is_rebuilt_from_what_it_may_say_and_from_its_subject() -> None:
    lease = {"job_id": JOB, "attempt": 2}
    found = shown(
        type="job.completed", seq=9, job_id=JOB, model="other", worker_id="root", payload={"mem_mb": 1}, slots=2,
        interval_s=0.5, in_flight=[lease | {"status": "COMPLETED"}, {"job_id": "../x", "attempt": 1}, 7], ts="2026-01-01T00:00:00Z",
    )  # fmt: skip
    assert found == {
        "type": "model.heartbeat", "model": "m", "worker_id": "w", "payload": {"mem_mb": 1}, "slots": 2, "interval_s": 0.5,
        "in_flight": [lease], "ts": "2026-01-01T00:00:00Z",
    }  # fmt: skip


@pytest.mark.parametrize("field", ["payload", "slots", "interval_s", "in_flight", "ts"])
@pytest.mark.parametrize("value", [None, True, "x\r\n", -1, 1e300, [[]], {"a": 1}])
def test_a_field_of_the_wrong_kind_says_nothing(field: str, value: object) -> None:
    found = shown(**{field: value})
    assert found["type"] == "model.heartbeat"
    default = shown()
    default["payload"] = {"a": 1} if (field, value) == ("payload", {"a": 1}) else {}
    assert found == default


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"null", b'{"a":"\xff"}', b'{"payload":NaN}', b'{"payload":"' + b"x" * MAX_BYTES + b'"}',
     b'{"payload":' + b'{"a":' * 400 + b"1" + b"}" * 401],
)  # fmt: skip
def test_what_is_no_heartbeat_is_dropped(body: bytes) -> None:
    assert note_of(SUBJECT, body, ManualClock()) is None


@pytest.mark.parametrize("subject", ["health.aura.m", "health.aura.m.w.x", "health.aura.m.w%0a", "health.aura..w"])
def test_a_heartbeat_of_nobody_is_dropped(subject: str) -> None:
    assert note_of(subject, b"{}", ManualClock()) is None


def test_an_output_record_cannot_say_whose_it_is() -> None:
    forged = {
        "i": 0,
        "ts": "t",
        "type": "job.completed",
        "job_id": "ANOTHER",
        "seq": 5,
        "project_id": 2,
        "attempt": 9,
        "cursor": 1,
    }
    for kind, own in (
        ("log", {"level": "INFO", "line": "x"}), ("stream", {"chunk": "x", "final": True}), ("progress", {"percent": 1.5, "step": ""}),
    ):  # fmt: skip
        other = {"chunk": "y", "line": "y", "percent": 2} if kind != "stream" else {"line": "y"}
        message = OutputMessage(7, 1, kind, [])  # type: ignore[arg-type]
        found = flat_record("mine", 1, message, {**other, **forged, **own})
        assert found == {
            "type": f"job.{kind}", "i": 0, "ts": "t", **own, "job_id": "mine", "project_id": 1, "attempt": 1, "cursor": 7,
        }  # fmt: skip


def test_a_record_with_a_value_of_another_type_leaves_it_out() -> None:
    message = OutputMessage(7, 1, "stream", [])
    assert "chunk" not in flat_record("mine", 1, message, {"i": 0, "chunk": {"a": 1}})


@pytest.mark.parametrize("newline", [b"\r", b"\n", b"\r\n"])
def test_line_breaks_in_data_cannot_end_an_event_or_begin_another(newline: bytes) -> None:
    payload = b'{"a":1,' + newline + b"id: 999" + newline + newline + b'data: {"type":"job.completed"}}'
    for text in (sse_event(payload, b"1"), Note(payload).sse):
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n\n").split(b"\n")
        assert all(line.startswith(b"data: ") or line == b"id: 1" for line in lines), lines


def test_an_event_cannot_answer_for_the_envelopes_sequence_G11() -> None:
    body = b'{"type":"system.projection_rebuilt","seq":35,"rows":1}'
    text = event_json(36, body)
    assert text.count(b'"seq":') == 1
    assert orjson.loads(text) == {"seq": 36, "type": "system.projection_rebuilt", "at_seq": 35, "rows": 1}
    nested = b'{"type":"x","deep":{"seq":1}}'
    assert event_json(2, nested) == b'{"seq":2,' + nested[1:]


def test_a_stored_body_that_is_not_utf8_does_not_cut_the_connection_G17() -> None:
    frame = Frame(Recorded(5, "aura.system.x", 0, b'{"type":"system.x","a":"\xff"}'))
    assert orjson.loads(frame.text) == {"seq": 5, "type": "system.unreadable"}
    assert orjson.loads(Frame(Recorded(5, "aura.system.x", 0, '{"a":"é"}'.encode())).text) == {"seq": 5, "a": "é"}
