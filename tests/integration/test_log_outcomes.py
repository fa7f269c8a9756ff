"""Lost acknowledgements and killed servers: what was acknowledged is in the log (G1), nothing is in it twice (G2)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
import pytest

from aura.errors import Unavailable, WrongExpectedSequence
from aura.log.connection import Connection, connect
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append, Recorded
from tests.support.log_streams import CLOCK, IDS, empty_log
from tests.support.proxy import Proxy
from tests.support.servers import NatsServer


def event(job: str, kind: str = "created", expected: int = 0) -> Append:
    event_id = str(uuid.uuid4())
    body = orjson.dumps({"id": event_id, "type": f"job.{kind}"})
    return Append(f"aura.job.1.{job}.{kind}", f"aura.job.1.{job}.>", expected, event_id, body)


def new_job() -> str:
    return str(uuid.uuid4())


async def everything(store: JetStreamEventStore) -> list[Recorded]:
    return [recorded async for batch in store.read() for recorded in batch]


@dataclass
class Lossy:
    """A store whose answers can be lost, and one beside it that sees the truth."""

    store: JetStreamEventStore
    truth: JetStreamEventStore
    proxy: Proxy
    connection: Connection

    async def lose_answers_until_stored(self, last_seq: int) -> None:
        """Let the log grow to ``last_seq`` with its answers lost, then reset the connection."""
        following = self.truth.follow(1)
        while (await anext(following))[-1].seq < last_seq:
            pass
        await following.aclose()  # type: ignore[attr-defined]
        self.proxy.cut()


@asynccontextmanager
async def lossy_store(server: NatsServer) -> AsyncIterator[Lossy]:
    async with empty_log(server) as direct, Proxy(server.url) as proxy:
        connection = await connect(proxy.url, server.creds("gateway"), "lossy", connect_timeout_s=20)
        store = JetStreamEventStore(connection, CLOCK, IDS, deadline_s=60)
        await store.identity()
        yield Lossy(store, JetStreamEventStore(direct, CLOCK, IDS), proxy, connection)
        await connection.close()


@pytest.fixture
async def lossy(fresh_nats: NatsServer) -> AsyncIterator[Lossy]:
    async with lossy_store(fresh_nats) as made:
        yield made


async def test_g2_lost_acknowledgement_of_one_append(lossy: Lossy) -> None:
    append = event(new_job())
    lossy.proxy.deaf = True
    async with asyncio.timeout(60):
        pending = asyncio.create_task(lossy.store.append(append))
        await lossy.lose_answers_until_stored(1)
        assert await pending == 1
    assert [r.body for r in await everything(lossy.truth)] == [append.body]


async def test_g2_lost_acknowledgement_and_then_others_append_to_the_same_job(lossy: Lossy) -> None:
    """Ours is found although the job's last event, and the last of the very same type, are others'."""
    job = new_job()
    first = await lossy.store.append(event(job))
    ours = event(job, "stage_changed", first)
    lossy.proxy.deaf = True
    async with asyncio.timeout(60):
        pending = asyncio.create_task(lossy.store.append(ours))
        following = lossy.truth.follow(first + 1)
        stored = (await anext(following))[0].seq
        await following.aclose()  # type: ignore[attr-defined]
        later = await lossy.truth.append(event(job, "stage_changed", stored))
        await lossy.truth.append(event(job, "completed", later))
        lossy.proxy.cut()
        assert await pending == stored
    assert len(await everything(lossy.truth)) == 4


async def test_lost_refusal_is_still_a_refusal(lossy: Lossy) -> None:
    job = new_job()
    first = await lossy.store.append(event(job))
    await lossy.truth.append(event(job, "claimed", first))
    lossy.proxy.deaf = True
    async with asyncio.timeout(60):
        pending = asyncio.create_task(lossy.store.append(event(job, "claimed", first)))
        other = asyncio.create_task(lossy.store.append(event(new_job())))
        await lossy.lose_answers_until_stored(3)
        with pytest.raises(WrongExpectedSequence):
            await pending
        assert await other == 3
    assert len(await everything(lossy.truth)) == 3


async def test_g2_lost_commit_of_a_batch(lossy: Lossy) -> None:
    appends = [event(new_job()) for _ in range(100)]
    lossy.proxy.deaf = True
    async with asyncio.timeout(60):
        pending = asyncio.create_task(lossy.store.append_batch(appends))
        await lossy.lose_answers_until_stored(100)
        assert await pending == list(range(1, 101))
    assert [r.body for r in await everything(lossy.truth)] == [append.body for append in appends]


async def test_g2_lost_acknowledgements_of_many_appends_at_once(lossy: Lossy) -> None:
    """Plain ones and a group commit are in flight when the connection dies."""
    appends = [event(new_job()) for _ in range(600)]
    lossy.proxy.deaf = True
    async with asyncio.timeout(60):
        pending = asyncio.gather(*(lossy.store.append(append) for append in appends))
        await lossy.lose_answers_until_stored(32)
        seqs = await pending
    stored = await everything(lossy.truth)
    assert sorted(seqs) == list(range(1, 601))
    assert {r.seq: r.body for r in stored} == {seq: append.body for seq, append in zip(seqs, appends, strict=True)}


async def test_a_log_that_stays_silent_is_unavailable_and_the_repeat_finds_the_event(fresh_nats: NatsServer) -> None:
    async with empty_log(fresh_nats) as direct, Proxy(fresh_nats.url) as proxy:
        connection = await connect(proxy.url, fresh_nats.creds("gateway"), "deaf", connect_timeout_s=20)
        store = JetStreamEventStore(connection, CLOCK, IDS, deadline_s=0.5)
        await store.identity()
        proxy.deaf = True
        append = event(new_job())
        with pytest.raises(Unavailable):
            await store.append(append)
        proxy.cut()
        truth = JetStreamEventStore(direct, CLOCK, IDS)
        assert await truth.append(append) == 1
        assert len(await everything(truth)) == 1
        await connection.close()


class Writers:
    """Jobs that are created and claimed by many tasks, singly and in batches, and what was acknowledged."""

    def __init__(self, store: JetStreamEventStore) -> None:
        self._store = store
        self.acknowledged: dict[int, Append] = {}
        self.sent: dict[str, Append] = {}
        self.progress = asyncio.Condition()
        self.stopping = False

    async def run(self, tasks: int) -> None:
        await asyncio.gather(*(self._jobs(batch=n % 10 == 0) for n in range(tasks)))

    async def wait_for(self, acknowledged: int) -> None:
        async with self.progress:
            await self.progress.wait_for(lambda: len(self.acknowledged) >= acknowledged)

    async def _jobs(self, *, batch: bool) -> None:
        while not self.stopping:
            if batch:
                appends = [event(new_job()) for _ in range(40)]
                await self._done(appends, await self._until_known(self._store.append_batch, appends))
                continue
            created = event(new_job())
            seqs = await self._until_known(lambda a: self._one(a), [created])
            await self._done([created], seqs)
            claimed = Append(
                created.subject.replace("created", "claimed"), created.guard, seqs[0], str(uuid.uuid4()), created.body
            )
            await self._done([claimed], await self._until_known(lambda a: self._one(a), [claimed]))

    async def _one(self, appends: list[Append]) -> list[int]:
        return [await self._store.append(appends[0])]

    async def _until_known(self, store: object, appends: list[Append]) -> list[int]:
        self.sent.update((append.event_id, append) for append in appends)
        while True:
            try:
                return await store(appends)  # type: ignore[operator,no-any-return]
            except Unavailable:
                continue

    async def _done(self, appends: list[Append], seqs: list[int]) -> None:
        async with self.progress:
            self.acknowledged.update(zip(seqs, appends, strict=True))
            self.progress.notify_all()


async def test_g1_g2_kill_9_of_the_server_with_many_appends_in_flight(fresh_nats: NatsServer) -> None:
    async with empty_log(fresh_nats) as connection:
        store = JetStreamEventStore(connection, CLOCK, IDS, deadline_s=60)
        writers = Writers(store)
        followed: list[Recorded] = []
        arrived = asyncio.Event()

        def on_batch(batch: list[Recorded]) -> None:
            followed.extend(batch)
            arrived.set()

        tail = store.tail(1, on_batch, lambda error: followed.clear())
        await tail.start()
        async with asyncio.timeout(100):
            running = asyncio.create_task(writers.run(120))
            for round_ in range(1, 5):
                await writers.wait_for(round_ * 1_500)
                await fresh_nats.kill()
                await fresh_nats.start()
            await writers.wait_for(len(writers.acknowledged) + 1_000)
            writers.stopping = True
            await running
            stored = await everything(store)
            while len(followed) < len(stored):
                arrived.clear()
                await arrived.wait()
    by_seq = {r.seq: r for r in stored}
    for seq, append in writers.acknowledged.items():
        assert (by_seq[seq].subject, by_seq[seq].body) == (append.subject, append.body), "acknowledged, and lost"
    ids = [(r.subject, r.decode()["id"]) for r in stored]
    assert len(ids) == len(set(ids)), "an event is in the log twice"
    assert len(stored) == len(writers.acknowledged), "every append ended with a definite answer"
    assert [r.seq for r in stored] == list(range(1, len(stored) + 1))
    assert followed == stored, "the tail has a hole, a duplicate or another order"
