"""Live clients of every dialect for fault and soak tests: they resume by their own cursor and keep their history for the checker.

Each client is one coroutine, :meth:`run`, that connects, takes what comes, and connects again when it was cut, until ``done()``. How it
reads is its ``pace``, which a test may change at any time: ``fast``; ``slow`` (so many bytes a second, through a small receive buffer);
``never`` (connects and takes nothing); ``fickle`` (breaks off at random and comes again).
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from tests.support.live_history import Heard, Told

Pace = Literal["fast", "slow", "never", "fickle"]
Message = tuple[bytes | str, bytes]
"""``(data, SSE id)``."""
EVERYTHING = ("aura.job.>", "aura.model.>", "aura.session.>", "aura.system.>")
#: Bytes a second of a slow reader.
SLOW_BYTES_S = 60_000
_AGAIN_S = 0.05


class Closed(Exception):
    """The server ended it, with a code and a reason (0 and nothing: it was cut)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Client:
    """See the module docstring. ``url`` is ``http://127.0.0.1:<port>``; ``done`` says when it has all it wants."""

    def __init__(self, name: str, url: str, done: Callable[[], bool], pace: Pace = "fast", seed: int = 0) -> None:
        self.name = name
        self.pace: Pace = pace
        self.connects = 0
        self.messages = 0
        self.closes: Counter[int] = Counter()
        self.latencies: list[float] | None = None
        """Where a test wants the seconds from an event's ``ts`` to its arrival, as long as it wants them."""
        self.connected = asyncio.Event()
        self.hurry = asyncio.Event()
        """Set: whoever was told to take nothing takes what there is."""
        self.epochs: set[str] = set()
        self._url = url
        self._done = done
        self._luck = random.Random(f"{name}{seed}")

    async def run(self) -> None:
        """Until it is done."""
        while not self._done():
            try:
                await self._once()
            except Closed as closed:
                self.closes[closed.code] += 1
                self.closed(closed)
            except (OSError, EOFError, WebSocketException, TimeoutError) as error:
                if isinstance(error, InvalidStatus) and error.response.status_code not in (429, 503):
                    raise
                self.closes[0] += 1
            if not self._done():
                await asyncio.sleep(_AGAIN_S)  # a server outside comes back when it does

    async def _once(self) -> None:
        left = self._luck.randint(1, 60) if self.pace == "fickle" else -1
        async with aclosing(self.stream()) as stream:
            self.connects += 1
            async for data, event_id in stream:
                self.messages += 1
                self.take(data, event_id)
                left -= 1
                if left == 0 or self._done():
                    return
                if self.pace == "slow":
                    await asyncio.sleep(len(data) / SLOW_BYTES_S)

    # --- for each kind of client

    def stream(self) -> AsyncGenerator[Message, None]:
        """Connect at the cursor."""
        raise NotImplementedError

    def take(self, data: bytes | str, event_id: bytes) -> None:
        """One message."""
        raise NotImplementedError

    def closed(self, closed: Closed) -> None:
        """The server said goodbye."""

    def arrived(self, ts: str) -> None:
        """Something live that happened at ``ts``."""
        if self.latencies is not None:
            self.latencies.append((datetime.now(UTC) - datetime.fromisoformat(ts)).total_seconds())

    # --- transports

    async def websocket(
        self, path: str, subprotocol: str | None = None, first: bytes | None = None
    ) -> AsyncGenerator[Message, None]:
        """Messages of a WebSocket. Raises ``Closed``."""
        small = self.pace in ("slow", "never")
        async with connect(
            self._url.replace("http", "ws") + path,
            proxy=None,
            compression=None,
            max_size=None,
            max_queue=1 if small else None,
            subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
            sock=await self._socket() if small else None,
            close_timeout=0.2,
            ping_interval=None,
            open_timeout=30,
        ) as socket_:
            if socket_.response is not None:
                self.epochs.add(socket_.response.headers["Aura-Epoch"])
            if first is not None:
                await socket_.send(first.decode())
            self.connected.set()
            if self.pace == "never":
                await self.hurry.wait()
            try:
                while True:
                    yield await socket_.recv(), b""
            except ConnectionClosed as error:
                rcvd = error.rcvd
                raise Closed(rcvd.code if rcvd else 0, rcvd.reason if rcvd else "") from None
            finally:
                if self.pace == "fickle":
                    socket_.transport.abort()

    async def events(self, path: str, last_event_id: str = "") -> AsyncGenerator[Message, None]:
        """Server-sent events. Raises ``Closed``, with the code of the last comment."""
        reader, writer = await asyncio.open_connection(sock=await self._socket(), limit=64 * 1024)
        host = self._url.removeprefix("http://")
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n" + (
            f"Last-Event-ID: {last_event_id}\r\n" * bool(last_event_id)
        )
        code, reason = 0, ""
        try:
            writer.write(f"{head}\r\n".encode())
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            if " 200 " not in answer.splitlines()[0]:
                raise OSError(answer.splitlines()[0])
            self.epochs.add(answer.partition("aura-epoch: ")[2].partition("\r\n")[0])
            self.connected.set()
            if self.pace == "never":
                await self.hurry.wait()
            async for block in _blocks(reader):
                if block.startswith(b": "):
                    word, _, reason = block[2:].decode().partition(" ")
                    code = int(word) if word.isdigit() else 0
                elif b"data: " in block:
                    head_, _, data = block.partition(b"data: ")
                    yield data, head_.removeprefix(b"id: ").partition(b"\n")[0] if head_.startswith(b"id") else b""
            raise Closed(code, reason)
        finally:
            writer.transport.abort()

    async def _socket(self) -> socket.socket:
        raw = socket.socket()
        if self.pace in ("slow", "never"):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.setblocking(False)
        host, _, port = self._url.removeprefix("http://").partition(":")
        await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
        return raw


async def _blocks(reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    """What an event stream's chunked body consists of, until it ends or is cut, taken as it comes."""
    rest = b""
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            while size:
                piece = await reader.read(min(size, 16_384))
                if not piece:
                    return
                size -= len(piece)
                *blocks, rest = (rest + piece).split(b"\n\n")
                for block in blocks:
                    yield block
            await reader.readexactly(2)
    except asyncio.IncompleteReadError:
        return


class LogClient(Client):
    """Follows the log: ``dialect`` is ``ws``, ``sse`` or ``native`` (one subscription for each of ``patterns``).

    ``since=None`` begins now. A 4408 must name a cursor that is not before what came, and from which nothing is missing."""

    def __init__(
        self, name: str, url: str, done: Callable[[int], bool], dialect: str, *,
        patterns: Sequence[str] = EVERYTHING, since: int | None = 0, pace: Pace = "fast",
    ) -> None:  # fmt: skip
        super().__init__(name, url, lambda: done(self.told.last), pace)
        self.told = Told(name, patterns, since)
        self.told.epochs = self.epochs
        self.wrongs: list[str] = []
        self._dialect = dialect
        self._patterns = patterns
        self._resume: int | None = None

    def stream(self) -> AsyncGenerator[Message, None]:
        since: int | None = self.told.last if self.told.seqs or self.told.since is not None else None
        if self._resume is not None:
            since, self._resume = self._resume, None
        if self._dialect == "native":
            origin: Any = "now" if since is None else {"seq": since + 1}
            ops = [
                {"op": "subscribe", "id": f"s{at}", "subject": pattern, "from": origin}
                for at, pattern in enumerate(("aura.>",) if self._patterns == EVERYTHING else self._patterns)
            ]
            return self.websocket("/ws", "aura.v1", orjson.dumps(ops))
        query = "" if since is None else f"since={since}"
        if self._patterns != EVERYTHING:
            query += "&subject=" + self._patterns[0]
        if self._dialect == "ws":
            return self.websocket(f"/ws/events?{query}")
        return self.events(f"/sse/events?{query}")

    def take(self, data: bytes | str, event_id: bytes) -> None:
        decoded = orjson.loads(data)
        for frame in decoded if isinstance(decoded, list) else [decoded]:
            if frame.get("op") == "reset" or frame.get("type") == "reset":
                self.told.resets += 1
            elif frame.get("op") == "error":
                self.wrongs.append(f"{self.name}: {frame}")
            elif frame.get("op") == "welcome":
                self.epochs.add(frame["epoch"])
            elif "seq" in frame and "op" not in frame:
                event = frame.get("event", frame)
                self.told.take(frame["seq"], event["id"])
                self.arrived(event["ts"])
                if self._dialect == "sse" and event_id != b"%d" % frame["seq"]:
                    self.wrongs.append(f"{self.name}: id {event_id!r} of {frame['seq']}")

    def closed(self, closed: Closed) -> None:
        if closed.code == 4408:
            self._resume = int(closed.reason.removeprefix("since="))
            if self._resume < self.told.last:
                self.wrongs.append(f"{self.name}: 4408 says {closed.reason} after {self.told.last}")


class JobClient(Client):
    """Follows one job: ``ws`` or ``sse`` (events and output), or ``native`` (its output only)."""

    def __init__(
        self, name: str, url: str, job_id: str, done: Callable[[JobClient], bool], dialect: str, *, pace: Pace = "fast"
    ) -> None:
        super().__init__(name, url, lambda: done(self), pace)
        self.job_id = job_id
        self.heard = Heard(name)
        self.events_told: list[tuple[int, str]] = []
        self.wrongs: list[str] = []
        self._dialect = dialect
        self._position = (0, 0, -1)
        self._resume = ""

    @property
    def ended(self) -> bool:
        """Whether it saw the closing event."""
        return bool(self.events_told) and self.events_told[-1][1] == "job.completed"

    @property
    def count(self) -> int:
        """How many records of the first attempt it has."""
        return len(self.heard.records.get((self.job_id, 1), ()))

    def stream(self) -> AsyncGenerator[Message, None]:
        since, cursor, after = self._position
        query, self._resume = self._resume or f"since={since}&from={cursor}&after={after}", ""
        if self._dialect == "ws":
            return self.websocket(f"/ws/job/{self.job_id}?{query}")
        if self._dialect == "sse":
            return self.events(f"/sse/job/{self.job_id}", f"{since}.{cursor}.{after}" if since or cursor else "")
        op = {
            "op": "subscribe", "id": "o", "subject": f"aura.output.1.{self.job_id}.>", "from": {"seq": cursor + 1 if cursor else 0}
        }  # fmt: skip
        return self.websocket("/ws", "aura.v1", orjson.dumps(op))

    def take(self, data: bytes | str, event_id: bytes) -> None:
        decoded = orjson.loads(data)
        for frame in decoded if isinstance(decoded, list) else [decoded]:
            since, cursor, after = self._position
            event = frame.get("event", frame)
            if event.get("op") in ("reset", "error") or event.get("type") == "reset":
                self.wrongs.append(f"{self.name}: {event}")
            elif "i" in event:
                self.heard.take(event)
                self._position = (since, event["cursor"], event["i"])
                self.arrived(event["ts"])
            elif "op" not in event:
                self.events_told.append((event["seq"], event["type"]))
                self._position = (event["seq"], cursor, after)
            if self._dialect == "sse" and event_id.decode() != ".".join(map(str, self._position)):
                self.wrongs.append(f"{self.name}: id {event_id!r} at {self._position}")

    def closed(self, closed: Closed) -> None:
        if closed.code == 4408 and self._dialect == "ws":
            self._resume = closed.reason


class StudioClient(Client):
    """Hears what changes in jobs; live only. ``ws`` or ``sse``."""

    def __init__(self, name: str, url: str, done: Callable[[StudioClient], bool], dialect: str) -> None:
        super().__init__(name, url, lambda: done(self))
        self.statuses: list[tuple[int, str]] = []
        self._dialect = dialect

    def stream(self) -> AsyncGenerator[Message, None]:
        return self.websocket("/ws") if self._dialect == "ws" else self.events("/sse/studio")

    def take(self, data: bytes | str, event_id: bytes) -> None:
        message = orjson.loads(data)
        if message["type"] == "job_status":
            self.statuses.append((message["payload"]["seq"], message["payload"]["event"]))
            self.arrived(message["payload"]["ts"])


class StoryClient(Client):
    """Follows an agent workflow to its end. ``ws`` or ``sse``."""

    def __init__(self, name: str, url: str, session_id: str, dialect: str) -> None:
        super().__init__(name, url, lambda: self.code == 1000)
        self.story: list[tuple[Any, ...]] = []
        self.code = 0
        self._session_id = session_id
        self._dialect = dialect

    def stream(self) -> AsyncGenerator[Message, None]:
        path = f"orchestrator/{self._session_id}"
        return self.websocket(f"/ws/{path}") if self._dialect == "ws" else self.events(f"/sse/{path}")

    def take(self, data: bytes | str, event_id: bytes) -> None:
        message = orjson.loads(data)
        if message["type"] != "heartbeat":
            self.story.append((message["type"], message.get("agent"), message.get("progress")))

    def closed(self, closed: Closed) -> None:
        self.code = closed.code
        if closed.code != 1000:
            self.story.clear()  # it is told from the start again
