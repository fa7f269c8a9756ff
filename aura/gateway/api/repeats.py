"""What keyed POSTs were answered, kept for a while, so that a repeat is told the same and another request under its key is refused.

The log remembers the keys of what concerns jobs (``domain/job_state.py``): exactly, over all gateways and restarts. This is for the rest
(a model's pause, a bulk action, a heartbeat, a ticket …), and saves the log a look at what was just asked: best effort of one process,
bounded in number, bytes and time. A repeat that it has forgotten is carried out like any request; whatever it meets in the log holds.

Invariants: only what was answered with success is kept, and only for who asked, with the same access, on the same path. No answer that
holds content is kept (claims, results): it would outlive a purge. What renews something (heartbeats) does so every time it is sent; its
repeat is told the first answer as long as that is still true. Requests are the same when they mean the same: order and spelling of
the JSON, and whether an argument came by body or by query, make no difference.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aura.clock import Clock
from aura.errors import KeyReused
from aura.gateway.access.principal import Principal
from aura.gateway.api import bodies
from aura.gateway.api.endpoint import Endpoint
from aura.gateway.limits import Limits

KEPT_S = 3_600.0
MAX_KEPT = 10_000
MAX_BYTES = 16 * 1024 * 1024
#: A larger answer is not kept; that there was one, and to what, is.
MAX_ANSWER = 256 * 1024

_Who = tuple[str, frozenset[int] | None, str, str]


@dataclass(slots=True)
class Use:
    """One use of a key. ``answer``: body and the headers that a repeat is told; ``None`` when it was too large."""

    who: _Who
    asked: bytes
    at_s: float
    status: int = 0
    answer: tuple[bytes, dict[str, str]] | None = None

    @property
    def size(self) -> int:
        """Bytes, about."""
        return 500 + (len(self.answer[0]) if self.answer is not None else 0)


class Repeats:
    """See the module."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._kept: OrderedDict[_Who, Use] = OrderedDict()
        self._bytes = 0

    async def use_of(self, endpoint: Endpoint, request: Request, principal: Principal) -> Use | None:
        """The use that a request makes of its key; ``None`` without one. Raises what reading the body raises."""
        key = request.headers.get("idempotency-key")
        if key is None or endpoint.method != "POST" or endpoint.repeat == "not kept":
            return None
        body = await bodies.read(request, self._limits)
        try:
            said = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError:
            return None  # whoever reads it says what is wrong with it
        if endpoint.text_field is not None and isinstance(said, str):
            said = {endpoint.text_field: said}
        asked = [dict(request.query_params) | said if isinstance(said, dict) else said]
        digest = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest()
        return Use((principal.actor, principal.projects, request.url.path, key), digest, self._clock.monotonic_s())

    async def answered(self, use: Use, endpoint: Endpoint, ask: Callable[[], Awaitable[Response]]) -> Response:
        """The answer to a use: the first one's, where that is known, else what ``ask`` says. Raises ``KeyReused`` when the key was used
        with another request, and what ``ask`` raises."""
        known = self._kept.get(use.who)
        if known is not None and use.at_s - known.at_s <= KEPT_S:
            if known.asked != use.asked:
                raise KeyReused("this Idempotency-Key was used with another request")
            if known.answer is not None:
                first = Response(known.answer[0], known.status, known.answer[1])
                if endpoint.repeat == "kept":
                    return first
                now = await ask()
                return first if _same(first, now) else now
        return self._keeping(use, await ask())

    def _keeping(self, use: Use, answer: Response) -> Response:
        """The answer, to be sent; it is kept if it says success."""
        if not 200 <= answer.status_code < 300:
            return answer
        use.status = answer.status_code
        headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
        if isinstance(answer, StreamingResponse):
            answer.body_iterator = self._copied(use, answer.body_iterator, headers)
        else:
            self._keep(use, bytes(answer.body), headers)
        return answer

    async def _copied(self, use: Use, parts: Any, headers: dict[str, str]) -> AsyncIterator[bytes]:
        """The parts; kept when all of them were sent."""
        copy: list[bytes] = []
        size = 0
        self._keep(use, None, headers)
        async for part in parts:
            size += len(part)
            if size <= MAX_ANSWER:
                copy.append(part)
            yield part
        if size <= MAX_ANSWER:
            self._keep(use, b"".join(copy), headers)

    def _keep(self, use: Use, body: bytes | None, headers: dict[str, str]) -> None:
        self._forget(use.who)
        use.answer = (body, headers) if body is not None and len(body) <= MAX_ANSWER else None
        self._kept[use.who] = use
        self._bytes += use.size
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, who: _Who) -> None:
        gone = self._kept.pop(who, None)
        if gone is not None:
            self._bytes -= gone.size


def _same(first: Response, now: Response) -> bool:
    """Whether two answers say the same, but for the sequence at which it is so."""
    if first.status_code != now.status_code:
        return False
    one, other = orjson.loads(first.body), orjson.loads(now.body)
    return isinstance(one, dict) and isinstance(other, dict) and {**one, "seq": 0} == {**other, "seq": 0}
