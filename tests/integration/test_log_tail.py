"""The live tail on a real server: no hole, no duplicate, another log noticed (G3, G5, G11)."""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest

from aura.errors import AuraError, LogRegression, Unavailable
from aura.log import identity, topology
from aura.log.connection import Connection, RawHandler
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append, LogIdentity, Recorded
from aura.log.tail import LogTail
from tests.support.log_streams import CLOCK, IDS, empty_log, log_connection
from tests.support.servers import NatsServer


def event() -> Append:
    job, event_id = str(uuid.uuid4()), str(uuid.uuid4())
    return Append(f"aura.job.1.{job}.created", f"aura.job.1.{job}.>", 0, event_id, orjson.dumps({"id": event_id}))


class Follower:
    """Collects what a tail delivers."""

    def __init__(self, store: JetStreamEventStore, from_seq: int = 1, known: identity.Checkpoint | None = None) -> None:
        self.seen: list[Recorded] = []
        self.ended: list[AuraError] = []
        self._arrived = asyncio.Event()
        self.tail: LogTail = store.tail(from_seq, self._on_batch, self._on_end, known=known)

    def _on_batch(self, batch: list[Recorded]) -> None:
        self.seen.extend(batch)
        self._arrived.set()

    def _on_end(self, error: AuraError) -> None:
        self.ended.append(error)
        self._arrived.set()

    async def until(self, seq: int) -> None:
        async with asyncio.timeout(60):
            while not self.ended and (not self.seen or self.seen[-1].seq < seq):
                self._arrived.clear()
                await self._arrived.wait()

    async def until_ended(self) -> AuraError:
        async with asyncio.timeout(60):
            while not self.ended:
                self._arrived.clear()
                await self._arrived.wait()
        return self.ended[0]

    @property
    def seqs(self) -> list[int]:
        return [recorded.seq for recorded in self.seen]


def lose(connection: Connection, keep: Callable[[], bool]) -> None:
    """Let the tail's handlers on ``connection`` see only the messages for which ``keep()`` is true."""
    for sid, handler in list(connection.raw_handlers.items()):
        if getattr(handler, "__self__", None).__class__ is LogTail:

            def lossy(
                subject: bytes, reply: bytes, body: bytes, headers: bytes | None, handler: RawHandler = handler
            ) -> None:
                if keep():
                    handler(subject, reply, body, headers)

            connection.raw_handlers[sid] = lossy


@pytest.fixture
async def connection(fresh_nats: NatsServer) -> AsyncIterator[Connection]:
    async with empty_log(fresh_nats) as made:
        yield made


@pytest.fixture
def store(connection: Connection) -> JetStreamEventStore:
    return JetStreamEventStore(connection, CLOCK, IDS)


async def test_g11_lost_messages_are_read_from_the_stream_before_what_follows(
    connection: Connection, store: JetStreamEventStore
) -> None:
    follower = Follower(store)
    await follower.tail.start()
    chance = random.Random(1)
    lose(connection, lambda: chance.random() < 0.6)
    for _ in range(20):
        await asyncio.gather(*(store.append(event()) for _ in range(20)))
    await follower.until(400)
    assert follower.seqs == list(range(1, 401))
    await follower.tail.stop()


async def test_g11_a_lost_last_message_is_noticed_within_seconds(
    connection: Connection, store: JetStreamEventStore
) -> None:
    follower = Follower(store)
    await follower.tail.start()
    await store.append(event())
    await follower.until(1)
    lose(connection, lambda: False)
    await store.append(event())
    await follower.until(2)
    assert follower.seqs == [1, 2]
    await follower.tail.stop()


async def test_forged_messages_in_the_committed_space_are_not_believed(
    connection: Connection, store: JetStreamEventStore
) -> None:
    """Permissions forbid them; the tail does not depend on that."""
    follower = Follower(store)
    await follower.tail.start()
    await connection.publish("aura.job.1.x.created", b"forged")
    await connection.publish("aura.job.1.x.created", b"forged", headers={"Nats-Sequence": "1"})
    await connection.publish(
        "aura.job.1.x.created", b"forged", headers={"Nats-Stream": "AURA_OUTPUT", "Nats-Sequence": "1"}
    )
    real = event()
    await store.append(real)
    await follower.until(1)
    assert [recorded.body for recorded in follower.seen] == [real.body]
    await follower.tail.stop()


async def test_a_paused_tail_delivers_nothing_and_then_everything(store: JetStreamEventStore) -> None:
    await store.append_batch([event() for _ in range(50)])
    follower = Follower(store)
    await follower.tail.start()
    await follower.until(50)
    follower.tail.pause()
    await store.append_batch([event() for _ in range(50)])
    await store.append(event())
    assert follower.seqs == list(range(1, 51))
    follower.tail.resume()
    await follower.until(101)
    assert follower.seqs == list(range(1, 102))
    await follower.tail.stop()
    await follower.tail.stop()
    await store.append(event())
    assert len(follower.seen) == 101


async def test_g5_a_restarted_server_with_the_same_log_goes_on(
    fresh_nats: NatsServer, store: JetStreamEventStore
) -> None:
    follower = Follower(store)
    await follower.tail.start()
    await store.append(event())
    await fresh_nats.kill()
    await fresh_nats.start()
    assert await store.append(event()) == 2
    await follower.until(2)
    assert follower.seqs == [1, 2]
    assert not follower.ended
    await follower.tail.stop()


async def test_g5_a_recreated_log_ends_the_tail(connection: Connection, store: JetStreamEventStore) -> None:
    follower = Follower(store)
    await follower.tail.start()
    await store.append_batch([event() for _ in range(5)])
    await follower.until(5)
    await connection.request("$JS.API.STREAM.DELETE.AURA_LOG", b"", timeout=10)
    await topology.ensure(connection, CLOCK, IDS)
    assert isinstance(await follower.until_ended(), LogRegression)
    await follower.tail.stop()


async def test_g5_another_log_of_the_same_epoch_and_length_ends_the_tail_after_a_reconnect(
    fresh_nats: NatsServer, connection: Connection, store: JetStreamEventStore
) -> None:
    """An older backup that grew again: same epoch, at least as long, other events."""
    await store.append_batch([event() for _ in range(3)])
    info = orjson.loads((await connection.request("$JS.API.STREAM.INFO.AURA_LOG", b"", timeout=10)).data)
    follower = Follower(store)
    await follower.tail.start()
    await follower.until(3)
    config = info["config"]
    config["metadata"] = {"aura.epoch": config["metadata"]["aura.epoch"]}
    other = await log_connection(fresh_nats)
    lose(connection, lambda: False)
    await other.request("$JS.API.STREAM.DELETE.AURA_LOG", b"", timeout=10)
    await other.request("$JS.API.STREAM.CREATE.AURA_LOG", orjson.dumps(config), timeout=10)
    rewritten = JetStreamEventStore(other, CLOCK, IDS)
    await rewritten.append_batch([event() for _ in range(9)])
    await connection.force_reconnect()
    assert isinstance(await follower.until_ended(), LogRegression)
    assert follower.seqs[:3] == [1, 2, 3]
    await follower.tail.stop()
    await other.close()


async def test_g5_a_known_checkpoint_is_compared_at_the_start(store: JetStreamEventStore) -> None:
    await store.append_batch([event() for _ in range(3)])
    epoch = (await store.identity()).epoch
    second = await store.get(2)
    assert second is not None
    follower = Follower(store, 3, identity.checkpoint(epoch, second))
    await follower.tail.start()
    await follower.until(3)
    await follower.tail.stop()
    for known in (identity.Checkpoint(epoch, 2, bytes(32)), identity.Checkpoint("other", 2, b"")):
        other = Follower(store, 3, known)
        with pytest.raises(LogRegression):
            await other.tail.start()
        await other.tail.stop()


async def test_a_consumer_that_raises_ends_its_own_tail_only(store: JetStreamEventStore) -> None:
    ended: list[AuraError] = []

    def broken(_batch: list[Recorded]) -> None:
        raise KeyError("bug")

    follower = Follower(store)
    bad = store.tail(1, broken, ended.append)
    await bad.start()
    await follower.tail.start()
    await store.append(event())
    await store.append(event())
    await follower.until(2)
    assert len(ended) == 1
    await bad.stop()
    await follower.tail.stop()


async def test_g5_a_wiped_store_ends_the_tail(
    fresh_nats: NatsServer, store: JetStreamEventStore, tmp_path: Path
) -> None:
    await store.append_batch([event() for _ in range(4)])
    follower = Follower(store)
    await follower.tail.start()
    await follower.until(4)
    await fresh_nats.kill()
    shutil.rmtree(tmp_path / "nats" / "store")
    await fresh_nats.start()
    assert isinstance(await follower.until_ended(), LogRegression)
    await follower.tail.stop()


async def test_the_tail_knows_how_old_its_view_is(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its age falls only when all that the log had when it was asked is delivered (G13: a gateway that is cut off believes no key)."""
    store = JetStreamEventStore(connection, CLOCK, IDS)
    follower = Follower(store)
    assert follower.tail.age_s() == math.inf
    await follower.tail.start()
    tail, loop = follower.tail, asyncio.get_running_loop()
    await follower.until(await store.append(event()))
    assert tail.age_s() < 60
    asked, identity, read = asyncio.Semaphore(0), store.identity, store.read

    async def counted() -> LogIdentity:
        asked.release()
        return await identity()

    def broken(*_args: object, **_more: object) -> AsyncIterator[list[Recorded]]:
        raise Unavailable("cut off")

    monkeypatch.setattr(store, "identity", counted)
    monkeypatch.setattr(store, "read", broken)
    lose(connection, lambda: False)
    seq = await store.append(event())
    appended_at = loop.time()
    async with asyncio.timeout(60):
        for _ in range(4):
            await asked.acquire()
        assert tail.age_s() >= loop.time() - appended_at - 0.001, "asking alone does not help"
        monkeypatch.setattr(store, "read", read)
        await follower.until(seq)
        while loop.time() - tail.age_s() < appended_at:
            await asked.acquire()
    await tail.stop()
