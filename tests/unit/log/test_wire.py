"""The protocol bytes that the log writes and reads itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import InvalidRequest
from aura.log import wire


def go_rfc3339_nano(ns: int) -> bytes:
    """As Go's ``time.RFC3339Nano`` writes it: trailing zeros of the fraction dropped."""
    second, fraction = divmod(ns, 1_000_000_000)
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f".{fraction:09d}".rstrip("0").rstrip(".")
    return f"{text}{digits}Z".encode()


@given(st.integers(min_value=0, max_value=4_000_000_000 * 10**9))
def test_store_times_are_read_to_the_nanosecond(ns: int) -> None:
    assert wire.stored_ns(go_rfc3339_nano(ns)) == ns


@given(st.lists(st.integers(min_value=10**18, max_value=10**18 + 5 * 10**9), min_size=1))
def test_store_times_in_any_order(times: list[int]) -> None:
    assert [wire.stored_ns(go_rfc3339_nano(ns)) for ns in times] == times


@given(st.text())
def test_no_subject_can_add_a_protocol_line(text: str) -> None:
    try:
        command = wire.command(f"a.{text}", "", b"", b"body")
    except InvalidRequest:
        return
    line, _, rest = command.partition(b"\r\n")
    assert rest == b"body\r\n"
    assert line.split(b" ")[1] == f"a.{text}".encode()


@given(st.text())
def test_no_header_value_can_add_a_header(text: str) -> None:
    try:
        block = wire.header_block((("Nats-Msg-Id", text),))
    except InvalidRequest:
        return
    assert block == f"NATS/1.0\r\nNats-Msg-Id: {text}\r\n\r\n".encode()
    assert wire.header(block, "Nats-Msg-Id") == text


@pytest.mark.parametrize("bad", ["", "a b", "a\r\nb", "a\0", "x" * 1_025, "\u2028"])
def test_bad_subjects(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        wire.command(bad, "", b"", b"")


def test_status_and_headers() -> None:
    assert wire.status(None) == 0
    assert wire.status(b"NATS/1.0\r\nA: b\r\n\r\n") == 0
    assert wire.status(b"NATS/1.0 404 Message Not Found\r\n\r\n") == 404
    assert wire.status(b"NATS/1.0 100 Idle Heartbeat\r\nX: y\r\n\r\n") == 100
    block = b"NATS/1.0\r\nNats-Sequence: 7\r\nNats-Expected-Last-Subject-Sequence: 3\r\nNats-Sequence: 9\r\n\r\n"
    assert wire.header(block, "Nats-Sequence") == "9", "the server appends; a writer's header of the same name loses"
    assert wire.sequence(block) == 9
    assert wire.header(block, "Absent") is None
    assert wire.header_pairs(b"NATS/1.0\r\nA: b: c\r\n\r\n") == {"A": "b: c"}


def test_recorded_needs_the_servers_headers() -> None:
    stored = (
        b"NATS/1.0\r\nNats-Subject: forged\r\nNats-Stream: AURA_LOG\r\nNats-Subject: aura.model.m.online\r\n"
        b"Nats-Sequence: 12\r\nNats-Time-Stamp: 2026-11-22T02:50:13.5Z\r\nNats-Last-Sequence: 3\r\n\r\n"
    )
    found = wire.recorded(stored, b"{}")
    assert (found.seq, found.subject, found.body) == (12, "aura.model.m.online", b"{}")
    assert found.stored_at_ns % 1_000_000_000 == 500_000_000
    with pytest.raises(ValueError, match=r"not a stored message|substring not found|not enough"):
        wire.recorded(b"NATS/1.0\r\nNats-Subject: forged\r\n\r\n", b"")
