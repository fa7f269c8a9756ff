"""Cursors are opaque, and one that is not ours is refused (bad inputs: cursor tampering)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import InvalidRequest
from aura.projections import cursors


@given(st.integers(0, 2**63), st.lists(st.one_of(st.none(), st.text(max_size=20), st.integers(0, 9))))
def test_a_cursor_gives_its_place_back_for_the_same_question(place: int, question: list[object]) -> None:
    assert cursors.decode(cursors.encode(place, question), question) == place


def test_another_question_is_refused() -> None:
    cursor = cursors.encode(7, ["FAILED"])
    with pytest.raises(InvalidRequest, match="another question"):
        cursors.decode(cursor, ["QUEUED"])


@given(st.integers(0, 2**63), st.integers(0, 22), st.sampled_from("ABCxyz019-_"))
def test_an_altered_cursor_is_refused(place: int, at: int, letter: str) -> None:
    cursor = cursors.encode(place, [])
    altered = cursor[:at] + letter + cursor[at + 1 :]
    if altered != cursor:
        with pytest.raises(InvalidRequest):
            cursors.decode(altered, [])


@pytest.mark.parametrize("rubbish", ["", "a", "====", "é", "A" * 5000, "' OR 1=1 --", "\0", "YWJj"])
def test_rubbish_is_refused(rubbish: str) -> None:
    with pytest.raises(InvalidRequest):
        cursors.decode(rubbish, [])
