"""What is relied on below the application: limits of WebSocket frames, heads, closing.

Raw sockets where a client library would be polite.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from aura.commands.handler import Caller
from aura.gateway.limits import Limits
from aura.gateway.live import clients
from aura.gateway.live.websocket import closing
from aura.gateway.live.websocket.http import HttpProtocol, _ends
from aura.gateway.live.websocket.outlet import WebSocketOutlet
from aura.gateway.ports import Row
from aura.log.store import Recorded
from tests.support.gateway import World, make_world, receive, running
from tests.support.loops import event_loop_policy  # noqa: F401 - all of these run on both event loops

TEXT, BINARY, CLOSE, PING, CONTINUATION = 1, 2, 8, 9, 0


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


class Raw:
    """A WebSocket client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, world: World, path: str = "/ws/events", *headers: str) -> Raw:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
        lines = [
            f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{world.service.port}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *headers, "", "",
        ]  # fmt: skip
        writer.write("\r\n".join(lines).encode())
        cls.head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert " 101 " in cls.head
        return cls(reader, writer)

    head = ""

    def send(self, opcode: int, payload: bytes, *, fin: bool = True) -> None:
        mask = os.urandom(4)
        size = len(payload)
        first = (0x80 if fin else 0) | opcode
        if size < 126:
            head = struct.pack("!BB", first, 0x80 | size)
        elif size < 65_536:
            head = struct.pack("!BBH", first, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", first, 0x80 | 127, size)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.writer.write(head + mask + masked)

    async def close_code(self) -> int:
        """Read until the server's close frame, or 1006 when it just cut."""
        async with asyncio.timeout(10):
            try:
                while True:
                    first, size = await self.reader.readexactly(2)
                    length = int.from_bytes(await self.reader.readexactly(2)) if size == 126 else size
                    payload = await self.reader.readexactly(length)
                    if first & 0x0F == CLOSE:
                        return int.from_bytes(payload[:2])
            except (asyncio.IncompleteReadError, ConnectionError):
                return 1006
            finally:
                self.writer.close()


async def test_a_message_over_64_KiB_is_1009_and_one_of_64_KiB_is_not(world: World) -> None:
    client = await Raw.open(world)
    client.send(TEXT, b"x" * 65_536)
    client.send(TEXT, b"x" * 65_537)
    assert await client.close_code() == 1009


async def test_fragments_are_bounded_in_number_and_in_size(world: World) -> None:
    endless = await Raw.open(world)
    endless.send(TEXT, b"", fin=False)
    for _ in range(Limits().inbound_fragments + 1):
        endless.send(CONTINUATION, b"", fin=False)
    assert await endless.close_code() == 1008
    large = await Raw.open(world)
    large.send(TEXT, b"x" * 40_000, fin=False)
    large.send(CONTINUATION, b"x" * 40_000, fin=False)
    assert await large.close_code() == 1009


async def test_bytes_that_are_not_utf8_are_1007(world: World) -> None:
    client = await Raw.open(world)
    client.send(TEXT, b"\xff\xfe")
    assert await client.close_code() == 1007


async def test_ten_thousand_tiny_frames_are_1008(world: World) -> None:
    client = await Raw.open(world)
    for _ in range(10_000):
        client.send(TEXT, b"x")
    assert await client.close_code() in (1008, 1006)


async def test_a_few_messages_are_ignored(world: World) -> None:
    async with world.ws("/ws/events") as socket:
        for text in ("{}", "x", '{"op":"nonsense"}'):
            await socket.send(text)
        await socket.ping()
        while not world.hub._groups:
            await asyncio.sleep(0)
        await world.submit()
        assert (await receive(socket))["type"] == "job.created"


async def test_an_unmasked_frame_and_reserved_bits_are_1002(world: World) -> None:
    for data in (Frame(Opcode.TEXT, b"x").serialize(mask=False), b"\xc1\x80\x00\x00\x00\x00"):
        client = await Raw.open(world)
        client.writer.write(data)
        assert await client.close_code() == 1002


_REQUEST = (
    b"GET /ws/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (_REQUEST.replace(b"13\r\n", b"8\r\n"), 400),
        (_REQUEST.replace(b"GET", b"POST"), 405),
        (_REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        (_REQUEST.replace(b"Upgrade: websocket", b"Upgrade: h2c\r\nUpgrade: websocket"), 426),
        (_REQUEST.replace(b"Host: ", b"Content-Length: 2\r\nHost: ") + b"{}", 400),
        (_REQUEST.replace(b"localhost", b"evil.example"), 421),
        (_REQUEST.replace(b"/ws/events", b"/ws/none"), 404),
        (_REQUEST.replace(b"/ws/events", b"*"), 404),
        (_REQUEST.replace(b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: h2c"), 426),
        (_REQUEST.replace(b"Connection: keep-alive, Upgrade\r\n", b""), 426),
        (_REQUEST.replace(b"keep-alive, Upgrade", b"keep-alive"), 426),
        (_REQUEST.replace(b"keep-alive, Upgrade", b"Upgrade, ;"), 400),
        (_REQUEST.replace(b"keep-alive, Upgrade", b";"), 400),
        (_REQUEST.replace(b"GET", b"POST").replace(b"keep-alive, Upgrade", b"close"), 405),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + _REQUEST, 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2 + _REQUEST, 400),
    ],
)
async def test_a_handshake_that_is_none_is_a_problem_and_the_end(world: World, request_: bytes, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    writer.write(request_)
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert body.count(b"HTTP/1.1") == 0, "one answer"
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    assert body.startswith(b"{")
    writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        _REQUEST.replace(b"keep-alive, Upgrade", b"upgrade\r\nConnection: keep-alive"),
        _REQUEST.replace(b"keep-alive, Upgrade", b"keep-alive\r\nConnection: Upgrade"),
        _REQUEST.replace(b"Upgrade: websocket", b"Upgrade: WebSocket \t"),
        _REQUEST.replace(b"/ws/events", b"http://localhost/ws/events"),
        _REQUEST.replace(b"/ws/events", b"http://localhost/ws/events?since=0"),
        _REQUEST.replace(b"/ws/events", b"/ws/events?since=0#x"),
    ],
)
async def test_a_handshake_in_other_words_is_one(world: World, request_: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    writer.write(request_)
    async with asyncio.timeout(5):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_another_protocol_is_not_ours_and_is_no_news(world: World, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    async with asyncio.timeout(5):
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_a_handshake_may_come_in_pieces(world: World) -> None:
    assert world.service._server is not None
    connections = world.service._server.server_state.connections
    for cut in (1, len(_REQUEST) - 1):
        known = set(connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
        writer.write(_REQUEST[:cut])
        async with asyncio.timeout(5):
            while not any(isinstance(one, HttpProtocol) and one._unparsed == cut for one in connections - known):
                await asyncio.sleep(0)
            writer.write(_REQUEST[cut:])
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_a_handshake_after_an_answer_ends_the_wait_for_the_next_request() -> None:
    async with running(limits=replace(Limits(), ping_s=0.3)) as world:
        assert world.service._server is not None
        world.service._server.config.timeout_keep_alive = 0.1  # type: ignore[assignment]
        reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(5):
            await reader.readuntil(b'{"status":"ok"}')
            writer.write(_REQUEST)
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            assert (await reader.readexactly(2))[0] & 0x0F == PING, "later than a connection of HTTP would have lived"
        writer.close()


@pytest.mark.parametrize("then", [_REQUEST, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
async def test_a_stream_that_another_request_follows_hears_that_its_client_has_left(world: World, then: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    writer.write(b"GET /sse/events HTTP/1.1\r\nHost: localhost\r\n\r\n" + then)
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert world.service._server is not None
        while world.hub.connections or world.service._server.server_state.tasks:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\x89\x82" + bytes(4) + b"hi", b"\x8a\x02hi"),
        (b"\x88\x82" + bytes(4) + struct.pack("!H", 1000), b"\x88\x02\x03\xe8"),
        (b"\x89\x80" + bytes(4) + b"\x88\x80" + bytes(4), b"\x8a\x00\x88\x00"),
        (b"\x81\x81" + bytes(4) + b"\xff", b"\x88"),
        (b"\x81\x02hi", b"\x88"),
        (b"\x81\xff" + struct.pack("!Q", 70_000) + bytes(4), b"\x88"),
    ],
    ids=["ping", "close", "ping and close", "not UTF-8", "not masked", "too large"],
)
async def test_what_comes_with_the_handshake_is_answered_after_the_101(
    world: World, said: bytes, answer: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    writer.write(_REQUEST + said)
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(len(answer)) == answer
    writer.close()
    assert world.service._server is not None
    async with asyncio.timeout(5):
        while world.hub.connections or world.service._server.server_state.tasks:
            await asyncio.sleep(0.01)


async def test_a_refusal_is_told_to_who_says_more_than_its_handshake(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    writer.write(_REQUEST.replace(b"/ws/events", b"/ws/job/nobody") + b"\x88\x80" + bytes(4))
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 4")
    writer.close()


async def test_what_is_said_with_the_handshake_is_heard(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    client = Raw(reader, writer)
    request = _REQUEST.replace(b"/ws/events", b"/ws").replace(b"Host", b"Sec-WebSocket-Protocol: aura.v1\r\nHost")
    said = b'{"op":"ping"}'
    writer.write(request + b"\x81" + bytes([0x80 | len(said)]) + bytes(4) + said)
    async with asyncio.timeout(5):
        assert b"Sec-WebSocket-Protocol: aura.v1" in await reader.readuntil(b"\r\n\r\n")
        heard = b""
        while b"pong" not in heard:
            heard += await reader.read(1_000)
    assert b"welcome" in heard.partition(b"pong")[0], "first of all"
    client.writer.close()


async def test_a_listener_that_answers_pings_needs_no_parser_and_one_that_does_not_is_1011() -> None:
    async with running(limits=replace(Limits(), ping_s=0.05)) as world:
        one = await _Follower.live(world)
        for _ in range(3):
            opcode, payload = await one.frame()
            assert (opcode, len(payload)) == (PING, 4)
            one.client.send(10, payload)
        assert one.outlet._protocol._inbound is None
        assert await one.client.close_code() == 1011


async def test_compression_is_never_negotiated(world: World) -> None:
    client = await Raw.open(world, "/ws/events", "Sec-WebSocket-Extensions: permessage-deflate")
    assert "permessage-deflate" not in client.head
    client.writer.close()


async def test_a_client_that_closes_and_never_reads_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "CLOSE_WAIT_S", 0.05)
    async with running() as world:
        client = await Raw.open(world)
        client.send(CLOSE, struct.pack("!H", 1000))
        assert await client.close_code() == 1000
        silent = await Raw.open(world)
        while world.hub.connections != 1:
            await asyncio.sleep(0)
        world.hub.close()
        async with asyncio.timeout(5):
            while world.service._server is not None and world.service._server.server_state.connections:
                await asyncio.sleep(0.01)
        silent.writer.close()


async def test_an_application_that_fails_is_1011(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(_self: object, _message: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(clients._Listener, "receive", fails)
    client = await Raw.open(world)
    client.send(TEXT, b"{}")
    assert await client.close_code() == 1011


@pytest.mark.parametrize("fails", [False, True])
async def test_a_client_that_half_closes_and_reads_nothing_is_cut(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setattr(closing, "CLOSE_WAIT_S", 0.05)
    async with running() as world:
        one = await _Follower.stuck(world)
        if fails:
            one.outlet._protocol._failed()
        one.client.writer.write_eof()
        await _gone(world)
        assert one.outlet.closed
        one.client.writer.close()


async def test_a_client_that_half_closes_is_told_nothing_more(world: World) -> None:
    one = await _Follower.live(world)
    one.client.writer.write_eof()
    async with asyncio.timeout(5):
        while not one.outlet.closed:
            await asyncio.sleep(0)
        _event(world)
        assert await one.client.reader.read() == b""
    await _gone(world)
    one.client.writer.close()


@pytest.mark.parametrize("code", [1000, 4408])
async def test_who_ends_while_the_transport_closes_is_closed_and_cut(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(closing, "CLOSE_WAIT_S", 0.05 if code == 1000 else 1_000)
    async with running() as world:
        one = await _Follower.stuck(world)
        one.outlet.transport.transport.close()
        one.outlet.end(code, "")
        assert one.outlet.closed
        one.outlet.end(code, "")
        await _gone(world)
        one.client.writer.close()


async def test_no_timer_outlives_its_connection(world: World) -> None:
    one = await _Follower.live(world)
    one.client.send(CLOSE, struct.pack("!H", 1000))
    await one.client.close_code()
    await _gone(world)
    cut = one.outlet._protocol._cut
    assert cut is not None
    assert cut.cancelled()


async def _gone(world: World) -> None:
    """Nothing is left of any connection."""
    assert world.service._server is not None
    state = world.service._server.server_state
    async with asyncio.timeout(5):
        while state.connections or state.tasks or world.hub.connections:
            await asyncio.sleep(0.01)


async def test_pings_of_a_client_that_reads_nothing_do_not_pile_up() -> None:
    async with running(limits=replace(Limits(), outbound_bytes=1_000)) as world:
        client = await Raw.open(world)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        chunk = (b"\x89\xfd" + bytes(4) + b"x" * 125) * 500
        with pytest.raises(ConnectionError):
            await _send_for_ever(client.writer, chunk)


async def _send_for_ever(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    async with asyncio.timeout(20):
        while True:
            writer.write(chunk)
            await writer.drain()


class _Follower:
    """A client that reads when it is told to, and its outlet, which the group sends to past the transport."""

    def __init__(self, client: Raw, outlet: WebSocketOutlet) -> None:
        self.client, self.outlet = client, outlet

    @classmethod
    async def live(cls, world: World) -> _Follower:
        before = set(world.hub._outlets)
        client = await Raw.open(world)
        await _members(world, len(before) + 1)
        [outlet] = set(world.hub._outlets) - before
        assert isinstance(outlet, WebSocketOutlet)
        return cls(client, outlet)

    @classmethod
    async def stuck(cls, world: World) -> _Follower:
        """One that reads nothing, with bytes that the system does not take."""
        one = await cls.live(world)
        one.client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        while not one.outlet.buffered():
            _event(world, 200_000)
        return one

    def past(self) -> bool:
        """Whether it is sent to past its transport."""
        return self.outlet.lane is not None

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame."""
        first, size = await self.client.reader.readexactly(2)
        length = int.from_bytes(await self.client.reader.readexactly(2)) if size == 126 else size
        if size == 127:
            length = int.from_bytes(await self.client.reader.readexactly(8))
        return first & 0x0F, await self.client.reader.readexactly(length)


async def _members(world: World, count: int) -> None:
    async with asyncio.timeout(5):
        while sum(len(group.members) for group in world.hub._groups.values()) < count:
            await asyncio.sleep(0)


def _event(world: World, size: int = 10) -> int:
    """Straight to the hub, written at once; the sequence."""
    seq = world.hub.head + 1
    body = b'{"id":"%d","pad":"%b"}' % (seq, b"x" * size)
    world.hub.on_batch([Recorded(seq, "aura.job.1.a.created", 0, body)])
    world.hub.flush()
    return seq


async def test_what_the_system_does_not_take_waits_in_the_transport_in_order(world: World) -> None:
    one = await _Follower.live(world)
    one.client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    _event(world)
    assert one.past()
    while not one.outlet.buffered():
        _event(world, 200_000)
    assert not one.past(), "while the transport holds the rest of a frame"
    last = _event(world)
    one.client.reader._transport.resume_reading()  # type: ignore[attr-defined]
    for seq in range(1, last + 1):
        opcode, payload = await one.frame()
        assert (opcode, payload.startswith(b'{"seq":%d,' % seq)) == (TEXT, True)
    await one.outlet.drained(5)
    while one.outlet.buffered():
        await asyncio.sleep(0)
    _event(world)
    assert one.past(), "again"
    assert (await one.frame())[1].startswith(b'{"seq":%d,' % (last + 1))


async def test_what_is_said_between_events_is_not_overtaken(world: World) -> None:
    one = await _Follower.live(world)
    _event(world)
    one.outlet.write(b"\x81\x02{}")
    _event(world)
    assert [(await one.frame())[1][:8] for _ in range(3)] == [b'{"seq":1', b"{}", b'{"seq":2']


async def test_no_event_follows_a_close_and_the_others_go_on(world: World) -> None:
    gone, stays = await _Follower.live(world), await _Follower.live(world)
    _event(world)
    gone.outlet.end(1000, "enough")
    assert not gone.past()
    _event(world)
    assert [(await gone.frame())[0] for _ in range(2)] == [TEXT, CLOSE]
    gone.client.send(CLOSE, struct.pack("!H", 1000))
    assert await gone.client.reader.read() == b""
    assert [(await stays.frame())[1][:8] for _ in range(2)] == [b'{"seq":1', b'{"seq":2']


async def test_a_connection_that_is_cut_is_never_sent_to_again(world: World) -> None:
    cut, stays = await _Follower.live(world), await _Follower.live(world)
    _event(world)
    cut.outlet.transport.abort()
    assert (cut.outlet.lane, cut.outlet.past()) == (None, None), "before the file descriptor is somebody else's"
    _event(world)
    await cut.frame()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await cut.frame()
    assert [(await stays.frame())[1][:8] for _ in range(2)] == [b'{"seq":1', b'{"seq":2']


async def test_one_that_is_too_slow_is_4408_and_the_others_get_everything() -> None:
    async with running(limits=replace(Limits(), outbound_bytes=50_000)) as world:
        slow, good = await _Follower.live(world), await _Follower.live(world)
        slow.client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        while not slow.outlet.closed:
            seq = _event(world, 20_000)
            assert (await good.frame())[1].startswith(b'{"seq":%d,' % seq)
        slow.client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        seen = 0
        while (found := await slow.frame())[0] == TEXT:
            seen += 1
            assert found[1].startswith(b'{"seq":%d,' % seen)
        assert found == (CLOSE, struct.pack("!H", 4408) + b"since=%d" % seen)


def test_of_a_connection_that_is_half_gone_our_address_is_known() -> None:
    class Transport(asyncio.Transport):
        def __init__(self, held: socket.socket | None) -> None:
            super().__init__({"socket": held})

    with socket.create_server(("127.0.0.1", 0)) as held:
        assert _ends(Transport(held)) == (held.getsockname(), None)
    assert _ends(Transport(held)) == _ends(Transport(None)) == (None, None)


async def test_a_head_that_trickles_is_cut() -> None:
    async with running(limits=replace(Limits(), head_timeout_s=0.05)) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: lo")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        assert (await world.http.get("/health")).status_code == 200


async def test_a_body_that_trickles_is_408() -> None:
    async with running(limits=replace(Limits(), body_timeout_s=0.05)) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
        writer.write(
            b"POST /prds HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert b" 408 " in answer.partition(b"\r\n")[0]
        writer.close()


async def test_a_response_is_one_packet_and_pipelining_works(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
    async with asyncio.timeout(5):
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(15) == b'{"status":"ok"}'
    writer.close()


async def test_a_worker_that_hangs_up_stops_waiting_and_claims_nothing() -> None:
    world = make_world()
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def next_job(
        model: str, worker_id: str, wait_s: float, lease_ttl_s: float | None, caller: Caller
    ) -> Row | None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return None

    world.ctx = replace(world.ctx, next_job=next_job)
    world.service._ctx = world.ctx
    await world.service.start()
    _, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    body = b'{"worker_id":"w"}'
    writer.write(
        b"POST /models/m/next HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    async with asyncio.timeout(5):
        await started.wait()
        writer.close()
        await cancelled.wait()
    await world.service.stop()


async def test_a_listening_gateway_on_another_address_needs_authentication() -> None:
    from aura.errors import ConfigError

    world = make_world(host="0.0.0.0")
    with pytest.raises(ConfigError, match="without authentication"):
        await world.service.start()


async def test_a_port_that_is_taken_is_a_clear_error(world: World) -> None:
    from aura.errors import ConfigError

    other = make_world(port=world.service.port)
    with pytest.raises(ConfigError, match="cannot listen"):
        await other.service.start()
    await other.service.stop()


async def test_the_page_has_no_inline_scripts_and_nothing_from_elsewhere(world: World) -> None:
    page = await world.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for forbidden in ("<script>", "<style", "style=", "onclick", "http://", "https://", "javascript:"):
        assert forbidden not in page.text
    script = await world.http.get("/page/app.js")
    for forbidden in ("innerHTML", "insertAdjacentHTML", "outerHTML", "document.write", "eval("):
        assert forbidden not in script.text
    cached = await world.http.get("/", headers={"if-none-match": page.headers["etag"]})
    assert cached.status_code == 304


async def test_stopping_twice_and_never_started_is_safe() -> None:
    world = make_world()
    await world.service.stop()
    await world.service.stop()


async def test_a_closed_feed_leaves_nothing_behind(world: World) -> None:
    [job_id] = await world.submit()
    for path in ("/ws/events", f"/ws/job/{job_id}", f"/ws/events?subject=aura.job.1.{job_id}.>"):
        async with world.ws(path):
            pass
    async with world.ws("/ws/events") as socket:
        world.hub.close()
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    async with asyncio.timeout(5):
        while world.hub.connections or world.live.followers or world.hub._groups or not world.hub._trie._root.empty:
            await asyncio.sleep(0.01)
