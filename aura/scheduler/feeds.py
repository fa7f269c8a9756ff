"""What the scheduler hears besides the log: heartbeats of workers and renewals of leases. Ports, and their adapters on NATS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import orjson
import structlog

from aura.clock import Clock
from aura.domain.policy import HEARTBEAT_COUNTS_S
from aura.errors import AuraError
from aura.ids import IdSource
from aura.log.connection import Connection, RawSubscription
from aura.log.health import HealthLog, Heartbeat, follow_heartbeats, follow_renewals
from aura.log.identity import Checkpoint
from aura.log.store import EventStore, Recorded

log = structlog.get_logger("aura.scheduler")

#: ``(heartbeat, how many seconds old it is)``
OnReport = Callable[[Mapping[str, Any], float], None]
OnRenewed = Callable[[str, int, str], None]
OnBatch = Callable[[list[Recorded]], None]
OnEnd = Callable[[AuraError], None]
#: How far back the health stream is read at start.
_RECENT = 5_000


class Feed(Protocol):
    """Something that delivers until it is stopped."""

    async def stop(self) -> None:
        """Deliver no more. Safe twice."""


class HealthFeed(Protocol):
    """Heartbeats."""

    async def start(self, on_report: OnReport) -> None:
        """What is still known of the last minutes first, then live. Returns when the first part is delivered."""

    async def stop(self) -> None:
        """Deliver no more. Safe twice."""


class RenewalsFeed(Protocol):
    """Checked renewals of leases (``lease.aura.renewed``)."""

    async def start(self, on_renewed: OnRenewed) -> None:
        """Deliver ``(job_id, attempt, worker_id)``."""

    async def stop(self) -> None:
        """Deliver no more. Safe twice."""


class NatsHealthFeed:
    """:class:`HealthFeed` on stream ``AURA_HEALTH`` and its live subjects. The subject says whose a heartbeat is."""

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self._connection = connection
        self._clock = clock
        self._history = HealthLog(connection, clock, ids)
        self._live: RawSubscription | None = None

    async def start(self, on_report: OnReport) -> None:
        def receive(heartbeat: Heartbeat) -> None:
            report = _readable(heartbeat.body, heartbeat.model, heartbeat.worker_id)
            if report is not None:
                on_report(report, 0.0)

        self._live = await follow_heartbeats(self._connection, receive)
        newest: dict[str, Recorded] = {}
        identity = await self._history.identity()
        async for batch in self._history.read(max(1, identity.last_seq - _RECENT)):
            newest.update((recorded.subject, recorded) for recorded in batch)
        now_ns = self._clock.now().timestamp() * 1e9
        for recorded in newest.values():
            age_s = max(0.0, (now_ns - recorded.stored_at_ns) / 1e9)
            tokens = recorded.subject.split(".")
            if age_s < HEARTBEAT_COUNTS_S and len(tokens) == 4:
                report = _readable(recorded.body, tokens[2], tokens[3])
                if report is not None:
                    on_report(report, age_s)

    async def stop(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            await live.unsubscribe()


class NatsRenewalsFeed:
    """:class:`RenewalsFeed` on core NATS."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._live: RawSubscription | None = None

    async def start(self, on_renewed: OnRenewed) -> None:
        self._live = await follow_renewals(self._connection, on_renewed)

    async def stop(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            await live.unsubscribe()


def _readable(body: bytes, model: str, worker_id: str) -> Mapping[str, Any] | None:
    try:
        report = orjson.loads(body)
    except orjson.JSONDecodeError:
        report = None
    if not isinstance(report, dict):
        log.warning("health.unreadable", model=model, worker_id=worker_id)
        return None
    return {**report, "model": model, "worker_id": worker_id}


# ---------------------------------------------------------------- the log


class _Tail(Protocol):
    """A store's own live tail (``aura.log.tail.LogTail``)."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@runtime_checkable
class _Tailing(Protocol):
    """A store that can deliver into a plain function, without an iterator's cost per batch."""

    def tail(self, from_seq: int, on_batch: OnBatch, on_end: OnEnd, *, known: Checkpoint | None = None) -> _Tail: ...


class IteratedTail:
    """The same for any store, by its ``follow``."""

    def __init__(self, store: EventStore, from_seq: int, on_batch: OnBatch, on_end: OnEnd) -> None:
        self._store = store
        self._from_seq = from_seq
        self._on_batch = on_batch
        self._on_end = on_end
        self._flowing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to deliver."""
        self._flowing.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Deliver no more. Safe twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def pause(self) -> None:
        """Deliver nothing until :meth:`resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Deliver again, from where it stopped."""
        self._flowing.set()

    async def _run(self) -> None:
        try:
            async for batch in self._store.follow(self._from_seq):
                await self._flowing.wait()
                self._on_batch(batch)
        except AuraError as error:
            self._on_end(error)
        except Exception as error:  # the consumer's bug must end the tail, not stop it silently
            log.exception("tail.consumer_failed")
            self._on_end(AuraError(f"the consumer of the log failed: {type(error).__name__}"))


def tail_of(
    store: EventStore, from_seq: int, on_batch: OnBatch, on_end: OnEnd, *, known: Checkpoint | None = None
) -> _Tail:
    """The log from ``from_seq`` and then live, into a plain function; the cheapest way the store has.

    A store's own tail compares ``known`` when it starts and raises ``LogRegression`` when that is another log's (G5).
    """
    if isinstance(store, _Tailing):
        return store.tail(from_seq, on_batch, on_end, known=known)
    return IteratedTail(store, from_seq, on_batch, on_end)
