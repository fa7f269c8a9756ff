"""HTTP with what a program wants of it: typed errors, repeats that change nothing twice, pauses with jitter.

Every POST carries an ``Idempotency-Key`` (G2), so a request whose answer got lost is sent again as it was. Repeated are: no connection, no
answer, 429, 502, 503, 504. Everything else is an answer. The last failure is raised when ``tries`` are used up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import httpx
import orjson

from aura.client.backoff import Backoff
from aura.errors import AuraError, Unavailable
from aura.ids import IdSource
from aura.problems import error_of

_AGAIN = frozenset({429, 502, 503, 504})


class Http:
    """One gateway. Raises ``aura.errors`` only."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        ids: IdSource,
        backoff: Callable[[], Backoff],
        *,
        tries: int,
        on_retry: Callable[[AuraError], None],
    ) -> None:
        self._client = client
        self._ids = ids
        self._backoff = backoff
        self._tries = tries
        self._on_retry = on_retry

    async def get(self, path: str, params: Mapping[str, Any] | None = None, *, accept: str = "application/json") -> Any:
        """Decoded JSON, or text for another ``accept``."""
        answer = await self._ask("GET", path, params=_given(params), headers={"Accept": accept})
        return _json(answer) if "json" in accept else answer.text

    async def pages(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """The rows of a list and of the pages that its ``Link`` headers name."""
        answer = await self._ask("GET", path, params=_given(params))
        while True:
            for row in _json(answer):
                yield row
            more = answer.links.get("next", {}).get("url")
            if more is None:
                return
            answer = await self._ask("GET", more)

    async def post(self, path: str, body: object = None, *, key: str | None = None, **headers: str) -> Any:
        """Send a command; the decoded answer (``None`` for an empty one)."""
        sent = {"Idempotency-Key": key or self._ids.uuid7(), "Content-Type": "application/json", **headers}
        answer = await self._ask("POST", path, content=orjson.dumps(body), headers=sent)
        return _json(answer) if answer.content else None

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        backoff = self._backoff()
        for left in range(self._tries - 1, -1, -1):
            try:
                answer = await self._client.request(method, path, **request)
            except httpx.TransportError as error:
                failure: AuraError = Unavailable(f"no answer from {self._client.base_url}: {type(error).__name__}")
                failure.__cause__ = error
            else:
                if answer.status_code < 400:
                    return answer
                failure = error_of(answer.status_code, answer.content)
                if answer.status_code not in _AGAIN:
                    raise failure
            if left == 0:
                raise failure
            self._on_retry(failure)
            await backoff.wait(
                failure.retry_after_s if isinstance(failure, Unavailable) and not failure.__cause__ else 0
            )
        raise AssertionError("the loop returns or raises")


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _json(answer: httpx.Response) -> Any:
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError as error:
        raise Unavailable(f"{answer.url} did not answer JSON") from error
