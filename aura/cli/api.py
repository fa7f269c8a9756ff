"""The HTTP client of the command line. Problems (RFC 9457) come back as the errors they were made from."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import orjson

from aura import errors
from aura.cli.options import gateway_url
from aura.commands.wire import error_of
from aura.ids import SystemIds

#: A command whose answer got lost is repeated this often, with its idempotency key.
REPEATS = 3


def problem_error(status: int, body: bytes) -> errors.AuraError:
    """The error that a problem document describes; an answer that is none is judged by its status."""
    error = error_of(status, body)
    if type(error) is errors.Refused:
        by_status = {401: errors.Unauthenticated, 403: errors.Forbidden, 404: errors.NotFound, 409: errors.Conflict}
        found = by_status.get(status, errors.InvalidRequest)
        error = errors.NotFound("resource", "") if found is errors.NotFound else found(error.detail)
    problem: object = None
    with contextlib.suppress(orjson.JSONDecodeError):
        problem = orjson.loads(body)
    if isinstance(problem, dict) and (said := problem.get("detail") or problem.get("title")):
        error.detail = str(said)
    return error


class Api:
    """A gateway over HTTP. ``with Api(url, data) as api``. Raises ``aura.errors`` only.

    On ``http.client``: an HTTP library with more to it takes longer to import than most commands to run.
    """

    def __init__(self, url: str | None = None, data: Path | None = None, *, timeout_s: float = 30.0) -> None:
        self.url = gateway_url(url, data)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise errors.ConfigError(f"{self.url!r} is not an http(s) URL")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._prefix = parts.path
        self._ids = SystemIds()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, accept: str = "application/json") -> Any:
        """Decoded JSON, or text for another ``accept``."""
        with self._ask("GET", path, params, None, {"Accept": accept}) as response:
            body = self._body(response)
        return orjson.loads(body) if "json" in accept else body.decode("utf-8", "replace")

    def probe(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers (lower case) and body of whatever is answered, errors included."""
        with self._ask("GET", path, None, None, {}, refuse=False) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, headers, self._body(response)

    def post(
        self, path: str, body: object = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Send a command. It carries an idempotency key, so an answer that got lost is asked for again."""
        sent = {"Idempotency-Key": key or self._ids.uuid7(), "Content-Type": "application/json", **(headers or {})}
        for left in range(REPEATS, 0, -1):
            try:
                with self._ask("POST", path, None, orjson.dumps(body), sent) as response:
                    return orjson.loads(self._body(response))
            except AnswerLost:
                if left == 1:
                    raise
        raise AssertionError("the loop returns or raises")

    def lines(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[str]:
        """The lines of an NDJSON answer, as they come."""
        with self._ask("GET", path, params, None, {"Accept": "application/x-ndjson"}) as response:
            try:
                for line in response:
                    yield line.decode("utf-8", "replace").rstrip("\n")
            except (OSError, http.client.HTTPException) as error:
                raise errors.Unavailable(f"{self.url} broke off: {type(error).__name__}") from error

    def _ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        refuse: bool = True,
    ) -> http.client.HTTPResponse:
        given = _given(params)
        target = f"{self._prefix}{path}" + (f"?{urlencode(given)}" if given else "")
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except OSError as error:
                text = f"no gateway at {self.url} ({type(error).__name__}): start `aura up`, or set AURA_URL"
                raise errors.Unavailable(text) from error
        try:
            self._connection.request(method, target, body, dict(headers))
            response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise AnswerLost(f"{self.url} gave no answer: {type(error).__name__}") from error
        if refuse and response.status >= 400:
            raise problem_error(response.status, self._body(response))
        return response

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise AnswerLost(f"{self.url} broke off: {type(error).__name__}") from error


class AnswerLost(errors.Unavailable):
    """The request was sent and its outcome is not known."""


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def segment(text: str) -> str:
    """One path segment of whatever the user typed."""
    return quote(text, safe="")


async def follow(url: str, path: str, query: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """One WebSocket's messages until it ends. Raises ``Unavailable`` when it cannot be opened or breaks, else as HTTP would."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

    target = f"ws{url.removeprefix('http')}{path}"
    if given := _given(query):
        target += "?" + urlencode(given)
    try:
        async with connect(target, max_size=None, proxy=None, open_timeout=10) as socket:
            async for message in socket:
                decoded = orjson.loads(message)
                if isinstance(decoded, dict):
                    yield decoded
            code = socket.close_code
    except InvalidStatus as error:
        raise problem_error(error.response.status_code, bytes(error.response.body or b"")) from error
    except ConnectionClosed as error:
        code = error.rcvd.code if error.rcvd else 1006
    except (OSError, WebSocketException, TimeoutError) as error:
        raise errors.Unavailable(f"no live feed at {url}: {type(error).__name__}") from error
    if code not in (1000, None):
        raise errors.Unavailable(f"the live feed closed with {code}")
