"""The small pure parts: strict bodies, hosts and origins, content negotiation, subjects, the ring, shared log pages."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from aura.clock import ManualClock
from aura.errors import Forbidden, InvalidRequest
from aura.gateway import security
from aura.gateway.api import accept, bodies
from aura.gateway.api.log_pages import LogPages
from aura.gateway.edge import Edge
from aura.gateway.live.fanout.frames import Frame, event_json, sse_event, ws_text
from aura.gateway.live.fanout.ring import Ring
from aura.gateway.live.fanout.trie import SubjectTrie, check_pattern, matches
from aura.gateway.metrics import Metrics
from aura.ids import SystemIds
from aura.log.memory import MemoryEventStore
from aura.log.store import Append, Recorded

POLICY = security.Policy.of(["aura.example"], ["https://console.example"])


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize("text", ['{"a":1}', "[]", '"x"', "null", "-1.5", "[[[]]]", '{"a":{"b":[1,2,{"c":null}]}}'])
def test_json_is_read(text: str) -> None:
    assert bodies.parse(text.encode(), depth=64) is not bodies.ABSENT


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "NaN",
        "Infinity",
        "1e999",
        '{"a":1,"a":1}',
        "1" * 30,
        '"\\ud800"',
        "[" * 65 + "]" * 65,
        "[" * 99_999,
        "{'a':1}",
        "01",
    ],
)
def test_what_is_not_quite_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        bodies.parse(text.encode(), depth=64)


def test_depth_is_counted_exactly_and_brackets_in_strings_are_not() -> None:
    bodies.parse(b"[" * 64 + b"]" * 64, depth=64)
    bodies.parse(b'"' + b"[" * 500 + b'"', depth=64)
    bodies.parse(b"[" + b"{}," * 500 + b"{}]", depth=64)


# ---------------------------------------------------------------- security


def scope(kind: str = "http", **headers: str) -> dict[str, object]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": kind, "scheme": "http", "headers": pairs}


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "aura.example", "LOCALHOST"]
)
def test_hosts_that_are_ours(host: str) -> None:
    assert security.check_host(POLICY, {b"host": host.encode()}) == host.lower()


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil",
        "127.0.0.1.evil",
        "localhost.evil",
        "localhost:x",
        "localhost:1:2",
        "[::1",
        "a@localhost",
        "10.0.0.1",
        "aura.example.evil",
    ],
)
def test_hosts_that_are_not(host: str) -> None:
    with pytest.raises(HTTPException):
        security.check_host(POLICY, {b"host": host.encode()})


def _checked(kind: str, **headers: str) -> None:
    given_scope = scope(kind, host="localhost:8000", **headers)
    security.check_caller(POLICY, given_scope, security.header_map(given_scope), "localhost:8000")


def test_callers_that_may_change_things() -> None:
    _checked("http")
    _checked("http", cookie="a=b")
    _checked("http", origin="http://localhost:8000", sec_fetch_site="same-origin")
    _checked("http", origin="https://console.example", sec_fetch_site="cross-site")
    _checked("websocket", origin="http://localhost:8000", cookie="a=b")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "null"},
        {"origin": "http://localhost:8001"},
        {"origin": "https://localhost:8000"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "https://console.example.evil"},
        {"origin": "https://aura.example"},
        {"sec_fetch_site": "cross-site"},
        {"origin": "http://localhost:8000", "sec_fetch_site": "cross-site"},
    ],
)
def test_callers_that_may_not(headers: dict[str, str]) -> None:
    for kind in ("http", "websocket"):
        with pytest.raises(Forbidden):
            _checked(kind, **headers)


# ---------------------------------------------------------------- negotiation


@pytest.mark.parametrize(
    ("sent", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/jsonl", "application/x-ndjson"),
        ("application/json;q=0.1, application/*;q=0.9", "application/json"),
        ("application/json;q=0.1, application/x-ndjson", "application/x-ndjson"),
        ("text/html, */*;q=0.1", "application/json"),
    ],
)
def test_the_preferred_type_is_chosen(sent: str, chosen: str) -> None:
    request = Request({"type": "http", "headers": [(b"accept", sent.encode())] if sent else []})
    assert accept.choose(request, (accept.JSON, accept.NDJSON)) == chosen


# ---------------------------------------------------------------- frames, subjects, ring


def test_a_frame_is_the_stored_bytes_with_the_sequence_in_front() -> None:
    assert event_json(7, b'{"id":"x"}') == b'{"seq":7,"id":"x"}'
    assert event_json(7, b'{"id":\n"x"}') == b'{"seq":7,"id": "x"}'
    for poison in (b"", b"{}", b"[1]", b"rubbish", b"{"):
        assert event_json(7, poison) == b'{"seq":7,"type":"system.unreadable"}'


@pytest.mark.parametrize(("size", "head"), [(125, 2), (126, 4), (65_535, 4), (65_536, 10)])
def test_frame_lengths_of_rfc_6455(size: int, head: int) -> None:
    frame = ws_text(b"x" * size)
    assert len(frame) == head + size
    made = Frame(Recorded(1, "aura.system.x", 0, b'{"a":"' + b"x" * size + b'"}'))
    assert made.ws.endswith(made.text)
    assert made.sse == sse_event(made.text, b"1")


TOKENS = st.sampled_from(["aura", "a", "b", "job"])
SUBJECT = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)
PATTERN = st.lists(st.sampled_from(["aura", "a", "b", "job", "*", ">"]), min_size=1, max_size=4).map(
    lambda tokens: ".".join(
        token if token != ">" or index == len(tokens) - 1 else "*" for index, token in enumerate(tokens)
    )
)


@given(st.lists(PATTERN, max_size=8), st.lists(st.integers(0, 7)), SUBJECT)
def test_the_trie_finds_what_plain_matching_finds(patterns: list[str], removed: list[int], subject: str) -> None:
    trie: SubjectTrie[int] = SubjectTrie()
    standing = dict(enumerate(patterns))
    for index, pattern in standing.items():
        trie.insert(pattern, index)
    for index in removed:
        trie.remove(standing.pop(index), index) if index in standing else None
    assert set(trie.match(subject)) == {index for index, pattern in standing.items() if matches(pattern, subject)}
    for index, pattern in standing.items():
        trie.remove(pattern, index)
    assert trie._root.empty


@pytest.mark.parametrize(
    "bad",
    [
        "",
        ">",
        "*",
        "job.>",
        "aura.>.x",
        "aura..x",
        "aura.a b",
        "aura.$x",
        "aura." + "x" * 65,
        7,
        None,
        "aura" + ".x" * 9,
    ],
)
def test_patterns_that_are_refused(bad: object) -> None:
    with pytest.raises(InvalidRequest):
        check_pattern(bad)


def recorded(seq: int, size: int = 10) -> Recorded:
    return Recorded(seq, "aura.system.x", seq * 1_000, b'{"n":"%b"}' % (b"x" * size))


@given(st.integers(0, 5), st.lists(st.integers(1, 50), max_size=60), st.integers(1, 12), st.integers(60, 400))
def test_the_ring_holds_the_newest_within_its_bounds_G12(head: int, sizes: list[int], frames: int, limit: int) -> None:
    ring = Ring(head, max_frames=frames, max_bytes=limit)
    for offset, size in enumerate(sizes):
        ring.append(Frame(recorded(head + 1 + offset, size)))
        held = ring.after(ring.first - 1, 10**9)
        assert [frame.seq for frame in held] == list(range(ring.first, ring.head + 1))
        assert len(held) <= frames
        assert ring.bytes == sum(len(frame.ws) for frame in held)
        assert ring.bytes <= limit or len(held) == 1
    assert ring.head == head + len(sizes)
    with pytest.raises(ValueError, match="sequence"):
        ring.append(Frame(recorded(ring.head + 2)))
    with pytest.raises(ValueError, match="is not in"):
        ring.after(ring.first - 2, 1)


@given(st.data(), st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 12), st.integers(60, 400))
def test_a_step_of_the_ring_stops_where_it_is_large_enough_G12(
    data: st.DataObject, sizes: list[int], frames: int, limit: int
) -> None:
    ring = Ring(0, max_frames=frames, max_bytes=limit)
    for seq, size in enumerate(sizes, 1):
        ring.append(Frame(recorded(seq, size)))
    after = data.draw(st.integers(ring.first - 1, ring.head))
    most = data.draw(st.integers(1, 500))
    found = ring.after(after, most)
    assert [frame.seq for frame in found] == list(range(after + 1, after + 1 + len(found)))
    assert sum(len(frame.ws) for frame in found[:-1]) < most
    assert sum(len(frame.ws) for frame in found) >= most or after + len(found) == ring.head


# ---------------------------------------------------------------- the log


async def _log(count: int) -> tuple[MemoryEventStore, ManualClock]:
    clock = ManualClock()
    store = MemoryEventStore(clock)
    for number in range(count):
        await store.append(Append("aura.system.x", None, 0, str(number), b'{"n":%d}' % number))
        clock.advance(1)
    return store, clock


async def test_a_page_of_the_log_is_read_once_for_everybody() -> None:
    store, _ = await _log(95)
    pages = LogPages(store, page_events=20, keep=2)
    wanted = [(1, 20), (15, 20), (21, 40), (25, 33), (3, 20)]
    found = await asyncio.gather(*(pages.frames(*window) for window in wanted))
    for (start, end), frames in zip(wanted, found, strict=True):
        assert [frame.seq for frame in frames] == list(range(start, end + 1))
    assert pages.reads <= 4
    assert [frame.seq for frame in await pages.frames(81, 95)] == list(range(81, 96))
    assert len(pages._kept) <= 2


# ---------------------------------------------------------------- handshakes


async def test_a_client_that_left_before_the_answer_is_not_refused() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})

    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)
        raise ClientDisconnected

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    metrics = Metrics()
    edge = Edge(application, POLICY, metrics, ManualClock(), SystemIds())
    headers = [(b"host", b"aura.example"), (b"origin", b"https://console.example")]
    scope: Scope = {"type": "websocket", "scheme": "ws", "path": "/ws", "query_string": b"", "headers": headers}
    with pytest.raises(ClientDisconnected):
        await edge(scope, receive, send)
    assert [message["type"] for message in said] == ["websocket.close"]
    assert not [sample for family in metrics.refused.collect() for sample in family.samples]
