"""The client: :class:`Aura`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from aura.client import feeds
from aura.client.backoff import Backoff, Sleep
from aura.client.http import Http
from aura.client.items import Event, Job, Note, Record, Reset, Submitted
from aura.client.line import Lines
from aura.client.log_cursor import LogCursor
from aura.clock import Clock, SystemClock
from aura.errors import AuraError, ConfigError
from aura.ids import IdSource, SystemIds

TIMEOUT_S = 30.0
#: How long :meth:`Aura.close` waits for feeds that were left.
LEFT_S = 1.0


def _silent(_error: AuraError) -> None:
    """Nobody wants to hear of interruptions."""


class Aura:
    """One gateway. ``async with Aura("http://127.0.0.1:8000") as aura``. Methods raise ``aura.errors`` only.

    ``api_key`` is sent as ``Authorization: Bearer``, never in a URL. ``tries`` bounds how often a request is sent; live feeds come back
    for ever once they had been open. ``on_retry`` hears of every repeat. ``trust_env`` uses the proxies of the environment.
    ``clock``, ``ids`` and ``sleep`` are for tests and simulations.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        tries: int = 5,
        on_retry: Callable[[AuraError], None] = _silent,
        trust_env: bool = False,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is not an http(s) URL")
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigError("the URL of a gateway has no user, query or fragment")
        self.url = url.rstrip("/")
        clock, ids = clock or SystemClock(), ids or SystemIds()

        def backoff() -> Backoff:
            return Backoff(clock, ids, sleep=sleep)

        headers = {"Authorization": f"Bearer {api_key}"} if api_key is not None else {}
        self._client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=trust_env)
        self.http = Http(self._client, ids, backoff, tries=tries, on_retry=on_retry)
        """For calls that have no method here: ``await aura.http.get("/stats")``."""
        self._lines = Lines(self.url, headers, backoff, on_retry, trust_env=trust_env)
        self._feeds: set[asyncio.Future[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the HTTP connections. Feeds close when their iteration ends; one that was left by ``break`` is closed by the event loop,
        which is given the time for it. Safe twice."""
        if self._feeds:
            await asyncio.wait(list(self._feeds), timeout=LEFT_S)
        await self._client.aclose()

    # --- submit and read

    async def submit(self, prd: Mapping[str, Any], *, key: str | None = None) -> Submitted:
        """Store a PRD ``{"title", "tasks": [{"type", "role", "payload", …}]}``: all of its jobs or none.

        ``key`` makes it yours to repeat: the same key and PRD give the same jobs, also from another process. Raises ``InvalidRequest``,
        ``KeyReused``.
        """
        answer = await self.http.post("/prds", dict(prd), key=key)
        return Submitted(
            answer["root_job_id"], tuple(answer["job_ids"]), int(answer["seq"]), str(answer.get("message", ""))
        )

    async def job(self, job_id: str, *, min_seq: int | None = None) -> Job:
        """A job, or a root job. ``min_seq`` waits until the read model has that sequence. Raises ``NotFound``."""
        return Job.of(await self.http.get(_job(job_id), {"min_seq": min_seq}))

    async def jobs(
        self,
        *,
        status: str | None = None,
        project_id: int | None = None,
        role: str | None = None,
        model: str | None = None,
        q: str | None = None,
        min_seq: int | None = None,
    ) -> AsyncGenerator[Job, None]:
        """Every job that matches, newest first, fetched a page at a time as you iterate. ``status`` may name several, with commas."""
        asked = {"status": status, "project_id": project_id, "role": role, "model": model, "q": q, "min_seq": min_seq}
        async with aclosing(self.http.pages("/jobs", asked)) as rows:
            async for row in rows:
                yield Job.of(row)

    async def events(self, job_id: str) -> list[Event]:
        """A job's history, from the log. Raises ``NotFound``."""
        rows = await self.http.get(_job(job_id, "events"))
        return [Event(row["seq"], row.get("type", ""), "", row) for row in rows]

    async def output(self, job_id: str) -> str:
        """The text that the job's newest attempt wrote so far."""
        text: str = await self.http.get(_job(job_id, "output"), accept="text/plain")
        return text

    async def result(self, job_id: str) -> dict[str, Any]:
        """``{job_id, status, attempt, details, error}`` of a closed job. Raises ``NotFound`` when there is none (or it was purged)."""
        found: dict[str, Any] = await self.http.get(_job(job_id, "result"))
        return found

    async def explain(self, job_id: str) -> dict[str, Any]:
        """Why the job is where it is."""
        found: dict[str, Any] = await self.http.get(_job(job_id, "explain"))
        return found

    # --- commands; each returns the committed sequence and raises Conflict where the job's state does not allow it

    async def cancel(self, job_id: str, reason: str = "", *, key: str | None = None) -> int:
        """Cancel an open job."""
        return await self._command(job_id, "cancel", {"reason": reason}, key)

    async def retry(self, job_id: str, reason: str = "", *, key: str | None = None) -> int:
        """Queue a closed job again."""
        return await self._command(job_id, "retry", {"reason": reason}, key)

    async def accept(self, job_id: str, reason: str = "", *, key: str | None = None) -> int:
        """Accept a submitted result."""
        return await self._command(job_id, "accept", {"reason": reason}, key)

    async def reject(self, job_id: str, reason: str = "", *, key: str | None = None) -> int:
        """Reject a submitted result."""
        return await self._command(job_id, "reject", {"reason": reason}, key)

    async def assign(self, job_id: str, model: str, *, key: str | None = None) -> int:
        """Give a queued job to a model by hand."""
        return await self._command(job_id, "assign", {"assigned_model": model}, key)

    async def reprioritize(self, job_id: str, priority: int, *, key: str | None = None) -> int:
        """Change the priority (0 first … 9)."""
        return await self._command(job_id, "priority", {"priority": priority}, key)

    async def _command(self, job_id: str, action: str, body: dict[str, Any], key: str | None) -> int:
        answer = await self.http.post(_job(job_id, action), body, key=key)
        return int(answer["seq"])

    # --- live

    async def watch(self, job_id: str) -> AsyncGenerator[Event | Record | Reset, None]:
        """A job's events and output from the start until it is closed: every one once and in order, whatever breaks meanwhile (G11).

        Where that cannot be promised (the log became another one: an older backup, say) there is a :class:`Reset`, after which the job
        is told from its start again as this log has it. Raises ``NotFound``; ``Unavailable`` only when nothing answers at the beginning.
        """

        async def history() -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = await self.http.get(_job(job_id, "events"))
            return rows

        with self._told_when_closed():
            async with aclosing(feeds.watch(self._lines, job_id, history)) as items:
                async for item in items:
                    yield item

    async def follow(
        self,
        subject: str = "aura.>",
        *,
        since: int | None = None,
        last: int | None = None,
        epoch: str | None = None,
    ) -> AsyncGenerator[Event | Note | Reset, None]:
        """Committed events on ``subject`` (NATS wildcards), for ever: after the sequence ``since``, or with the ``last`` n, or from now on.

        Every event once and in order, through restarts and cut connections. Where that cannot be promised there is a :class:`Reset`
        instead of a silent hole. To go on another day keep the ``seq`` of the last event and the ``epoch`` of the log (``GET /version``),
        and pass both. Raises ``InvalidRequest`` for a subject that is none, ``Forbidden``.
        """
        if since is not None and last is not None:
            raise ConfigError("give since or last, not both")
        cursor = LogCursor(since=since, last=last, epoch=epoch)
        with self._told_when_closed():
            async with aclosing(feeds.follow(self._lines, subject, cursor)) as items:
                async for item in items:
                    yield item

    @contextmanager
    def _told_when_closed(self) -> Iterator[None]:
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._feeds.add(closed)
        try:
            yield
        finally:
            self._feeds.discard(closed)
            if not closed.done():
                closed.set_result(None)


def _job(job_id: str, part: str = "") -> str:
    path = f"/jobs/{quote(job_id, safe='')}"
    return f"{path}/{part}" if part else path
