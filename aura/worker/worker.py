"""A worker: one process's slots in one pool.

::

    async def handle(job: JobContext) -> dict | None: ...

    async with Worker(model="employee_ollama", slots=4, handler=handle) as worker:
        await worker.run()

Life::

    start: connect → hello (registers the model, makes the pool) → health, leases, pull
    work:  a delivered job takes a slot until its attempt is settled; free slots are what the pool may still deliver
    stop:  pull no more → say slots 0 → handlers finish within grace → the rest is released (delay 0) → close

Invariants: never more attempts than slots; errors of handlers never end the worker; it reconnects for ever; after :meth:`stop` no
task of it is left. Two deliveries of one assignment (its acknowledgement got lost, or its claim took long) are one attempt.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import structlog

from aura.clock import Clock, SystemClock
from aura.errors import AuraError, ConfigError, Refused
from aura.events.subjects import check_name
from aura.ids import IdSource, SystemIds
from aura.worker.access import Access, find_access
from aura.worker.attempt import Attempt, Handler, Interruption, Terms
from aura.worker.backoff import Backoff
from aura.worker.leases import Health, Leases
from aura.worker.link import Assigned, Ended, Link

log = structlog.get_logger("aura.worker")

LEASE_TTL_S = 10.0
HEALTH_INTERVAL_S = 5.0
GRACE_S = 20.0
#: How long to wait for releases once the grace is over.
RELEASE_S = 5.0
#: Assignments remembered so that a redelivery is not taken for another one.
REMEMBERED_OFFERS = 10_000


class Worker:
    """See the module docstring.

    ``model`` is the pool, ``slots`` how many jobs run at once, ``handler`` an async function of a :class:`JobContext`. ``url`` and
    ``creds`` name the NATS server and a credentials file; without them the environment (``AURA_NATS_URL``, ``AURA_NATS_CREDS``)
    or the ``aura up`` of ``AURA_DATA_DIR`` is used. ``roles`` are only shown to people. ``lease_ttl_s`` 5–3600: how long the
    system waits for a silent worker. ``grace_s``: how long :meth:`stop` lets handlers finish. ``cancel_tasks`` False: a cancelled
    job only sets ``job.cancelled``. ``link`` is for tests.

    Raises ``InvalidRequest`` for names and numbers out of bounds, ``ConfigError`` when there is no server to find.
    """

    def __init__(
        self,
        model: str,
        handler: Handler,
        *,
        slots: int = 1,
        worker_id: str | None = None,
        roles: Sequence[str] = (),
        url: str | None = None,
        creds: str | None = None,
        lease_ttl_s: float = LEASE_TTL_S,
        health_interval_s: float = HEALTH_INTERVAL_S,
        grace_s: float = GRACE_S,
        cancel_tasks: bool = True,
        link: Link | None = None,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        check_name(model, "model")
        if not 1 <= slots <= 10_000:
            raise ConfigError("slots must be between 1 and 10000")
        if not 5 <= lease_ttl_s <= 3600:
            raise ConfigError("lease_ttl_s must be between 5 and 3600")
        if not _is_async(handler):
            raise ConfigError("the handler must be an async function: async def handle(job): …")
        self._clock = clock or SystemClock()
        self._ids = ids or SystemIds()
        self.model = model
        self.slots = slots
        access = (
            Access(worker_id or "worker", "", None) if link else find_access(model, worker_id, url, creds, self._ids)
        )
        self.worker_id = check_name(access.worker_id, "worker_id")
        self._roles = list(roles)
        self._interval_s = health_interval_s
        self._grace_s = grace_s
        self._link = link or _nats_link(access, model, self._clock, self._ids)
        self._terms = Terms(
            link=self._link,
            handler=handler,
            model=model,
            worker_id=self.worker_id,
            lease_ttl_s=lease_ttl_s,
            cancel_tasks=cancel_tasks,
            backoff=lambda: Backoff(self._ids),
            claimed=self._on_claimed,
            process=self._ids.uuid7(),
        )
        self._attempts: dict[str, list[Attempt]] = {}
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leases = Leases(self._link, self, lease_ttl_s / 3)
        self._health = Health(
            self._link, self._clock, model=model, worker_id=self.worker_id, slots=slots, interval_s=health_interval_s
        )
        self._background: list[asyncio.Task[None]] = []
        self._greeting: asyncio.Task[None] | None = None
        self._topping_up = False
        self._stopping = asyncio.Event()
        self._stopped: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ life

    async def start(self) -> Self:
        """Connect, say hello and begin to pull. Raises ``Unavailable`` when no server accepts us, ``Refused`` for our hello."""
        await self._link.start(self._on_assigned, self._on_ended, self._on_reconnect)
        await self._hello()
        self._background = [
            asyncio.create_task(self._leases.run(), name="leases"),
            asyncio.create_task(self._health.run(self), name="health"),
        ]
        self._link.take(self.slots)
        log.info("worker.ready", model=self.model, worker_id=self.worker_id, slots=self.slots)
        return self

    async def run(self, *, signals: bool = True) -> None:
        """Work until :meth:`stop` (or, with ``signals``, SIGTERM or SIGINT), then drain. A second signal ends the grace at once."""
        with _signals(self._on_signal) if signals else _nothing():
            await self._stopping.wait()
            await self.stop()

    async def stop(self) -> None:
        """Drain: pull no more, let handlers finish up to the grace, release the rest, close. Safe twice."""
        self._stopping.set()
        if self._stopped is None:
            self._stopped = asyncio.create_task(self._drain(), name="drain")
        await asyncio.shield(self._stopped)

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:
            await self._link.stop()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _drain(self) -> None:
        await self._link.stop_pulling()
        for attempt in self._all():
            if attempt.number == 0:
                attempt.interrupt(Interruption.DRAINED)
        if self._background:
            await self._health.report(self, status="draining")
        log.info("worker.draining", in_flight=len(self._tasks), grace_s=self._grace_s)
        await self._settle(self._grace_s)
        for attempt in self._all():
            attempt.interrupt(Interruption.DRAINED)
        await self._settle(RELEASE_S)
        if self._background:
            await self._health.report(self, status="stopped")
        leftover = [*self._tasks, *self._background, *([self._greeting] if self._greeting else [])]
        for task in leftover:
            task.cancel()
        await asyncio.gather(*leftover, return_exceptions=True)
        await self._link.stop()
        log.info("worker.stopped", worker_id=self.worker_id)

    async def _settle(self, within_s: float) -> None:
        if self._tasks and within_s > 0:
            await asyncio.wait(set(self._tasks), timeout=within_s)

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            log.warning("worker.impatient")
            for attempt in self._all():
                attempt.interrupt(Interruption.DRAINED)
        self._stopping.set()

    # ------------------------------------------------------------ the link's callbacks

    def _on_assigned(self, assigned: Assigned) -> None:
        if self._stopping.is_set():
            assigned.nak()
            return
        attempts = self._attempts.setdefault(assigned.job_id, [])
        if assigned.seq in self._seen:
            if all(attempt.number for attempt in attempts):
                assigned.ack()  # its claim was settled and the acknowledgement got lost; else the claim under way settles it
            if not attempts:
                del self._attempts[assigned.job_id]
            return
        self._seen[assigned.seq] = None
        if len(self._seen) > REMEMBERED_OFFERS:
            self._seen.popitem(last=False)
        attempt = Attempt(self._terms, assigned)
        attempts.append(attempt)
        task = asyncio.create_task(attempt.run())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._on_done(done, attempt))

    def _on_claimed(self, attempt: Attempt) -> None:
        """A newer attempt of a job ends the older ones that this worker has not given up yet."""
        for other in self._attempts[attempt.job_id]:
            if 0 < other.number < attempt.number:
                other.interrupt(Interruption.LOST)

    def _on_done(self, task: asyncio.Task[None], attempt: Attempt) -> None:
        self._tasks.discard(task)
        attempts = self._attempts[attempt.job_id]
        attempts.remove(attempt)
        if not attempts:
            del self._attempts[attempt.job_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker.attempt_failed", job_id=attempt.job_id, exc_info=error)
        if not self._topping_up:  # once per turn of the event loop, however many end in it
            self._topping_up = True
            asyncio.get_running_loop().call_soon(self._top_up)

    def _top_up(self) -> None:
        self._topping_up = False
        if not self._stopping.is_set():
            self._link.take(self.slots - len(self._tasks))

    def _on_ended(self, event: Ended) -> None:
        for attempt in self._attempts.get(event.job_id, ()):
            attempt.ended(event)

    def _on_reconnect(self) -> None:
        self._leases.hurry()
        if self._greeting is None or self._greeting.done():
            self._greeting = asyncio.create_task(self._greet_again(), name="hello")

    # ------------------------------------------------------------ for leases and health

    def holding(self) -> list[Attempt]:
        """Attempts whose lease should live."""
        return [attempt for attempt in self._all() if attempt.holds_lease]

    def _all(self) -> list[Attempt]:
        return [attempt for attempts in self._attempts.values() for attempt in attempts]

    @property
    def in_flight(self) -> int:
        """How many attempts are not settled yet."""
        return len(self._tasks)

    async def _greet_again(self) -> None:
        """After a reconnect: the system may be another one, or may have forgotten the pool."""
        try:
            await self._hello()
        except Refused as refusal:
            log.error("worker.hello_refused", code=refusal.code, detail=refusal.detail)

    async def _hello(self) -> None:
        """Register model and pool; repeated until somebody answers. Raises ``Refused``."""
        body = {"model": self.model, "slots": self.slots, "roles": self._roles, "interval_s": self._interval_s}
        pause = Backoff(self._ids, most_s=0.5)
        while True:
            try:
                await self._link.call("hello", body)
                return
            except Refused:
                raise
            except AuraError as error:
                log.warning("worker.waiting", code=error.code, detail=error.detail)
                await pause.wait()


def _nats_link(access: Access, model: str, clock: Clock, ids: IdSource) -> Link:
    from aura.worker.nats_link import NatsLink  # the only part that needs a server

    return NatsLink(access, model, clock, ids)


def _is_async(handler: Any) -> bool:
    call = getattr(handler, "__call__", None)  # noqa: B004 - an object with an async __call__ is a handler too
    return inspect.iscoroutinefunction(inspect.unwrap(handler)) or inspect.iscoroutinefunction(call)


@contextmanager
def _signals(on_signal: Callable[[], None]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT in the running loop, where the platform and the thread allow it."""
    loop = asyncio.get_running_loop()
    installed = []
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, on_signal)
        except (NotImplementedError, RuntimeError, ValueError):
            continue  # not the main thread, or Windows: the caller stops us
        installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def run(handler: Callable[..., Awaitable[Any]], model: str, **options: Any) -> None:
    """Run a worker until SIGTERM or Ctrl-C: ``aura.worker.run(handle, model="employee_ollama", slots=4)``.

    Options are those of :class:`Worker`.
    """

    async def main() -> None:
        async with Worker(model, handler, **options) as worker:
            await worker.run()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one."""
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop
