"""The least that a Python client can do against NATS: the baseline of everything here that touches the log.

It speaks the protocol itself (no nats-py, none of Aura's code), keeps a window of publishes in flight, and only looks for an
error in an acknowledgement. So "ratio to raw" is the ratio to what the *server* does for the fastest client we can write in
this language; it says nothing about how fast other languages are.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast
from urllib.parse import urlsplit

OnMessage = Callable[[bytes, bytes, bytes], None]
"""``(subject, headers, body)``."""


class RawClient(asyncio.Protocol):
    """One connection. Make it with :func:`connect`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._handlers: dict[bytes, OnMessage] = {}
        self._pongs: list[asyncio.Future[None]] = []
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.inbox = f"_INBOX.raw{time.monotonic_ns():x}"
        self._sid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed"))

    def send(self, data: bytes) -> None:
        """Write protocol bytes."""
        assert self._transport is not None
        self._transport.write(data)

    def subscribe(self, subject: str, handler: OnMessage) -> None:
        """Core subscription."""
        self._sid += 1
        self._handlers[b"%d" % self._sid] = handler
        self.send(f"SUB {subject} {self._sid}\r\n".encode())

    async def flush(self) -> None:
        """Return when the server has handled everything sent so far."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self.send(b"PING\r\n")
        await pong

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while True:
            end = buffer.find(b"\r\n", start)
            if end < 0:
                break
            line = bytes(buffer[start:end])
            kind = line[:4]
            if kind in (b"MSG ", b"HMSG"):
                parts = line.split()
                size = int(parts[-1])
                after = end + 2 + size + 2
                if len(buffer) < after:
                    break
                headers = int(parts[-2]) if kind == b"HMSG" else 0
                payload = bytes(buffer[end + 2 : end + 2 + size])
                self._handlers[parts[2]](parts[1], payload[:headers], payload[headers:])
                start = after
                continue
            start = end + 2
            self._control(line)
        if start:
            del buffer[:start]

    def _control(self, line: bytes) -> None:
        if line.startswith(b"PING"):
            self.send(b"PONG\r\n")
        elif line.startswith(b"PONG"):
            self._pongs.pop(0).set_result(None)
        elif line.startswith(b"INFO"):
            if not self.ready.done():
                self.ready.set_result(None)
        elif line.startswith(b"-ERR"):
            raise ConnectionError(line.decode())


async def connect(url: str) -> RawClient:
    """Connect without credentials."""
    where = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(RawClient, where.hostname or "127.0.0.1", where.port or 4222)
    await client.ready
    options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "bench"}
    client.send(f"CONNECT {json.dumps(options)}\r\n".encode())
    await client.flush()
    return client


@dataclass(frozen=True, slots=True)
class Published:
    """A finished pipeline. ``latencies_ns`` in order of acknowledgement."""

    count: int
    seconds: float
    latencies_ns: list[int]

    @property
    def rate(self) -> float:
        """Acknowledged per second."""
        return self.count / self.seconds


class Pipeline:
    """Publishes with a fixed number in flight. ``build(reply)`` makes one complete command for a reply subject."""

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self._prefix = f"{client.inbox}.p."
        self._cut = len(self._prefix)
        client.subscribe(self._prefix + "*", self._on_ack)
        self._sent: dict[bytes, int] = {}
        self._left: Any = iter(())
        self._latencies: list[int] = []
        self._errors: list[bytes] = []
        self._token = 0
        self._done: asyncio.Future[None] | None = None

    async def run(self, builders: Iterable[Callable[[str], bytes]], in_flight: int) -> Published:
        """Returns when all are acknowledged. Raises ``RuntimeError`` if any was refused."""
        self._left, self._latencies, self._errors = iter(builders), [], []
        self._done = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._more(in_flight)
        await self._done
        taken = time.perf_counter() - began
        if self._errors:
            raise RuntimeError(f"{len(self._errors)} publishes refused: {self._errors[0]!r}")
        return Published(len(self._latencies), taken, self._latencies)

    def _more(self, count: int) -> None:
        commands = []
        for build in islice(self._left, count):
            self._token += 1
            token = b"%d" % self._token
            self._sent[token] = time.perf_counter_ns()
            commands.append(build(self._prefix + token.decode()))
        if commands:
            self._client.send(b"".join(commands))
        elif not self._sent and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _on_ack(self, subject: bytes, _headers: bytes, body: bytes) -> None:
        self._latencies.append(time.perf_counter_ns() - self._sent.pop(subject[self._cut :]))
        if b'"error"' in body or not body:
            self._errors.append(body)
        self._more(1)


def publish(subject: str, body: bytes) -> Callable[[str], bytes]:
    """A plain publish."""
    head, tail = f"PUB {subject} ".encode(), b" %d\r\n%b\r\n" % (len(body), body)
    return lambda reply: head + reply.encode() + tail


def guarded(subject: str, guard: str, expected: int, message_id: str, body: bytes) -> Callable[[str], bytes]:
    """A publish with the two guard headers and a message id: what one append must send at the least."""
    headers = (
        f"NATS/1.0\r\nNats-Msg-Id: {message_id}\r\nNats-Expected-Last-Subject-Sequence: {expected}\r\n"
        f"Nats-Expected-Last-Subject-Sequence-Subject: {guard}\r\n\r\n"
    ).encode()
    head = f"HPUB {subject} ".encode()
    tail = b" %d %d\r\n%b%b\r\n" % (len(headers), len(headers) + len(body), headers, body)
    return lambda reply: head + reply.encode() + tail


async def api(client: RawClient, call: str, body: dict[str, Any]) -> dict[str, Any]:
    """One JetStream API request. Raises ``RuntimeError`` for a refusal."""
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    reply = f"{client.inbox}.api.{time.monotonic_ns():x}"
    client.subscribe(reply, lambda _subject, _headers, data: answered.set_result(data))
    data = json.dumps(body).encode()
    client.send(f"PUB $JS.API.{call} {reply} {len(data)}\r\n".encode() + data + b"\r\n")
    answer: dict[str, Any] = json.loads(await answered)
    if "error" in answer:
        raise RuntimeError(f"{call}: {answer['error']}")
    return answer


async def plain_stream(client: RawClient, name: str = "BENCH_RAW") -> str:
    """A file stream like the log's, but without guards, transform or republish; returns its subject prefix."""
    await api(client, f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], "storage": "file"})
    return name
