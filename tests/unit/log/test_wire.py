"""The protocol bytes that the log writes and reads itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import InvalidRequest
from aura.log import wire
from aura.log.connection import Connection


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


BODY = st.binary(max_size=60)
MESSAGE = st.tuples(st.sampled_from([1, 2]), st.booleans(), st.booleans(), BODY)


@given(st.lists(MESSAGE, max_size=30), st.lists(st.integers(min_value=1, max_value=40), min_size=1), st.booleans())
def test_the_parser_finds_the_same_messages_however_the_bytes_arrive(
    messages: list[tuple[int, bool, bool, bytes]], sizes: list[int], pings: bool
) -> None:
    wanted, stream = [], b""
    for sid, with_reply, with_headers, body in messages:
        headers = b"NATS/1.0\r\nA: b\r\n\r\n" if with_headers else None
        reply = b"r.1" if with_reply else b""
        fields = [b"s.%d" % sid, b"%d" % sid, *([reply] if reply else [])]
        if headers is not None:
            fields += [b"%d" % len(headers), b"%d" % (len(headers) + len(body))]
            stream += b"HMSG %b\r\n%b%b\r\n" % (b" ".join(fields), headers, body)
        else:
            stream += b"MSG %b %d\r\n%b\r\n" % (b" ".join(fields), len(body), body)
        if pings:
            stream += b"PONG\r\n+OK\r\n"
        wanted.append((b"s.%d" % sid, reply, body, headers))
    found: list[tuple[bytes, bytes, bytes, bytes | None]] = []

    async def feed() -> None:
        connection = Connection()
        for sid in (1, 2):
            connection.raw_handlers[sid] = lambda *message: found.append(message)
        position, turn = 0, 0
        while position < len(stream):
            size = sizes[turn % len(sizes)]
            await connection._ps.parse(stream[position : position + size])
            position, turn = position + size, turn + 1

    asyncio.run(feed())
    assert found == wanted


async def test_a_handler_that_raises_does_not_stop_the_others() -> None:
    connection = Connection()
    seen: list[bytes] = []

    def broken(*_message: object) -> None:
        raise KeyError("bug")

    connection.raw_handlers[1] = broken
    connection.raw_handlers[2] = lambda _s, _r, body, _h: seen.append(body)
    await connection._ps.parse(b"MSG a 1 1\r\nx\r\nMSG a 2 1\r\ny\r\nPONG\r\nMSG a 1 1\r\nx\r\nMSG a 2 1\r\nz\r\n")
    assert seen == [b"y", b"z"]
