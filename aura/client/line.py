"""A WebSocket that is opened again whenever it breaks.

What ends it for good is raised: a handshake refused with 4xx, a close that says "you may not" (1008, 4401, 4403) or "this is nonsense"
(1002, 1003, 1007, 1009). Everything else (a restart, a cut, 4408 "too slow") is an interruption: pause with jitter, and open again. So
is a gateway that is full for the moment, which says so with 429 or 503 in the handshake, or with 1013 after it. Only where nothing of
that kind answers does the very first opening raise ``Unavailable`` at once: somebody typed the wrong URL.

Back-pressure: messages are read one at a time as the caller asks for them. Behind that stand a few buffered frames here, the socket's
buffers, and the server's budget per client; a caller that is too slow for all three is closed by the server and resumes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from aura.client.backoff import Backoff
from aura.errors import AuraError, Forbidden, InvalidRequest, Overloaded, Unauthenticated, Unavailable
from aura.problems import error_of

#: Largest message taken: an array of frames holds at most a page of the log.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
OPEN_TIMEOUT_S, CLOSE_TIMEOUT_S = 10.0, 1.0
_FINAL: dict[int, type[Unauthenticated | Forbidden | InvalidRequest]] = {
    1002: InvalidRequest,
    1003: InvalidRequest,
    1007: InvalidRequest,
    1008: InvalidRequest,
    1009: InvalidRequest,
    4401: Unauthenticated,
    4403: Forbidden,
}
#: "Try again later": the gateway is full, it has nothing against us. In a handshake it says the same with one of these statuses.
_TRY_LATER, _BUSY = 1013, frozenset({429, 503})
#: The log that a connection follows, as the handshake's answer names it.
_EPOCH = "Aura-Epoch"

Json = dict[str, Any]


class Line:
    """One open connection: send and receive JSON. Iterating ends by raising."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.epoch = socket.response.headers.get(_EPOCH) if socket.response is not None else None
        """The log's identity; ``None`` where the handshake did not say."""

    async def send(self, message: Json) -> None:
        """One message."""
        try:
            await self._socket.send(orjson.dumps(message).decode())
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def receive(self) -> Json | list[Json]:
        """The next message. Raises ``Unavailable`` (try again), or what the close says."""
        try:
            message = await self._socket.recv(decode=False)
        except ConnectionClosed as error:
            raise _closed(error) from error
        try:
            found: Json | list[Json] = orjson.loads(message)
        except orjson.JSONDecodeError as error:
            raise Unavailable("the gateway sent something that is no JSON") from error
        return found

    async def frames(self) -> AsyncGenerator[Json, None]:
        """The messages, arrays taken apart."""
        while True:
            message = await self.receive()
            for frame in message if isinstance(message, list) else [message]:
                yield frame


def _closed(error: ConnectionClosed) -> AuraError:
    code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
    text = f"the live feed closed with {code}" + (f": {reason}" if reason else "")
    if code in _FINAL:
        return _FINAL[code](text)
    return Overloaded(text) if code == _TRY_LATER else Unavailable(text, retry_after_s=0)


class Retry:
    """What to do when a line broke: raise while no gateway was ever heard of, else tell, pause, and return."""

    def __init__(self, backoff: Backoff, on_retry: Callable[[AuraError], None]) -> None:
        self._backoff = backoff
        self._on_retry = on_retry
        self._ever = False

    def began(self) -> None:
        """A line is open and speaks."""
        self._ever = True
        self._backoff.began()

    def busy(self) -> None:
        """A gateway is there, and has no room now."""
        self._ever = True

    async def after(self, error: Unavailable) -> None:
        """Returns when it is time to open again; raises ``error`` when the first opening failed."""
        if not self._ever and not isinstance(error, Overloaded):
            raise error
        self._on_retry(error)
        await self._backoff.wait(error.retry_after_s)


class Lines:
    """How to open lines to one gateway. ``on_retry`` hears of every interruption."""

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        backoff: Callable[[], Backoff],
        on_retry: Callable[[AuraError], None],
        *,
        trust_env: bool = False,
    ) -> None:
        self._url = f"ws{url.removeprefix('http')}"
        self._headers = headers
        self._backoff = backoff
        self._on_retry = on_retry
        self._proxy: Literal[True] | None = True if trust_env else None

    def retry(self) -> Retry:
        """For one feed."""
        return Retry(self._backoff(), self._on_retry)

    @asynccontextmanager
    async def open(self, path: str, retry: Retry, subprotocol: str | None = None) -> AsyncIterator[Line]:
        """One connection. Raises ``Unavailable`` when there is none to be had, else what the refusal says. ``retry`` hears of a gateway
        that is only busy."""
        opening = connect(
            self._url + path,
            additional_headers=self._headers,
            subprotocols=[Subprotocol(subprotocol)] if subprotocol else None,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            proxy=self._proxy,
        )
        try:
            socket = await opening
        except InvalidStatus as error:
            if error.response.status_code in _BUSY:
                retry.busy()
            raise error_of(error.response.status_code, bytes(error.response.body or b"")) from error
        except (OSError, WebSocketException, TimeoutError) as error:
            raise Unavailable(f"no live feed at {self._url}: {type(error).__name__}", retry_after_s=0) from error
        try:
            if subprotocol != socket.subprotocol:
                raise InvalidRequest(f"the gateway at {self._url} does not speak {subprotocol}")
            yield Line(socket)
        finally:
            await socket.close()
