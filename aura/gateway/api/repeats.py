"""What keyed POSTs were answered, kept for a while, so that a repeat is told the same and another request under its key is refused.

The log remembers the keys of what concerns jobs (``domain/job_state.py``): exactly, over all gateways and restarts. This is for the
rest: best effort of one process, bounded in number, bytes and time. A repeat that it has forgotten is carried out like any request;
whatever it meets in the log holds. What an endpoint wants of it is its ``repeat``:

* ``kept`` (a model's pause, a key's revocation): the first answer, also for who repeats while the first is still under way.
* ``again`` (heartbeats): they renew something, so they do so each time they are sent; told is the first answer while it is still true.
* ``checked`` (bulk actions): carried out again, because each part is repeatable by itself and may have failed for the moment.

In all three another request under the key is refused, as long as the first one was answered with success.

Invariants: what is kept is for who asked, with the same access, on the same path; the key itself is not kept. Requests are the same when
they mean the same: order and spelling of the JSON, and whether an argument came by body or by query, make no difference.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from starlette.requests import Request
from starlette.responses import Response

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
MAX_ANSWER = 64 * 1024

_Who = tuple[str, frozenset[int] | None, str, bytes]
Ask = Callable[[], Awaitable[Response]]


def usable(key: str) -> bool:
    """Whether an ``Idempotency-Key`` is one."""
    return 1 <= len(key) <= 255 and key.isprintable()


@dataclass(slots=True)
class Use:
    """One use of a key. ``first`` is its answer, once there is one that is kept."""

    who: _Who
    asked: bytes
    at_s: float
    first: Response | None = None

    @property
    def size(self) -> int:
        """Bytes, about."""
        headers = sum(len(name) + len(value) for name, value in self.first.raw_headers) if self.first is not None else 0
        return (
            600
            + len(self.who[0])
            + len(self.who[2])
            + headers
            + (len(self.first.body) if self.first is not None else 0)
        )


class Repeats:
    """See the module."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._kept: OrderedDict[_Who, Use] = OrderedDict()
        self._bytes = 0
        self._asking: dict[_Who, tuple[Use, asyncio.Future[None]]] = {}

    async def use_of(self, endpoint: Endpoint, request: Request, principal: Principal) -> Use | None:
        """The use that a request makes of its key; ``None`` where none is made. Raises what reading the body raises."""
        key = request.headers.get("idempotency-key")
        if key is None or endpoint.repeat == "none" or not usable(key):
            return None
        said = await bodies.read_json(request, self._limits)
        if said is bodies.ABSENT:
            said = {}
        elif endpoint.text_field is not None and isinstance(said, str):
            said = {endpoint.text_field: said}
        asked = [dict(request.query_params) | said if isinstance(said, dict) else said]
        digest = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest()
        who = principal.actor, principal.projects, request.url.path, hashlib.sha256(key.encode()).digest()
        return Use(who, digest, self._clock.monotonic_s())

    async def answered(self, use: Use, endpoint: Endpoint, ask: Ask) -> Response:
        """The answer to a use. Raises ``KeyReused`` when the key was used with another request, and what ``ask`` raises."""
        while (under_way := self._asking.get(use.who)) is not None and endpoint.repeat == "kept":
            _check(under_way[0], use)
            await asyncio.wait({under_way[1]})
        known = self._kept.get(use.who)
        if known is None or use.at_s - known.at_s > KEPT_S:
            return await self._asked(use, endpoint, ask)
        _check(known, use)
        if endpoint.repeat == "kept" and known.first is not None:
            return _copy(known.first)
        now = await ask()
        return _copy(known.first) if known.first is not None and _same(known.first, now) else now

    async def _asked(self, use: Use, endpoint: Endpoint, ask: Ask) -> Response:
        """Ask, and keep what says success."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking[use.who] = use, ended
        try:
            answer = await ask()
        finally:
            if self._asking.get(use.who, (None,))[0] is use:
                del self._asking[use.who]
            ended.set_result(None)
        if 200 <= answer.status_code < 300:
            keeps = endpoint.repeat != "checked" and len(answer.body) <= MAX_ANSWER
            self._keep(use, _copy(answer) if keeps else None)
        return answer

    def _keep(self, use: Use, first: Response | None) -> None:
        self._forget(use.who)
        use.first = first
        self._kept[use.who] = use
        self._bytes += use.size
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, who: _Who) -> None:
        gone = self._kept.pop(who, None)
        if gone is not None:
            self._bytes -= gone.size


def _check(first: Use, use: Use) -> None:
    if first.asked != use.asked:
        raise KeyReused("this Idempotency-Key was used with another request")


def _copy(answer: Response) -> Response:
    copied = Response(bytes(answer.body), answer.status_code)
    copied.raw_headers = list(answer.raw_headers)
    return copied


def _same(first: Response, now: Response) -> bool:
    """Whether two answers say the same, but for the sequence at which it is so."""
    if first.status_code != now.status_code:
        return False
    one, other = orjson.loads(first.body), orjson.loads(now.body)
    return isinstance(one, dict) and isinstance(other, dict) and {**one, "seq": 0} == {**other, "seq": 0}
