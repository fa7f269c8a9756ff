"""What a republished or stored message of output says of itself: the way most of them are read agrees with the one for all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.log.output import OutputMessage
from aura.log.output_jetstream import _decode_any, decode

SUBJECT = "aura.output.1.0199c0de-0000-7000-8000-000000000000.2.stream"
STORED = (
    "Nats-Stream: AURA_OUTPUT", f"Nats-Subject: {SUBJECT}", "Nats-Sequence: 42", "Nats-Time-Stamp: 2026-11-22T02:50:13.07726Z",
)  # fmt: skip
OTHERS = (
    "Nats-Stream: AURA_OUTPUT", "Nats-Subject: aura.output.9.forged.1.log", "Nats-Sequence: 1", "Nats-Time-Stamp: 2001-01-01T00:00:00Z",
)  # fmt: skip


def block(*lines: str) -> bytes:
    return "\r\n".join(("NATS/1.0", *lines, "", "")).encode()


@pytest.mark.parametrize("after", [(), ("Nats-Last-Sequence: 41",), ("Nats-Num-Pending: 3", "Nats-Last-Sequence: 41")])
def test_as_the_server_republishes_and_as_it_answers(after: tuple[str, ...]) -> None:
    headers = block("Nats-Msg-Id: x", "Aura-First: 7", "Aura-Count: 3", *STORED, *after)
    found = decode(headers, b"sealed")
    assert found == OutputMessage(42, SUBJECT, 1_795_315_813_077_260_000, 7, 3, b"sealed")
    assert found == _decode_any(headers, b"sealed")
    assert (found.attempt, found.kind) == (2, "stream")


def test_with_keys() -> None:
    headers = block("Aura-First: 7", "Aura-Count: 3", "Aura-Keys: a.b.1 c.d.2", *STORED)
    assert decode(headers, b"").keys == ("a.b.1", "c.d.2")


def test_the_servers_word_wins_over_what_a_writer_says_in_its_name() -> None:
    found = decode(block("Aura-First: 7", "Aura-Count: 3", *OTHERS, *STORED, "Nats-Last-Sequence: 41"), b"")
    assert (found.seq, found.subject) == (42, SUBJECT)


@given(
    st.lists(st.sampled_from(("Aura-First: 7", "Aura-Count: 3", "Aura-Keys: a.b.1", "X: y", *OTHERS, *STORED, "Nats-Last-Sequence: 4"))),
    st.booleans(),
)  # fmt: skip
def test_both_ways_agree_whatever_the_headers(lines: list[str], stored: bool) -> None:
    headers = block(*lines, *(STORED if stored else ()))
    try:
        expected = _decode_any(headers, b"")
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            decode(headers, b"")
    else:
        assert decode(headers, b"") == expected


def test_a_message_without_its_number_is_none_of_ours() -> None:
    with pytest.raises(ValueError, match="without its number"):
        decode(block(*STORED), b"")
