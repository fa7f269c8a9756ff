"""Bytes of the socket to plain functions: once, in order, however they arrive, and nothing stops the reading."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats import errors as nats_errors

from aura.log.connection import Connection
from aura.log.direct import DirectReader


class Transport(asyncio.Transport):
    """Delivers what a test writes, unless reading is paused; then it keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.kept: list[bytes] = []
        self.pauses = 0
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False
        self.pauses += 1

    def resume_reading(self) -> None:
        self.reading = True
        while self.kept and self.reading:
            self.protocol.data_received(self.kept.pop(0))

    def deliver(self, data: bytes) -> None:
        self.kept.append(data)
        if self.reading:
            self.resume_reading()


class Wire:
    """A connection whose server is the test. ``before`` has arrived before the reading begins."""

    def __init__(self, before: bytes = b"", gather_s: float = 0.0) -> None:
        self.connection = Connection()
        self.connection.gather_s = gather_s
        self.transport = Transport()
        reader = asyncio.StreamReader()
        stream = asyncio.StreamReaderProtocol(reader)
        stream.connection_made(self.transport)
        self.transport.set_protocol(stream)
        if before:
            stream.data_received(before)
        writer = asyncio.StreamWriter(self.transport, stream, reader, asyncio.get_running_loop())
        self.task = asyncio.create_task(DirectReader(self.connection, self.connection._ps, writer).run(reader))

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


BODY = st.binary(max_size=60)
MESSAGE = st.tuples(st.sampled_from([1, 2]), st.booleans(), st.booleans(), BODY)


@given(
    st.lists(MESSAGE, max_size=30),
    st.lists(st.integers(min_value=1, max_value=40), min_size=1),
    st.booleans(),
    st.integers(min_value=0, max_value=50),
    st.lists(st.booleans(), min_size=1),
)
def test_the_same_messages_are_found_however_the_bytes_arrive(
    messages: list[tuple[int, bool, bool, bytes]], sizes: list[int], pings: bool, before: int, turns: list[bool]
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
        wire = Wire(stream[:before])
        for sid in (1, 2):
            wire.connection.raw_handlers[sid] = lambda *message: found.append(message)
        position, turn = before, 0
        while position < len(stream):
            if turns[turn % len(turns)]:
                await asyncio.sleep(0)
            size = sizes[turn % len(sizes)]
            wire.transport.deliver(stream[position : position + size])
            position, turn = position + size, turn + 1
        while wire.transport.kept:
            await asyncio.sleep(0)
        await wire.settle()
        assert wire.transport.reading
        await wire.close()

    asyncio.run(feed())
    assert found == wanted


async def test_a_handler_that_raises_does_not_stop_the_others() -> None:
    wire = Wire()
    seen: list[bytes] = []

    def broken(*_message: object) -> None:
        raise KeyError("bug")

    wire.connection.raw_handlers[1] = broken
    wire.connection.raw_handlers[2] = lambda _s, _r, body, _h: seen.append(body)
    await wire.settle()
    wire.transport.deliver(b"MSG a 1 1\r\nx\r\nMSG a 2 1\r\ny\r\nPONG\r\nMSG a 1 1\r\nx\r\nMSG a 2 1\r\nz\r\n")
    await wire.settle()
    assert seen == [b"y", b"z"]
    await wire.close()


@pytest.mark.parametrize("lost", [None, ConnectionResetError("reset")])
async def test_the_end_of_the_connection_ends_the_reading(lost: OSError | None) -> None:
    wire = Wire()
    await wire.settle()
    wire.transport.protocol.connection_lost(lost)
    with pytest.raises(OSError if lost else nats_errors.UnexpectedEOF):
        await asyncio.wait_for(wire.task, 5)


async def test_an_end_that_came_before_the_reading_began_is_noticed() -> None:
    wire = Wire(before=b"MSG a 1 1\r\nx\r\n")
    seen: list[bytes] = []
    wire.connection.raw_handlers[1] = lambda _s, _r, body, _h: seen.append(body)
    wire.transport.protocol.eof_received()
    with pytest.raises(nats_errors.UnexpectedEOF):
        await asyncio.wait_for(wire.task, 5)
    assert seen == [b"x"]


async def test_a_connection_that_lets_messages_gather_is_woken_once_for_many() -> None:
    wire = Wire(gather_s=0.001)
    seen: list[bytes] = []
    wire.connection.raw_handlers[1] = lambda _s, _r, body, _h: seen.append(body)
    await wire.settle()
    wire.transport.deliver(b"MSG a 1 1\r\n1\r\n")
    assert seen == [b"1"], "the first of all is not kept waiting"
    for number in (b"2", b"3"):
        wire.transport.deliver(b"MSG a 1 1\r\n%b\r\n" % number)
    assert seen == [b"1"]
    while len(seen) < 3:
        await asyncio.sleep(0.001)
    assert seen == [b"1", b"2", b"3"]
    await wire.close()
