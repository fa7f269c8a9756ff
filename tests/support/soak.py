"""What a soak of the live feeds is made of: a steady writer, and an audience on a real ``aura up`` (``tests/chaos/test_live_soak.py``)."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

import httpx

from aura.clock import SystemClock, rfc3339
from aura.events import catalogue, envelope, subjects
from aura.ids import SystemIds
from aura.log.connection import connect
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append
from tests.support.live_clients import Client, JobClient, LogClient, StoryClient, StudioClient
from tests.support.system import System

#: What the writer does each tenth of a second: fat events of the log, fat records of the long job.
TICK_S, FAT_EVENTS, FAT_RECORDS, FAT_BYTES = 0.1, 5, 3, 8_000
#: Records of each of the short jobs that follow one another.
SHORT = 25
CLOCK, IDS = SystemClock(), SystemIds()
C = TypeVar("C", bound=Client)


def _percentiles(values: Sequence[float]) -> str:
    cuts = quantiles(values, n=100)
    return (
        f"n={len(values)} p50={median(values) * 1e3:.1f} ms p99={cuts[98] * 1e3:.1f} ms max={max(values) * 1e3:.0f} ms"
    )


class Writer:
    """Fat events straight into the log, one long job that never stops talking, short jobs with an agent's session each."""

    def __init__(self, http: httpx.AsyncClient, store: JetStreamEventStore) -> None:
        self._http, self.store = http, store
        self.said: dict[tuple[str, int], list[str]] = {}
        self.long_job = ""
        self.short_jobs: list[str] = []
        self.sessions: list[str] = []
        self.changed = asyncio.Condition()
        self.stopping = False
        self.events = 0

    async def post(self, path: str, body: dict[str, Any], status: int = 200) -> Any:
        answer = await self._http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def begin(self) -> None:
        self.long_job = await self._claimed("the long one")

    async def run(self) -> None:
        await asyncio.gather(self._fat(), self._long(), self._shorts())

    async def end(self) -> None:
        """The long job says a last word and ends: whoever follows it or the jobs is done."""
        await self._say(self.long_job, "stream", "chunk", "the end")
        await self.post(f"/jobs/{self.long_job}/complete", {"success": True})

    async def _claimed(self, title: str) -> str:
        made = await self.post("/prds", {"title": title, "tasks": [{"payload": title}]}, 201)
        job_id: str = made["job_ids"][0]
        await self.post(f"/jobs/{job_id}/claim", {"worker_id": "w", "lease_ttl_s": 3_600})
        self.said[job_id, 1] = []
        return job_id

    async def _say(self, job_id: str, kind: str, field: str, text: str) -> None:
        said = self.said[job_id, 1]
        said.append(text)  # before it is acknowledged: a client may hear it first
        await self.post(f"/jobs/{job_id}/{kind}", {field: text} | ({"percent": 1} if kind == "progress" else {}))

    async def _fat(self) -> None:
        while not self.stopping:
            for _ in range(FAT_EVENTS):
                self.events += 1
                event = catalogue.SystemAccessDenied(
                    denied_actor="soak", action="soak", target="x" * FAT_BYTES, count=self.events
                )
                await self._append(event, "aura.system.access_denied", None, 0, {})
            await asyncio.sleep(TICK_S)

    async def _append(self, event: Any, subject: str, guard: str | None, seq: int, ids: dict[str, Any]) -> int:
        event_id, trace = IDS.uuid7(), IDS.uuid7()
        stamp = envelope.Stamp(rfc3339(CLOCK.now()), "user:soak", trace, trace)
        body = envelope.seal(event, event_id=event_id, stamp=stamp, ids=ids)
        return await self.store.append(Append(subject, guard, seq, event_id, body))

    async def _session(self, session_id: str, events: Sequence[Any], seq: int = 0) -> int:
        """What an agents' worker would report of its workflow."""
        ids = {"project_id": 1, "session_id": session_id}
        guard = subjects.session_guard(1, session_id)
        for event in events:
            seq = await self._append(event, subjects.session_event(1, session_id, event.TYPE), guard, seq, ids)
        return seq

    async def _long(self) -> None:
        number = 0
        while not self.stopping:
            for _ in range(FAT_RECORDS):
                await self._say(self.long_job, "stream", "chunk", f"{number} " + "y" * FAT_BYTES)
                number += 1
            await asyncio.sleep(TICK_S)

    async def _shorts(self) -> None:
        number = 0
        while not self.stopping:
            job_id, session_id = await self._claimed(f"short {number}"), f"session-{number}"
            seq = await self._session(
                session_id,
                [
                    catalogue.SessionStarted(workflow="soak", job_id=job_id, attempt=1),
                    catalogue.SessionAgentStarted(agent="a", attempt=1),
                ],
            )
            async with self.changed:
                self.short_jobs.append(job_id)
                self.sessions.append(session_id)
                self.changed.notify_all()
            for at in range(SHORT):
                kind, field = (("stream", "chunk"), ("log", "line"), ("progress", "step"))[at % 3]
                await self._say(job_id, kind, field, f"{number}:{at}")
                await asyncio.sleep(0.01)
            ends = [catalogue.SessionAgentCompleted(agent="a", attempt=1, duration_ms=1), catalogue.SessionCompleted()]
            await self._session(session_id, ends, seq)
            await self.post(f"/jobs/{job_id}/complete", {"success": True})
            number += 1
        async with self.changed:
            self.changed.notify_all()


class Soak:
    """The system, the writer, the clients."""

    def __init__(self, system: System, writer: Writer, http: httpx.AsyncClient, seconds: float) -> None:
        self.system, self.writer, self.http, self.seconds = system, writer, http, seconds
        self.clients: list[Client] = []
        self.logs: list[LogClient] = []
        self.visitors: list[LogClient] = []
        self.jobs: list[JobClient] = []
        self.shorts: list[JobClient] = []
        self.stories: list[StoryClient] = []
        self.until = 2**62
        self.rss_kb: list[int] = []
        self.running: list[asyncio.Future[Any]] = []

    def told(self, last: int) -> bool:
        return last >= self.until

    def log(self, name: str, dialect: str, **more: Any) -> LogClient:
        client = LogClient(name, self.system.url, self.told, dialect, **more)
        self.logs.append(client)
        return self._started(client)

    def job(self, name: str, dialect: str, **more: Any) -> JobClient:
        def done(client: JobClient) -> bool:
            return client.ended or (self.until < 2**62 and client.count == len(self.writer.said[client.job_id, 1]))

        client = JobClient(name, self.system.url, self.writer.long_job, done, dialect, **more)
        self.jobs.append(client)
        return self._started(client)

    def studio(self, dialect: str) -> StudioClient:
        client = StudioClient(
            f"studio {dialect}",
            self.system.url,
            lambda one: bool(one.statuses) and one.statuses[-1][0] >= self.until,
            dialect,
        )
        return self._started(client)

    def _started(self, client: C) -> C:
        self.clients.append(client)
        self.running.append(asyncio.ensure_future(client.run()))
        return client

    async def _another(self, followed: int) -> int:
        """Wait for more short jobs than ``followed``; how many there are, 0 when none comes any more."""
        async with self.writer.changed:
            await self.writer.changed.wait_for(lambda: len(self.writer.short_jobs) > followed or self.writer.stopping)
        count = len(self.writer.short_jobs)
        return count if count > followed else 0

    async def follow_stories(self, dialect: str) -> None:
        """One agent workflow after the other, each to its end."""
        followed = 0
        while followed := await self._another(followed):
            session_id = self.writer.sessions[-1]
            client = StoryClient(f"story {dialect} {session_id}", self.system.url, session_id, dialect)
            self.stories.append(client)
            await client.run()

    async def follow_shorts(self, dialect: str) -> None:
        """One short job after the other, each to its end, every second one with interruptions."""
        followed = 0
        while followed := await self._another(followed):
            job_id = self.writer.short_jobs[-1]
            client = JobClient(f"short {dialect} {job_id}", self.system.url, job_id, lambda one: one.ended, dialect)
            client.pace = "fickle" if followed % 2 else "fast"
            self.shorts.append(client)
            await client.run()

    async def visit(self, dialect: str) -> None:
        """Come with no cursor, stay for a while, leave."""
        while not self.writer.stopping:
            enough = 40 + 7 * len(self.visitors) % 100
            client = LogClient(
                f"visitor {len(self.visitors)} {dialect}",
                self.system.url,
                lambda last: self.writer.stopping or len(client.told.seqs) >= enough,  # noqa: B023
                dialect,
                since=None,
            )
            self.visitors.append(client)
            async with asyncio.timeout(60):
                await client.run()

    async def sample(self) -> None:
        pid = self.system.pids()["gateway"]
        while True:
            status = Path(f"/proc/{pid}/status").read_text()
            self.rss_kb.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]))  # type: ignore[index]
            await asyncio.sleep(max(0.5, self.seconds / 100))

    def measure(self, clients: Sequence[Client]) -> list[float]:
        """From now on their latencies go into a new list."""
        latencies: list[float] = []
        for client in clients:
            client.latencies = latencies
        return latencies

    async def finish(self) -> None:
        """The writer has ended: everybody reads what is left."""
        for client in self.clients:
            client.latencies = None
            client.pace = "fast"
            client.hurry.set()
        self.until = (await self.writer.store.identity()).last_seq
        await self.writer.end()
        _, left = await asyncio.wait(self.running, timeout=90)
        assert not left, "\n".join(map(str, self.told_so_far()))
        await asyncio.gather(*self.running)

    def told_so_far(self) -> list[Any]:
        """What each client got: messages, connections, how they ended (0: cut)."""
        return [(one.name, one.messages, one.connects, dict(one.closes)) for one in self.clients]

    def tell(
        self, events: int, without: Sequence[float], beside: Sequence[float], dropped: float, connections: float
    ) -> None:
        """Print the numbers of a run."""
        records = sum(map(len, self.writer.said.values()))
        lines = [
            f"soak of {self.seconds:.0f} s: {events} events, {records} records in {len(self.writer.said)} jobs",
            f"clients: {len(self.clients)} steady, {len(self.visitors)} visitors, {len(self.shorts)} of short jobs, "
            f"{len(self.stories)} of workflows; {connections:.0f} connected at the end of the writing",
            f"messages taken: {sum(one.messages for one in [*self.clients, *self.visitors, *self.shorts, *self.stories])}",
            f"too slow: {dropped:.0f}; reconnects of the fickle: "
            f"{sum(one.connects for one in self.clients if one.name.startswith('fickle'))}",
            f"latency of fast readers without those who never read: {_percentiles(without)}",
            f"latency of fast readers beside those who never read:  {_percentiles(beside)}",
            f"gateway RSS (MiB): {' '.join(str(kb // 1024) for kb in self.rss_kb[:: max(1, len(self.rss_kb) // 20)])}",
            *map(str, self.told_so_far()),
        ]
        sys.stdout.write("\n" + "\n".join(lines) + "\n")

    async def metric(self, name: str) -> float:
        text = (await self.http.get("/metrics")).text
        return sum(map(float, re.findall(rf"^{re.escape(name)}(?:{{.*}})? ([0-9.e+]+)$", text, re.MULTILINE)))


@asynccontextmanager
async def soaking(tmp_path: Path, seconds: float) -> AsyncIterator[Soak]:
    """A started system, its long job claimed; ``seconds`` is how long the test means to go on."""
    system = System(tmp_path / "data")
    await system.start()
    creds = system.data / "credentials" / "gateway.creds"
    connection = await connect(system.runtime()["nats"]["url"], creds, "test-soak")
    store = JetStreamEventStore(connection, CLOCK, IDS)
    try:
        async with httpx.AsyncClient(base_url=system.url, timeout=30, trust_env=False) as http:
            writer = Writer(http, store)
            await writer.begin()
            made = Soak(system, writer, http, seconds)
            try:
                yield made
            finally:
                for running in made.running:
                    running.cancel()
                await asyncio.gather(*made.running, return_exceptions=True)
    finally:
        await store.close()
        await connection.close()
        await system.stop()
