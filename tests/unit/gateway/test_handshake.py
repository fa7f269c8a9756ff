"""The opening handshake, held against ``websockets``' own server for the same request."""

from __future__ import annotations

from base64 import b64encode

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from aura.gateway.live.websocket import handshake
from aura.gateway.live.websocket.handshake import Asked, Refused

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = [
    (b"Host", b"localhost"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Sec-WebSocket-Version", b"13"),
]
Headers = list[tuple[bytes, bytes]]


def ours(method: str, version: str, headers: Headers) -> Asked | Refused:
    lower = [(name.lower(), value.lstrip(b" \t")) for name, value in headers]  # as uvicorn and llhttp have them
    return handshake.asked(method, version, handshake.trimmed(lower))


def theirs(method: str, version: str, headers: Headers) -> tuple[int, dict[str, str]] | None:
    """Status and fields; ``None``: no answer at all."""
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    server = ServerProtocol()
    server.receive_data(b"%b /ws HTTP/%b\r\n%b\r\n" % (method.encode(), version.encode(), lines))
    found = server.events_received()
    if not found:
        return None
    assert isinstance(found[0], Request)
    answer = server.accept(found[0])
    return answer.status_code, dict(answer.headers.raw_items())


def same(method: str, version: str, headers: Headers) -> None:
    mine, other = ours(method, version, headers), theirs(method, version, headers)
    if other is None:
        assert mine == Refused(400)
    elif isinstance(mine, Asked):
        assert other[0] == 101
        assert other[1]["Sec-WebSocket-Accept"].encode() == handshake.accept_of(mine.key)
    else:
        assert mine.status == other[0]
        for name, value in mine.headers:
            assert other[1][name.decode()].encode() == value


def swapped(name: bytes, *values: bytes) -> Headers:
    """A good handshake with other values of one field."""
    return [pair for pair in GOOD if pair[0] != name] + [(name, value) for value in values]


def test_the_example_of_the_standard() -> None:
    assert ours("GET", "1.1", GOOD) == Asked(KEY, [])
    assert handshake.accept_of(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("method", "version", "headers", "status"),
    [
        ("POST", "1.1", GOOD, 405),
        ("GET", "1.0", GOOD, 505),
        ("GET", "1.1", swapped(b"Connection"), 426),
        ("GET", "1.1", swapped(b"Connection", b"close"), 426),
        ("GET", "1.1", swapped(b"Connection", b"a b"), 400),
        ("GET", "1.1", swapped(b"Upgrade", b"h2c", b"websocket"), 426),
        ("GET", "1.1", swapped(b"Upgrade", b"websocket, websocket"), 426),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Key"), 400),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Key", KEY, KEY), 400),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Key", b64encode(bytes(15))), 400),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Key", b64encode(bytes(17))), 400),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Key", KEY[:-1]), 400),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Key", KEY.replace(b"G", b"_")), 400),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Key", KEY[:8] + b" " + KEY[8:]), 400),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Version", b"8"), 400),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Version", b"13", b"13"), 400),
        ("GET", "1.1", swapped(b"Sec-WebSocket-Version"), 400),
        ("GET", "1.1", [*GOOD, (b"Origin", b"a"), (b"Origin", b"a")], 400),
        ("GET", "1.1", [*GOOD, (b"Sec-WebSocket-Protocol", b"a/b")], 400),
        ("GET", "1.1", [*GOOD, (b"Sec-WebSocket-Protocol", b"")], 400),
        ("GET", "1.1", [*GOOD, (b"Content-Length", b"5")], 400),
        ("GET", "1.1", [*GOOD, (b"Transfer-Encoding", b"chunked")], 400),
    ],
)
def test_what_is_no_handshake(method: str, version: str, headers: Headers, status: int) -> None:
    found = ours(method, version, headers)
    assert isinstance(found, Refused)
    assert found.status == status
    same(method, version, headers)


@pytest.mark.parametrize(
    "headers",
    [
        swapped(b"Connection", b"keep-alive, Upgrade"),
        swapped(b"Connection", b"keep-alive", b"upgrade"),
        swapped(b"Connection", b" ,keep-alive ,\tUPGRADE , "),
        swapped(b"Upgrade", b"WebSocket"),
        swapped(b"Upgrade", b"websocket \t"),
        swapped(b"sec-websocket-key", KEY + b" ") [:3] + swapped(b"Sec-WebSocket-Key", KEY + b" ")[3:],
        [*GOOD, (b"Content-Length", b"0"), (b"Content-Length", b"0")],
        [*GOOD, (b"Sec-WebSocket-Extensions", b"permessage-deflate; ;;")],
        [*GOOD, (b"X-Text", b"\xe4\xff")],
    ],
)  # fmt: skip
def test_what_is_one_in_other_words(headers: Headers) -> None:
    assert isinstance(ours("GET", "1.1", headers), Asked)
    same("GET", "1.1", headers)


def test_subprotocols_are_offered_in_order() -> None:
    headers = [*GOOD, (b"Sec-WebSocket-Protocol", b"b,\ta"), (b"sec-websocket-protocol", b"c")]
    assert ours("GET", "1.1", headers) == Asked(KEY, ["b", "a", "c"])


@pytest.mark.parametrize(
    ("values", "whether"),
    [
        ([], False),
        ([b"h2c"], False),
        ([b"websocket"], True),
        ([b"WebSocket \t"], True),
        ([b"h2c, websocket"], True),
        ([b"websocket", b"h2c"], True),
        ([b'"', b"websocket"], True),
        ([b"websockets"], False),
        ([b'"websocket"'], False),
    ],
)
def test_who_wants_to_be_one(values: list[bytes], whether: bool) -> None:
    assert handshake.wanted([(b"host", b"websocket"), *[(b"upgrade", value) for value in values]]) is whether


def test_what_a_client_says_is_kept_only_when_it_is_short_and_never_when_it_may_be_secret() -> None:
    assert not hasattr(handshake._tokens, "cache_info")
    for kept, of in ((handshake._options_kept, handshake._options), (handshake._protocols_kept, handshake._protocols)):
        kept.cache_clear()
        assert of(b"a" * 65) == ("a" * 65,)
        assert kept.cache_info().currsize == 0
        assert of(b"A" * 64) == ("a" * 64,)
        assert kept.cache_info().currsize == 1


_TEXT = st.one_of(
    st.sampled_from([b"", b",", b"upgrade", b"Upgrade", b"websocket", b"WebSocket/13", b"13", b" 13", b"013", KEY, KEY[:-2], b"a b"]),
    st.binary(min_size=16, max_size=16).map(b64encode),
    st.lists(st.sampled_from([b"upgrade", b"keep-alive", b"websocket", b" ", b"\t", b",", b'"', b"h2c", b"\xe4"])).map(b"".join),
)  # fmt: skip
_NAMES = st.sampled_from(
    [b"Connection", b"connection", b"Upgrade", b"UPGRADE", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Origin",
     b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Content-Length", b"Transfer-Encoding", b"X-Other"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    method=st.sampled_from(["GET", "GET", "GET", "POST", "HEAD", "get"]),
    version=st.sampled_from(["1.1", "1.1", "1.1", "1.0"]),
    kept=st.lists(st.sampled_from(GOOD), unique=True, min_size=3),
    more=st.lists(st.tuples(_NAMES, _TEXT), max_size=3),
)
def test_any_request_is_answered_as_the_library_does(method: str, version: str, kept: Headers, more: Headers) -> None:
    same(method, version, kept + more)


class _Heard:
    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def test_llhttp_leaves_white_space_that_is_not_the_values() -> None:
    heard = _Heard()
    request = b"GET /ws HTTP/1.1\r\n" + b"".join(b"%b: \t%b \t\r\n" % pair for pair in GOOD) + b"\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
        httptools.HttpRequestParser(heard).feed_data(request + b"rest")
    assert request[upgrade.value.args[0] :] == b""
    assert isinstance(handshake.asked("GET", "1.1", handshake.trimmed(heard.headers)), Asked)


def test_the_answers_are_http() -> None:
    answer = handshake.switching(KEY, [(b"aura-epoch", b"e")], "aura.v1")
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert rest == b""
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 101 Switching Protocols"
    assert {b"aura-epoch: e", b"Sec-WebSocket-Protocol: aura.v1", b"Upgrade: websocket"} < set(head.split(b"\r\n"))
    refusal = handshake.response(426, [(b"content-type", b"x/y")], b"{}")
    parsed = Response.parse(*_reader(refusal))
    try:
        while True:
            next(parsed)
    except StopIteration as done:
        found = done.value
    assert (found.status_code, found.body, found.headers["Connection"]) == (426, b"{}", "close")
    assert found.headers.get_all("Content-Type") == ["x/y"]


def _reader(data: bytes):  # type: ignore[no-untyped-def]
    from websockets.streams import StreamReader

    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader.read_line, reader.read_exact, reader.read_to_eof
