"""Lines for COPY: whatever a text holds, it ends where it ends."""

from __future__ import annotations

import orjson
import pytest

from aura.errors import PoisonEvent
from aura.projections import rows
from aura.projections.decoding import scalar


def test_scalars_are_what_postgres_reads() -> None:
    row = {"id": "a", "n": 7, "share": 0.5, "held": True, "nothing": None, "empty": "", "word": "null"}
    assert rows.lines([row, row]) == b'"a",7,0.5,true,null,"","null"\n' * 2


def test_quotes_and_backslashes_are_escaped() -> None:
    assert rows.lines([{"title": 'say "C:\\temp", twice', "state": '{"v":1}'}]) == (
        b'"say \\"C:\\\\temp\\", twice","{\\"v\\":1}"\n'
    )


@pytest.mark.parametrize("text", ["two\nlines", "a\ttab", "\r", "\x01", "\\n is no end of a line", 'both \\" and\n"'])
def test_control_characters_are_written_as_they_are(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    assert rows.lines([{"title": text, "n": 1, "nothing": None}]) == f'"{escaped}",1,null\n'.encode()


def test_a_record_holds_json_as_it_is() -> None:
    row = {"id": "a", "labels": '{"x":[1, 2]}', "stages": None}
    assert orjson.dumps(rows.record(row, "labels", "stages")) == b'{"id":"a","labels":{"x":[1, 2]},"stages":null}'


@pytest.mark.parametrize("value", [{}, [1], 2**63, -(2**63) - 1])
def test_g17_what_no_column_holds_is_poison(value: object) -> None:
    with pytest.raises(PoisonEvent):
        scalar(value)


@pytest.mark.parametrize("value", [None, "", "x", 0, 2**63 - 1, -(2**63), 1.5, True])
def test_a_scalar_is_itself(value: object) -> None:
    assert scalar(value) is value
