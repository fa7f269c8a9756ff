"""A record's bytes are made from parts that the records of an attempt share; they say what :func:`flat_record` says."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from aura.events.subjects import OUTPUT_KINDS, OutputKind
from aura.gateway.live.taps import flat_record, shown
from aura.gateway.ports import OutputMessage

_NAMES = (
    "i",
    "ts",
    "chunk",
    "final",
    "level",
    "line",
    "percent",
    "step",
    "agent",
    "data",
    "type",
    "job_id",
    "cursor",
    "x",
)
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.just({"a": 1}), st.just([]),
)  # fmt: skip


@given(
    kind=st.sampled_from(OUTPUT_KINDS),
    records=st.lists(st.dictionaries(st.sampled_from(_NAMES), _VALUES), min_size=1, max_size=3),
    first=st.integers(0, 2**40),
    job_id=st.sampled_from(("mine", 'with "quotes"')),
)
def test_a_frame_says_what_the_flat_record_says(
    kind: OutputKind, records: list[dict[str, Any]], first: int, job_id: str
) -> None:
    numbered = [{**record, "i": first + at} for at, record in enumerate(records)]
    message = OutputMessage(7, 3, kind, numbered)
    built = shown(job_id, 1, message)
    assert (built.cursor, built.attempt, built.first) == (7, 3, first)
    for frame, record in zip(built.frames, numbered, strict=True):
        flat = flat_record(job_id, 1, message, record)
        assert orjson.loads(frame.note.text) == flat
        assert (frame.cursor, frame.i, frame.ts) == (7, record["i"], flat.get("ts", ""))
        assert frame.subject == f"aura.output.1.{job_id}.3.{kind}"


def test_a_record_as_workers_write_it_is_the_very_bytes() -> None:
    record = {"i": 5, "ts": "2026-01-01T00:00:00.000000Z", "chunk": "héllo\n", "final": False}
    message = OutputMessage(7, 3, "stream", [record])
    (frame,) = shown("mine", 1, message).frames
    assert frame.note.text == orjson.dumps(flat_record("mine", 1, message, record))


def test_a_record_without_anything_to_show_is_still_json() -> None:
    message = OutputMessage(7, 3, "log", [{"i": 0.0}])
    (frame,) = shown("mine", 1, message).frames
    assert orjson.loads(frame.note.text) == flat_record("mine", 1, message, {"i": 0.0})
