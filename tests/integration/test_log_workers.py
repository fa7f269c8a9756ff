"""What workers and commands use of the log, with the permissions they really have: rpc, pools, heartbeats, output."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import orjson
import pytest

from aura.errors import InvalidRequest, Unavailable
from aura.log import topology
from aura.log.connection import Connection
from aura.log.content_jetstream import jetstream_content
from aura.log.health import (
    CoreLeaseRenewals,
    HealthLog,
    Heartbeat,
    HeartbeatPublisher,
    follow_heartbeats,
    follow_renewals,
)
from aura.log.inbox import inbox_of
from aura.log.jetstream import JetStreamEventStore
from aura.log.output import OutputMessage, OutputWriter
from aura.log.output_jetstream import JetStreamOutputBackend, follow_output, jetstream_output
from aura.log.pool import Offer, PoolPuller
from aura.log.ports import InputItem
from aura.log.rpc import Endpoint, RpcClient, RpcServer
from aura.log.store import Append
from tests.support.log_streams import CLOCK, IDS, empty_log, log_connection
from tests.support.servers import NatsServer


@dataclass
class System:
    """Connections with the users' own permissions."""

    server: NatsServer
    root: Connection
    gateway: Connection
    worker: Connection


@pytest.fixture
async def system(fresh_nats: NatsServer) -> AsyncIterator[System]:
    async with empty_log(fresh_nats) as root:
        gateway = await log_connection(fresh_nats, "gateway")
        worker = await log_connection(fresh_nats, fresh_nats.worker("w1", ["m1"]))
        await topology.ensure_pool(inbox_of(root, CLOCK, IDS), "m1")
        yield System(fresh_nats, root, gateway, worker)
        await worker.close()
        await gateway.close()


# --- rpc


async def answer(subject: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
    if body == b"raise":
        raise KeyError("bug")
    if body == b"refuse":
        return 409, orjson.dumps({"status": 409, "code": "conflict"})
    return 200, orjson.dumps({"subject": subject, "key": headers.get("Aura-Idempotency-Key"), "body": body.decode()})


async def test_commands_reach_the_handler_and_answers_and_problems_come_back(system: System) -> None:
    server = RpcServer(system.gateway, "aura", "0.1.0", [Endpoint("claim", "cmd.aura.worker.*.claim", answer)])
    await server.start()
    client = RpcClient(system.worker, CLOCK, IDS)
    got = await client.call("cmd.aura.worker.w1.claim", b"x", {"Aura-Idempotency-Key": "k1"})
    assert got.status == 200
    assert orjson.loads(got.body) == {"subject": "cmd.aura.worker.w1.claim", "key": "k1", "body": "x"}
    refused = await client.call("cmd.aura.worker.w1.claim", b"refuse")
    assert (refused.status, orjson.loads(refused.body)["code"]) == (409, "conflict")
    broken = await client.call("cmd.aura.worker.w1.claim", b"raise")
    assert (broken.status, b"bug" in broken.body) == (500, False)
    many = await asyncio.gather(*(client.call("cmd.aura.worker.w1.claim", b"%d" % n) for n in range(200)))
    assert [orjson.loads(one.body)["body"] for one in many] == [str(n) for n in range(200)]
    info = orjson.loads((await system.root.request("$SRV.INFO.aura", b"", timeout=10)).data)
    assert [(e["name"], e["subject"]) for e in info["endpoints"]] == [("claim", "cmd.aura.worker.*.claim")]
    await server.stop()
    await server.stop()


async def test_slow_handlers_do_not_hold_up_others(system: System) -> None:
    release = asyncio.Event()

    async def slow(_subject: str, _headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        if body == b"slow":
            await release.wait()
        return 200, body

    server = RpcServer(system.gateway, "aura", "0.1.0", [Endpoint("x", "cmd.aura.worker.*.x", slow)])
    await server.start()
    client = RpcClient(system.worker, CLOCK, IDS)
    waiting = asyncio.create_task(client.call("cmd.aura.worker.w1.x", b"slow"))
    assert (await client.call("cmd.aura.worker.w1.x", b"quick")).body == b"quick"
    assert not waiting.done()
    release.set()
    assert (await waiting).body == b"slow"
    await server.stop()


async def test_nobody_listening_is_unavailable_at_once(system: System) -> None:
    with pytest.raises(Unavailable):
        await RpcClient(system.root, CLOCK, IDS).call("cmd.aura.admin.nothing", b"", timeout_s=60)


async def test_two_servers_share_the_work(system: System) -> None:
    served = {"a": 0, "b": 0}
    servers = []
    for name in served:

        async def handle(_s: str, _h: Mapping[str, str], body: bytes, name: str = name) -> tuple[int, bytes]:
            served[name] += 1
            return 200, body

        servers.append(RpcServer(system.gateway, "aura", "0.1.0", [Endpoint("x", "cmd.aura.admin.x", handle)]))
        await servers[-1].start()
    client = RpcClient(system.root, CLOCK, IDS)
    await asyncio.gather(*(client.call("cmd.aura.admin.x", b"") for _ in range(100)))
    assert served["a"] + served["b"] == 100
    assert min(served.values()) > 0
    for server in servers:
        await server.stop()


# --- pools


class Taken:
    """Offers as they come."""

    def __init__(self) -> None:
        self.offers: list[Offer] = []
        self._arrived = asyncio.Event()

    def __call__(self, offer: Offer) -> None:
        self.offers.append(offer)
        self._arrived.set()

    async def until(self, count: int) -> None:
        await self._wait(lambda: len(self.offers) >= count)

    async def until_seen(self, seqs: list[int]) -> None:
        """Redeliveries do not count: an acknowledgement may die with the server, which is why it fences nothing."""
        await self._wait(lambda: {offer.seq for offer in self.offers} >= set(seqs))

    async def _wait(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not enough():
                self._arrived.clear()
                await self._arrived.wait()


async def assign(store: JetStreamEventStore, count: int, model: str = "m1") -> list[int]:
    jobs = [str(uuid.uuid4()) for _ in range(count)]
    return [
        await store.append(
            Append(f"aura.job.1.{job}.assigned.{model}", f"aura.job.1.{job}.>", 0, str(uuid.uuid4()), b'{"x":1}')
        )
        for job in jobs
    ]


async def test_a_pool_delivers_as_many_as_are_wanted(system: System) -> None:
    store = JetStreamEventStore(system.root, CLOCK, IDS)
    taken = Taken()
    puller = PoolPuller(system.worker, CLOCK, IDS, "m1", taken)
    await puller.start()
    seqs = await assign(store, 10)
    await assign(store, 3, "other_model")
    puller.want(4)
    await taken.until(4)
    assert [offer.seq for offer in taken.offers] == seqs[:4]
    assert taken.offers[0].subject.endswith(".assigned.m1")
    assert taken.offers[0].body == b'{"x":1}'
    assert puller.asked_for == 0
    for offer in taken.offers:
        offer.ack()
    puller.want(100)
    await taken.until(10)
    more = await assign(store, 2)
    await taken.until(12)
    assert [offer.seq for offer in taken.offers] == seqs + more
    assert all(offer.deliveries == 1 for offer in taken.offers)
    await puller.stop()
    await puller.stop()


async def test_a_nak_is_offered_again_and_an_ack_is_not(system: System) -> None:
    store = JetStreamEventStore(system.root, CLOCK, IDS)
    taken = Taken()
    puller = PoolPuller(system.worker, CLOCK, IDS, "m1", taken)
    await puller.start()
    puller.want(10)
    first, second = await assign(store, 2)
    await taken.until(2)
    taken.offers[0].ack()
    taken.offers[1].nak()
    await taken.until(3)
    assert (taken.offers[2].seq, taken.offers[2].deliveries) == (second, 2)
    taken.offers[2].in_progress()
    taken.offers[2].ack()
    await system.worker.flush()
    third = await assign(store, 1)
    await taken.until(4)
    assert [offer.seq for offer in taken.offers] == [first, second, second, *third]
    await puller.stop()


async def test_g7_pulling_goes_on_after_the_server_was_killed(system: System) -> None:
    store = JetStreamEventStore(system.root, CLOCK, IDS, deadline_s=60)
    taken = Taken()
    puller = PoolPuller(system.worker, CLOCK, IDS, "m1", taken)
    await puller.start()
    puller.want(10)
    seqs = await assign(store, 1)
    await taken.until(1)
    taken.offers[0].ack()
    await system.worker.flush()
    for _ in range(2):
        await system.server.kill()
        await system.server.start()
        seqs += await assign(store, 1)
        puller.want(10)
        await taken.until_seen(seqs)
        taken.offers[-1].ack()
        await system.worker.flush()
    assert {offer.seq for offer in taken.offers} == set(seqs)
    await puller.stop()


async def test_a_pool_that_does_not_exist_yet_is_retried(system: System) -> None:
    store = JetStreamEventStore(system.root, CLOCK, IDS)
    worker = await log_connection(system.server, system.server.worker("w2", ["late"]))
    taken = Taken()
    puller = PoolPuller(worker, CLOCK, IDS, "late", taken)
    await puller.start()
    puller.want(1)
    await worker.flush()
    await topology.ensure_pool(inbox_of(system.root, CLOCK, IDS), "late")
    seqs = await assign(store, 1, "late")
    await taken.until(1)
    assert taken.offers[0].seq == seqs[0]
    await puller.stop()
    await worker.close()


# --- heartbeats and renewals


async def test_heartbeats_are_seen_live_stored_and_followed(system: System) -> None:
    live: list[Heartbeat] = []
    subscription = await follow_heartbeats(system.gateway, live.append)
    await system.gateway.flush()
    health = HealthLog(system.gateway, CLOCK, IDS)
    before = await health.identity()
    following = health.follow(1)
    sink = HeartbeatPublisher(system.worker)
    async with asyncio.timeout(30):
        reading = asyncio.ensure_future(anext(following))
        for n in range(3):
            await sink.report("m1", "w1", {"n": n})
        seen = await reading
        while len(seen) < 3:
            seen += await anext(following)
    assert [orjson.loads(recorded.body)["n"] for recorded in seen] == [0, 1, 2]
    assert {recorded.subject for recorded in seen} == {"health.aura.m1.w1"}
    assert [(beat.model, beat.worker_id) for beat in live] == [("m1", "w1")] * 3
    assert [r.seq async for batch in health.read() for r in batch] == [1, 2, 3]
    assert (await health.identity()).epoch == before.epoch
    assert (await health.identity()).last_seq == 3
    assert await health.get(2) == seen[1]
    for bad in (("a.b", "w"), ("m", "*")):
        with pytest.raises(InvalidRequest):
            await sink.report(*bad, {})
    await following.aclose()  # type: ignore[attr-defined]
    await subscription.unsubscribe()


async def test_lease_renewals_reach_the_scheduler(system: System) -> None:
    scheduler = await log_connection(system.server, "scheduler")
    renewed: asyncio.Queue[tuple[str, int, str]] = asyncio.Queue()
    await follow_renewals(scheduler, lambda *renewal: renewed.put_nowait(renewal))
    await scheduler.flush()
    await system.root.publish("lease.aura.renewed", b"rubbish")
    await CoreLeaseRenewals(system.gateway).renewed("job", 2, "w1")
    async with asyncio.timeout(30):
        assert await renewed.get() == ("job", 2, "w1")
    await scheduler.close()


# --- output


async def test_a_worker_writes_output_that_the_gateway_reads_live_and_later(system: System) -> None:
    content = jetstream_content(system.gateway, CLOCK, IDS, bytes(32))
    output = jetstream_output(system.gateway, CLOCK, IDS, content)
    job = str(uuid.uuid4())
    await content.put_inputs([InputItem(1, job, b"in")])
    key = await content.data_key(1, job)
    assert key is not None
    live: asyncio.Queue[OutputMessage] = asyncio.Queue()
    subscription = await follow_output(system.gateway, f"aura.output.1.{job}.>", live.put_nowait)
    await system.gateway.flush()
    writer = OutputWriter(JetStreamOutputBackend(system.worker, CLOCK, IDS), IDS, 1, job, 1, key)
    await writer.write("stream", [{"chunk": "to"}, {"chunk": "ken"}])
    await writer.write("log", [{"line": "done"}])
    async with asyncio.timeout(30):
        messages = [await live.get(), await live.get()]
    stored = (await output.read(1, job, [1])).messages
    assert messages == stored
    assert [record["i"] for message in messages for record in message.records(key)] == [0, 1, 2]
    assert await output.count(1, job, 1) == writer.count == 3
    other = OutputWriter(JetStreamOutputBackend(system.worker, CLOCK, IDS), IDS, 1, job, 1, key)
    await other.resume()
    assert other.count == 3
    await subscription.unsubscribe()
