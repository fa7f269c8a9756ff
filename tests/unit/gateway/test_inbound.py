"""What clients say: however it is cut into pieces, it means the same."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from aura.gateway.live.websocket.inbound import Bad, Closed, Endless, Inbound, Pong, Said, close_frame


def made(*, closing: bool = False, fragments: int = 4) -> Inbound:
    return Inbound(max_bytes=1_000, max_fragments=fragments, closing=closing)


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return bytes(Frame(opcode, data, fin).serialize(mask=True))


def heard(inbound: Inbound, *parts: bytes) -> list[Said]:
    return [said for part in parts for said in inbound.feed(part)]


@settings(deadline=None)
@given(
    said=st.lists(st.one_of(st.text(max_size=20), st.binary(max_size=20))), cuts=st.lists(st.integers(1, 9), min_size=1)
)
def test_messages_come_whole_however_they_are_cut(said: list[str | bytes], cuts: list[int]) -> None:
    wire = b"".join(
        frame(Opcode.TEXT, one.encode()) if isinstance(one, str) else frame(Opcode.BINARY, one) for one in said
    )
    parts, at = [], 0
    while at < len(wire):
        size = cuts[len(parts) % len(cuts)]
        parts.append(wire[at : at + size])
        at += size
    inbound = made()
    assert heard(inbound, *parts) == said
    assert inbound.answer() == b""


def test_fragments_are_one_message_and_so_many_at_most() -> None:
    inbound = made(fragments=2)
    pieces = [frame(Opcode.TEXT, b"a", fin=False), frame(Opcode.CONT, b"b", fin=False), frame(Opcode.CONT, b"c")]
    assert heard(inbound, *pieces, *pieces) == ["abc", "abc"], "counted for each message"
    endless = [frame(Opcode.TEXT, b"", fin=False), *[frame(Opcode.CONT, b"", fin=False)] * 3]
    assert heard(inbound, *endless) == [Endless()]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(Opcode.TEXT, b"x" * 1_001), 1009),
        (frame(Opcode.TEXT, b"\xff"), 1007),
        (Frame(Opcode.TEXT, b"x").serialize(mask=False), 1002),
        (b"\xc1\x80\x00\x00\x00\x00", 1002),
        (frame(Opcode.CONT, b"x"), 1002),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (frame(Opcode.CLOSE, struct.pack("!H", 1005)), 1002),
        (frame(Opcode.CLOSE, b"\x03"), 1002),
    ],
)
def test_what_is_no_frame_is_answered_once(wire: bytes, code: int) -> None:
    inbound = made()
    [found] = heard(inbound, bytes(wire))
    assert isinstance(found, Bad)
    assert found.code == code
    assert inbound.answer()[2:4] == struct.pack("!H", code)
    assert inbound.close(1000, "") == b"", "one close frame at most"


def test_text_that_is_none_after_a_close_is_no_second_close() -> None:
    inbound = made()
    heard_ = heard(inbound, frame(Opcode.TEXT, b"\xff") + frame(Opcode.CLOSE, struct.pack("!H", 1000)))
    assert isinstance(heard_[0], Bad)
    assert inbound.answer().count(b"\x88") == 1


GOODBYE = struct.pack("!H", 1000)


def test_a_close_does_not_make_bad_text_before_it_good() -> None:
    inbound = made()
    [found] = heard(inbound, frame(Opcode.TEXT, b"\xff") + frame(Opcode.CLOSE, GOODBYE))
    assert isinstance(found, Bad)
    assert found.code == 1007
    assert inbound.answer()[2:4] == struct.pack("!H", 1007)


@pytest.mark.parametrize("bad", [frame(Opcode.TEXT, b"\xff"), b"\xc1\x80\x00\x00\x00\x00"], ids=["text", "frame"])
def test_what_came_before_an_error_is_heard_and_nothing_after_it(bad: bytes) -> None:
    inbound = made()
    good = frame(Opcode.TEXT, b"good")
    said = heard(inbound, frame(Opcode.PING, b"hi") + good + bad + good, good + frame(Opcode.PING, b""), bad)
    assert said[0] == "good"
    assert [type(one) for one in said[1:]] == [Bad]
    answer = inbound.answer()
    assert answer.startswith(b"\x8a\x02hi\x88")
    assert answer.count(b"\x8a") == 1


_SAID = st.one_of(
    st.text(max_size=9).map(lambda text: frame(Opcode.TEXT, text.encode())),
    st.builds(frame, st.sampled_from([Opcode.TEXT, Opcode.CONT, Opcode.CONT]), st.binary(max_size=3), fin=st.booleans()),
    st.builds(frame, st.sampled_from([Opcode.BINARY, Opcode.PING, Opcode.PONG]), st.binary(max_size=9)),
    st.sampled_from([frame(Opcode.CLOSE, GOODBYE), frame(Opcode.CLOSE, b"\x03"), frame(Opcode.BINARY, bytes(1_001)), b"\xc1"]),
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(said=st.lists(_SAID, max_size=9), cuts=st.lists(st.integers(1, 30), min_size=1), closing=st.booleans())
def test_however_it_is_cut_into_pieces_it_means_the_same(said: list[bytes], cuts: list[int], closing: bool) -> None:
    wire, parts = b"".join(said), []
    while (at := sum(map(len, parts))) < len(wire):
        parts.append(wire[at : at + cuts[len(parts) % len(cuts)]])
    whole, cut = made(closing=closing, fragments=2), made(closing=closing, fragments=2)
    meant = heard(whole, wire)
    assert heard(cut, *parts) == meant
    assert cut.answer() == whole.answer()
    ends = [at for at, one in enumerate(meant) if isinstance(one, Bad | Closed)]
    assert ends in ([], [len(meant) - 1]), "the last word, and one"


def test_pings_are_answered_and_pongs_are_told() -> None:
    inbound = made()
    assert heard(inbound, frame(Opcode.PING, b"hi") + frame(Opcode.PONG, b"yo")) == [Pong(b"yo")]
    assert inbound.answer() == b"\x8a\x02hi"


def test_a_close_is_echoed_unless_it_is_the_answer_to_ours() -> None:
    goodbye = frame(Opcode.CLOSE, struct.pack("!H", 1000) + b"bye")
    inbound = made()
    assert heard(inbound, goodbye) == [Closed(1000, "bye")]
    assert inbound.answer() == b"\x88\x05\x03\xe8bye"
    for closing in (made(closing=True), made()):
        closing.close(4408, "since=1")
        assert heard(closing, goodbye) == [Closed(1000, "bye")]
        assert closing.answer() == b""


def test_a_reason_is_cut_to_what_a_control_frame_holds() -> None:
    found = close_frame(1008, "ü" * 100)
    assert found[1] == len(found) - 2 <= 125
    assert found[4:].decode() == "ü" * 60
    assert made().close(1008, "ü" * 100) == found
