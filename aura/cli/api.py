"""The HTTP client of the command line. Problems (RFC 9457) come back as the errors they were made from."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
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
    """A gateway over HTTP. ``with Api(url, data) as api``. Raises ``aura.errors`` only."""

    def __init__(self, url: str | None = None, data: Path | None = None, *, timeout_s: float = 30.0) -> None:
        self.url = gateway_url(url, data)
        self._client = httpx.Client(base_url=self.url, timeout=timeout_s, trust_env=False)
        self._ids = SystemIds()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, accept: str = "application/json") -> Any:
        """Decoded JSON, or text for another ``accept``."""
        response = self._send("GET", path, params=_given(params), headers={"Accept": accept})
        return response.json() if "json" in accept else response.text

    def post(
        self, path: str, body: object = None, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Send a command. It carries an idempotency key, so an answer that got lost is asked for again."""
        sent = {"Idempotency-Key": key or self._ids.uuid7(), "Content-Type": "application/json", **(headers or {})}
        for left in range(REPEATS, 0, -1):
            try:
                return self._send("POST", path, content=orjson.dumps(body), headers=sent).json()
            except _AnswerLost:
                if left == 1:
                    raise
        raise AssertionError("the loop returns or raises")

    def lines(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[str]:
        """The lines of an NDJSON answer, as they come."""
        try:
            with self._client.stream(
                "GET", path, params=_given(params), headers={"Accept": "application/x-ndjson"}
            ) as response:
                if response.status_code >= 400:
                    raise problem_error(response.status_code, response.read())
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._gone(error) from error

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **options)
        except httpx.ConnectError as error:
            raise self._gone(error) from error
        except httpx.TransportError as error:
            raise _AnswerLost(f"{self.url} gave no answer: {type(error).__name__}") from error
        if response.status_code >= 400:
            raise problem_error(response.status_code, response.content)
        return response

    def _gone(self, error: Exception) -> errors.Unavailable:
        return errors.Unavailable(
            f"no gateway at {self.url} ({type(error).__name__}): start `aura up`, or set AURA_URL"
        )


class _AnswerLost(errors.Unavailable):
    """The command was sent and its outcome is not known."""


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def segment(text: str) -> str:
    """One path segment of whatever the user typed."""
    return quote(text, safe="")


async def follow(url: str, path: str, query: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """One WebSocket's messages until it ends. Raises ``Unavailable`` when it cannot be opened or breaks, else as HTTP would."""
    from urllib.parse import urlencode

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
