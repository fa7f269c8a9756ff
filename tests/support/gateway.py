"""A real gateway (uvicorn on a free port) over the in-memory log: ``async with running() as world``.

Everything is the production code but the log (``memory.py`` adapters), the tail (``MemoryTail``: the store's own follower) and the read
models (``LogQueries``: folded from the log on every call, never behind).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect

from aura.cli import compose
from aura.cli.binding.access import access_of
from aura.clock import Clock, SystemClock, parse_rfc3339
from aura.commands.handler import Caller
from aura.commands.service import CommandService, Policy, Ports
from aura.config import Settings
from aura.domain.job_state import JobStatus
from aura.domain.roles import RoleModels
from aura.errors import AuraError, InvalidRequest
from aura.gateway.api.job_output import JobOutput
from aura.gateway.context import GatewayContext
from aura.gateway.limits import Limits
from aura.gateway.live.fanout.hub import Hub
from aura.gateway.metrics import Metrics
from aura.gateway.ports import JobFilter, Page, Row
from aura.gateway.server import GatewayService
from aura.ids import SystemIds
from aura.log.content import SealedContent
from aura.log.memory import MemoryEventStore, matches
from aura.log.output import OutputMessage, SealedOutput
from aura.log.output_memory import MemoryOutputBackend, memory_content_and_output
from aura.log.store import Recorded
from aura.log.tickets import MemoryTickets
from tests.support.loops import fan

DIRECTOR_KEY = "correct horse battery staple"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CALLER = Caller("user:test", "correlation", "causation")


class MemoryTail:
    """A tail over the store's follower."""

    def __init__(self, store: MemoryEventStore, from_seq: int, on_batch: Callable[[list[Recorded]], None]) -> None:
        self._store, self._from, self._on_batch = store, from_seq, on_batch
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def age_s(self) -> float:
        return 0.0

    async def _run(self) -> None:
        async for batch in self._store.follow(self._from):
            self._on_batch(batch)


class LiveOutput:
    """Pushes what the memory output log stores, as the server's republish does; ``drop`` loses messages."""

    def __init__(self, backend: MemoryOutputBackend) -> None:
        self._followers: list[tuple[list[str], Callable[[OutputMessage], None]]] = []
        self.drop: Callable[[OutputMessage], bool] = lambda _message: False
        append = backend.append

        async def appended(
            subject: str,
            guard: str,
            expected: int,
            first: int,
            count: int,
            sealed: bytes,
            keys: tuple[str, ...] = (),
        ) -> int:
            seq = await append(subject, guard, expected, first, count, sealed, keys)
            self._push(OutputMessage(seq, subject, 0, first, count, sealed))
            return seq

        backend.append = appended  # type: ignore[method-assign]

    def _push(self, message: OutputMessage) -> None:
        for pattern, callback in list(self._followers):
            if matches(pattern, message.subject) and not self.drop(message):
                callback(message)

    async def follow(self, pattern: str, callback: Callable[[OutputMessage], None]) -> _Subscription:
        entry = (pattern.split("."), callback)
        self._followers.append(entry)
        return _Subscription(lambda: self._followers.remove(entry) if entry in self._followers else None)

    @property
    def followers(self) -> int:
        return len(self._followers)


@dataclass(frozen=True, slots=True)
class _Subscription:
    stop: Callable[[], None]

    async def unsubscribe(self) -> None:
        self.stop()


def _agent(name: str, output: Row | None) -> Row:
    kept = output or {}
    return {
        "agent": name,
        "output_bytes": kept.get("bytes"),
        "output_digest": kept.get("digest"),
        "output_part": kept.get("part"),
    }


class LogQueries:
    """Read models folded on demand; enough to walk the API."""

    def __init__(self, store: MemoryEventStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.caught_up = True
        self.broken: AuraError | None = None

    async def _rows(self, as_of: int | None = None) -> list[Row]:
        rows: dict[str, Row] = {}
        async for batch in self._store.read(to_seq=as_of, subject="aura.job.>"):
            for recorded in batch:
                event = recorded.decode()
                row = rows.setdefault(
                    event["job_id"],
                    {"id": event["job_id"], "project_id": event["project_id"], "created_at": event["ts"]},
                )
                if event["type"] == "job.created":
                    row.update(
                        {key: event[key] for key in ("title", "role", "root_job_id")}, prd_title=event["prd_title"]
                    )
                state = event["state"]
                row.update(status=state["status"], assigned_model=state.get("model"), seq=recorded.seq)
                row.update(retention_until=state.get("retention_until"), updated_at=event["ts"])
        return sorted(rows.values(), key=lambda row: -int(row["seq"]))

    async def resolve(self, time: str) -> int:
        try:
            at = parse_rfc3339(time)
        except (ValueError, OverflowError):
            raise InvalidRequest("as_of must be a sequence or an RFC 3339 time", field="as_of") from None
        seq = 0
        async for batch in self._store.read():
            for recorded in batch:
                if recorded.stored_at_ns <= (at - _EPOCH) // timedelta(microseconds=1) * 1_000:
                    seq = recorded.seq
        return seq

    async def list_jobs(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, as_of: int | None = None
    ) -> Page:
        if cursor is not None and not cursor.isdigit():
            raise InvalidRequest("the cursor is not one of ours", field="cursor")
        rows = [
            row
            for row in await self._rows(as_of)
            if (not where.status or row["status"] in where.status)
            and (where.projects is None or row["project_id"] in where.projects)
            and where.role in (None, row["role"])
            and where.model in (None, row["assigned_model"])
            and (where.q is None or where.q.lower() in str(row["title"]).lower())
        ]
        start = int(cursor or 0)
        more = len(rows) > start + limit
        return Page(rows[start : start + limit], str(start + limit) if more else None)

    async def get_job(self, job_id: str, *, as_of: int | None = None) -> Row | None:
        return next((row for row in await self._rows(as_of) if row["id"] == job_id), None)

    async def list_prds(self, *, projects: tuple[int, ...] | None, limit: int, cursor: str | None = None) -> Page:
        roots = dict.fromkeys(row["root_job_id"] for row in await self._rows())
        found = [await self.get_prd(root) for root in roots]
        return Page(
            [prd for prd in found if prd is not None and (projects is None or prd["project_id"] in projects)][:limit]
        )

    async def get_prd(self, root_job_id: str, *, as_of: int | None = None) -> Row | None:
        jobs = [row for row in await self._rows(as_of) if row["root_job_id"] == root_job_id]
        if not jobs:
            return None
        done = sum(row["status"] == "COMPLETED" for row in jobs)
        first = jobs[0]
        return {
            "root_job_id": root_job_id,
            "project_id": first["project_id"],
            "title": first["prd_title"],
            "jobs": jobs,
            "progress": done / len(jobs),
            "seq": max(int(row["seq"]) for row in jobs),
        }

    async def list_archives(self, *, projects: tuple[int, ...] | None, limit: int, cursor: str | None = None) -> Page:
        rows = [await self.get_archive(row["id"]) for row in await self._rows()]
        return Page(
            [row for row in rows if row is not None and (projects is None or row["project_id"] in projects)][:limit]
        )

    async def get_archive(self, job_id: str) -> Row | None:
        row = await self.get_job(job_id)
        if row is None or not JobStatus(row["status"]).closed:
            return None
        return {**row, "final_status": row["status"], "archived_at": row["updated_at"]}

    async def _sessions(self) -> list[Row]:
        rows: dict[tuple[int, str], Row] = {}
        async for batch in self._store.read(subject="aura.session.>"):
            for recorded in batch:
                event = recorded.decode()
                key = event["project_id"], event["session_id"]
                row = rows.setdefault(key, {"started_seq": recorded.seq, "started_at": event["ts"], "agents": {}})
                state = event.get("state") or {}
                row |= {"project_id": key[0], "session_id": key[1], "seq": recorded.seq, **state}
                row["message"], row["agents"] = (
                    event.get("message"),
                    row["agents"] if "agents" not in state else {**dict.fromkeys(state["agents"])},
                )
                if event["type"] == "session.agent_completed":
                    row.setdefault("outputs", {})[event["agent"]] = event.get("output")
        return [
            {**row, "agents": [_agent(name, row.get("outputs", {}).get(name)) for name in row["agents"]]}
            for row in sorted(rows.values(), key=lambda row: -int(row["started_seq"]))
        ]

    async def list_sessions(
        self, *, status: tuple[str, ...] = (), projects: tuple[int, ...] | None, limit: int, cursor: str | None = None
    ) -> Page:
        rows = [
            row
            for row in await self._sessions()
            if (not status or row["status"] in status) and (projects is None or row["project_id"] in projects)
        ]
        start = int(cursor or 0)
        more = len(rows) > start + limit
        return Page(rows[start : start + limit], str(start + limit) if more else None)

    async def get_session(self, session_id: str, *, projects: tuple[int, ...] | None = None) -> Row | None:
        page = await self.list_sessions(projects=projects, limit=10_000)
        return next((row for row in page.rows if row["session_id"] == session_id), None)

    async def models_health(self, *, window_s: float) -> Sequence[Row]:
        return []

    async def model_health(self, model: str) -> Row | None:
        return None

    async def stats(self, *, projects: tuple[int, ...] | None = None, as_of: int | None = None) -> Row:
        rows = [row for row in await self._rows(as_of) if projects is None or row["project_id"] in projects]
        counts = {status.value: sum(row["status"] == status for row in rows) for status in JobStatus}
        return {"counts": counts, "models": {}, "throughput": {"last_hour": {}}, "latency": None}

    async def grid(self, project_id: int) -> Row:
        return {"project_id": project_id, "subjects": []}

    async def projections_status(self) -> Sequence[Row]:
        if self.broken is not None:
            raise self.broken
        return [{"name": "jobs", "seq": (await self._store.identity()).last_seq, "lag": 0}]

    async def wait_for(self, min_seq: int, timeout_s: float) -> bool:
        return self.caught_up


class _Silent:
    async def renewed(self, job_id: str, attempt: int, worker_id: str) -> None:
        """No scheduler."""

    async def report(self, model: str, worker_id: str, report: dict[str, Any]) -> None:
        """No health stream."""


class PushedHealth:
    """Heartbeats that a test pushes."""

    def __init__(self) -> None:
        self._sinks: list[Callable[[str, bytes], None]] = []

    async def watch(self, sink: Callable[[str, bytes], None]) -> Callable[[], Any]:
        self._sinks.append(sink)

        async def stop() -> None:
            self._sinks.remove(sink)

        return stop

    def push(self, model: str, worker: str, body: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink(f"health.aura.{model}.{worker}", orjson.dumps(body))


@dataclass
class World:
    """What a test holds of a running gateway."""

    clock: Clock
    store: MemoryEventStore
    content: SealedContent
    output: SealedOutput
    live: LiveOutput
    health: PushedHealth
    queries: LogQueries
    commands: CommandService
    hub: Hub
    ctx: GatewayContext
    service: GatewayService
    http: httpx.AsyncClient

    @property
    def url(self) -> str:
        return self.service.url

    def ws(self, path: str, **options: Any) -> connect:
        """A WebSocket client; ``async with world.ws("/ws/events") as socket``."""
        return connect(f"ws://127.0.0.1:{self.service.port}{path}", proxy=None, compression=None, **options)

    async def submit(self, count: int = 1, **task: Any) -> list[str]:
        """A PRD of ``count`` tasks; the job ids."""
        body = {"title": "A PRD", "tasks": [{"payload": {"n": n}, **task} for n in range(count)]}
        answer = await self.http.post("/prds", json=body)
        assert answer.status_code == 201, answer.text
        ids: list[str] = answer.json()["job_ids"]
        return ids

    async def post(self, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        """A POST that must answer ``status``; the decoded body."""
        answer = await self.http.post(path, json=body, **options)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def last_seq(self) -> int:
        """Where the log ends."""
        return (await self.store.identity()).last_seq


async def receive(socket: ClientConnection) -> dict[str, Any]:
    """The next message, decoded."""
    async with asyncio.timeout(10):
        message = await socket.recv()
    decoded: dict[str, Any] = orjson.loads(message)
    return decoded


async def receive_until(socket: ClientConnection, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Messages up to the first that is wanted."""
    found = [await receive(socket)]
    while not wanted(found[-1]):
        found.append(await receive(socket))
    return found


def settings(**changes: Any) -> Settings:
    """A gateway on a free loopback port with a director."""
    return replace(Settings(host="127.0.0.1", port=0, director_api_key=DIRECTOR_KEY), **changes)


def make_world(
    *, limits: Limits | None = None, clock: Clock | None = None, retention_s: float = 30 * 86_400.0, **config: Any
) -> World:
    """A world that is not started."""
    limits = limits if limits is not None else Limits()
    clock = clock if clock is not None else SystemClock()
    ids = SystemIds()
    store = MemoryEventStore(clock)
    content, output = memory_content_and_output(clock, ids, bytes(32))
    live = LiveOutput(output._backend)  # type: ignore[arg-type]
    silent, health = _Silent(), PushedHealth()

    async def ensure_pool(model: str) -> None:
        """No pools."""

    ports = Ports(store, content, output, silent, silent, ensure_pool, clock, ids)
    commands = CommandService(ports, Policy(roles=RoleModels("employee_ollama"), retention_s=retention_s))
    queries, metrics = LogQueries(store, clock), Metrics()
    hub = Hub(clock, limits, metrics, fan)

    async def next_job(model: str, worker_id: str, wait_s: float, lease_ttl_s: float | None, caller: Caller) -> Any:
        for row in (await queries.list_jobs(JobFilter(("ASSIGNED",), model=model), limit=1)).rows:
            return await commands.call("claim", {"job_id": row["id"], "worker_id": worker_id}, caller)
        await asyncio.sleep(wait_s)
        return None

    async def explain(job_id: str) -> Row | None:
        return await queries.get_job(job_id)

    configured = settings(**config)
    access, observers = access_of(
        compose.World(configured, clock, ids), store, MemoryTickets(), metrics, AsyncExitStack()
    )
    ctx = GatewayContext(
        settings=configured,
        clock=clock,
        ids=ids,
        commands=commands,
        store=store,
        content=content,
        output=JobOutput(output, content, commands.jobs, live.follow),
        queries=queries,
        next_job=next_job,
        explain=explain,
        hub=hub,
        metrics=metrics,
        health=health,
        limits=limits,
        version="0.1.0",
        access=access,
    )
    service = GatewayService(
        ctx, lambda from_seq, on_batch, _on_end: MemoryTail(store, from_seq, on_batch), observers=observers
    )
    http = httpx.AsyncClient(trust_env=False)
    return World(clock, store, content, output, live, health, queries, commands, hub, ctx, service, http)


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[World]:
    """A started world."""
    world = make_world(**options)
    await world.service.start()
    world.http = httpx.AsyncClient(base_url=world.url, trust_env=False, timeout=10)
    try:
        yield world
    finally:
        await world.http.aclose()
        await world.service.stop()
