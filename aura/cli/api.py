"""The HTTP client of the command line. Problems (RFC 9457) come back as the errors they were made from."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import orjson

from aura import errors
from aura.cli.options import bearer, gateway_url
from aura.ids import SystemIds
from aura.problems import error_of

#: A command whose answer got lost is repeated this often, with its idempotency key.
REPEATS = 3


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
        self._bearer = bearer()

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
            self._connection.request(method, target, body, {**self._bearer, **headers})
            response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise AnswerLost(f"{self.url} gave no answer: {type(error).__name__}") from error
        if refuse and response.status >= 400:
            raise error_of(response.status, self._body(response))
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
