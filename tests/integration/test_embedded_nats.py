"""The embedded nats-server and its offline-minted users: who may do what, tried against the real server (DECISIONS.md)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aura.clock import SystemClock
from aura.errors import InvalidRequest
from aura.ids import SystemIds
from aura.log import connection, topology
from aura.log.credentials import credentials_callbacks, inbox_prefix, parse_creds
from aura.runtime import permissions
from aura.runtime.nats_accounts import NatsAccounts, worker_credentials
from tests.support.servers import NatsServer

JOB = "01989c00-0000-7000-8000-000000000001"
WORKER = "w1"
USERS = (*permissions.COMPONENTS, "worker")
COMMITTED = [f"aura.{kind}.1.{JOB}.completed" for kind in ("job", "model", "session", "system", "output")]
#: Subjects nobody may publish on: the committed space, and every way to lose, reshape or redirect the log.
FORBIDDEN_TO_ALL = [
    *COMMITTED,
    "$JS.API.STREAM.DELETE.AURA_LOG",
    "$JS.API.STREAM.PURGE.AURA_LOG",
    "$JS.API.STREAM.MSG.DELETE.AURA_LOG",
    "$JS.API.STREAM.UPDATE.AURA_LOG",
    "$JS.API.STREAM.CREATE.OTHER",
    "$JS.API.STREAM.RESTORE.AURA_LOG",
    "$JS.API.STREAM.SNAPSHOT.AURA_LOG",
    "$JS.API.CONSUMER.DELETE.AURA_CONTENT.any",
    "$SYS.REQ.SERVER.PING",
    "cmd.aura.worker.somebody_else.claim",
    "append.aura.system.retention_changed",
    "anything.else",
]
#: user → (some subjects it may publish on, some it may not). ``$JS`` calls have no body, so the server only refuses them.
PUBLISH: dict[str, tuple[list[str], list[str]]] = {
    "gateway": (
        [
            f"append.aura.job.1.{JOB}.created",
            "append.aura.model.m.registered",
            "append.aura.session.1.s.started",
            f"content.aura.1.{JOB}.input",
            f"append.output.1.{JOB}.1.log",
            "health.aura.m.http",
            "lease.aura.renewed",
            "$JS.API.DIRECT.GET.AURA_LOG",
            "$JS.API.STREAM.MSG.GET.AURA_LOG",
            "$JS.API.STREAM.MSG.DELETE.AURA_CONTENT",
            "$JS.API.CONSUMER.MSG.NEXT.AURA_LOG.pool_m",
        ],
        [
            "append.aura.system.leader_elected",
            "cmd.aura.admin.purge",
            "$KV.AURA_LEASES.scheduler",
            "$JS.API.STREAM.CREATE.AURA_LOG",
        ],
    ),
    "scheduler": (
        [
            f"append.aura.job.1.{JOB}.assigned.m",
            "append.aura.model.m.offline",
            "append.aura.system.leader_elected",
            "$KV.AURA_LEASES.scheduler",
            "$JS.API.CONSUMER.CREATE.AURA_LOG.pool_m.aura.job.*.*.assigned.m",
            "$JS.API.DIRECT.GET.KV_AURA_LEASES.$KV.AURA_LEASES.scheduler",
        ],
        [
            f"content.aura.1.{JOB}.input",
            f"append.output.1.{JOB}.1.log",
            "append.aura.session.1.s.started",
            "append.aura.system.alert_raised",
            "lease.aura.renewed",
            "health.aura.m.w1",
            "$JS.API.DIRECT.GET.AURA_CONTENT",
            "$JS.API.STREAM.MSG.GET.AURA_CONTENT",
            "$KV.AURA_LEASES.projector",
        ],
    ),
    "projector": (
        [
            "append.aura.system.projection_rebuilt",
            "append.aura.system.alert_raised",
            "append.aura.system.alert_cleared",
            "$JS.API.DIRECT.GET.AURA_LOG",
            "$JS.API.CONSUMER.CREATE.AURA_LOG.p",
        ],
        [
            f"append.aura.job.1.{JOB}.completed",
            "append.aura.model.m.online",
            "append.aura.system.leader_elected",
            f"content.aura.1.{JOB}.result",
            "$JS.API.DIRECT.GET.AURA_CONTENT",
            "$JS.API.DIRECT.GET.AURA_OUTPUT",
            "$KV.AURA_LEASES.scheduler",
        ],
    ),
    "admin": (
        [
            "$JS.API.STREAM.CREATE.AURA_LOG",
            "$JS.API.STREAM.INFO.AURA_LOG",
            "$JS.API.STREAM.NAMES",
            "$JS.API.CONSUMER.LIST.AURA_LOG",
            "cmd.aura.admin.purge",
            "$SRV.PING",
        ],
        [
            f"append.aura.job.1.{JOB}.created",
            f"append.output.1.{JOB}.1.log",
            f"content.aura.1.{JOB}.input",
            "$KV.AURA_LEASES.scheduler",
            "cmd.aura.worker.w1.claim",
        ],
    ),
    "observer": (
        ["$JS.API.STREAM.INFO.AURA_LOG", "$JS.API.DIRECT.GET.AURA_LOG"],
        [
            f"append.aura.job.1.{JOB}.created",
            f"append.output.1.{JOB}.1.log",
            "health.aura.m.w1",
            "cmd.aura.admin.purge",
            "$SRV.PING",
            "$JS.API.CONSUMER.CREATE.AURA_LOG",
            "$JS.API.CONSUMER.MSG.NEXT.AURA_LOG.pool_m",
            "$JS.API.DIRECT.GET.AURA_CONTENT",
        ],
    ),
    "worker": (
        [
            "cmd.aura.worker.w1.claim",
            f"append.output.1.{JOB}.1.stream",
            "health.aura.m.w1",
            "$JS.API.CONSUMER.MSG.NEXT.AURA_LOG.pool_m",
            "$JS.API.CONSUMER.INFO.AURA_LOG.pool_m",
            "$JS.ACK.AURA_LOG.pool_m.1.1.1.1.0",
        ],
        [
            f"append.aura.job.1.{JOB}.claimed",
            "cmd.aura.worker.w2.claim",
            "cmd.aura.admin.purge",
            "health.aura.m.w2",
            "health.aura.other.w1",
            "lease.aura.renewed",
            f"content.aura.1.{JOB}.result",
            "$JS.API.CONSUMER.MSG.NEXT.AURA_LOG.pool_other",
            "$JS.ACK.AURA_LOG.pool_other.1.1.1.1.0",
            "$JS.API.CONSUMER.CREATE.AURA_LOG",
            "$JS.API.CONSUMER.CREATE.AURA_LOG.pool_m.aura.job.*.*.assigned.m",
            "$JS.API.CONSUMER.DURABLE.CREATE.AURA_LOG.mine",
            "$JS.API.DIRECT.GET.AURA_LOG",
            "$JS.API.DIRECT.GET.AURA_OUTPUT",
            "$JS.API.STREAM.MSG.GET.AURA_LOG",
            "$JS.API.STREAM.INFO.AURA_LOG",
            "$SRV.PING",
        ],
    ),
}
#: user → (subjects it may subscribe to, subjects it may not).
SUBSCRIBE: dict[str, tuple[list[str], list[str]]] = {
    "gateway": (
        ["aura.>", "health.aura.>", "cmd.aura.>", "$SRV.PING", "_INBOX_gateway.x"],
        ["append.aura.>", "content.aura.>", "$KV.AURA_LEASES.>"],
    ),
    "scheduler": (
        ["aura.>", "health.aura.>", "lease.aura.>", "$KV.AURA_LEASES.>", "_INBOX_scheduler.x"],
        ["append.aura.>", "content.aura.>", "cmd.aura.>"],
    ),
    "projector": (["aura.>", "health.aura.>", "_INBOX_projector.x"], ["content.aura.>", "cmd.aura.>", "lease.aura.>"]),
    "admin": (["aura.>", "health.aura.>", "_INBOX_admin.x", "_INBOX.x"], ["cmd.aura.>", "content.aura.>"]),
    "observer": (["aura.job.>", "aura.>", "_INBOX_observer.x"], ["cmd.aura.>", "content.aura.>", "_INBOX.x"]),
    "worker": (
        ["aura.job.*.*.cancelled", "aura.job.*.*.lease_expired", "_INBOX_worker.w1.x"],
        [
            "aura.>",
            "aura.job.>",
            "aura.output.>",
            "cmd.aura.>",
            "health.aura.>",
            "_INBOX_worker.w2.>",
            "_INBOX_worker.>",
        ],
    ),
}


class Tried:
    """A client that notes what the server refused it."""

    def __init__(self, client: Client, refused: list[str]) -> None:
        self.client = client
        self._refused = refused

    async def publish(self, subject: str, reply: str = "", body: bytes = b"") -> bool:
        """Whether the server took it."""
        self._refused.clear()
        await self.client.publish(subject, body, reply=reply)
        await self._settled()
        return not self._refused

    async def _settled(self) -> None:
        """A refusal precedes the answer to a ping; twice, because nats-py's ping may overtake what it has buffered."""
        await self.client.flush()
        await self.client.flush()

    async def subscribe(self, subject: str) -> bool:
        self._refused.clear()
        subscription = await self.client.subscribe(subject)
        await self._settled()
        if allowed := not self._refused:
            await subscription.unsubscribe()
        return allowed


async def sign_in(server: NatsServer, user: str) -> Tried:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        assert "permissions violation" in str(error).lower(), error
        refused.append(str(error))

    creds = server.worker(WORKER, ["m"]) if user == "worker" else server.creds(user)
    return Tried(await server.connect(creds, error_cb=note), refused)


async def log_length(server: NatsServer) -> int:
    info = await (await server.connect("root")).jetstream().stream_info("AURA_LOG")
    return int(info.state.messages)


@pytest_asyncio.fixture
async def streams(fresh_nats: NatsServer) -> AsyncIterator[NatsServer]:
    """A server whose streams the ``admin`` user made, and the pool ``m`` that the ``scheduler`` made."""
    clock, ids = SystemClock(), SystemIds()
    admin = await connection.connect(fresh_nats.url, fresh_nats.creds("admin"))
    report = await topology.ensure(admin, clock, ids)
    assert (report.created, report.drift) == (list(permissions.STREAMS), [])
    await admin.close()
    scheduler = await connection.connect(fresh_nats.url, fresh_nats.creds("scheduler"))
    await topology.Pools(scheduler, clock, ids).ensure("m")
    await scheduler.close()
    yield fresh_nats


@pytest.mark.parametrize("user", USERS)
async def test_publishing(streams: NatsServer, user: str) -> None:
    client = await sign_in(streams, user)
    allowed, refused = PUBLISH[user]
    assert [subject for subject in allowed if not await client.publish(subject)] == []
    assert [subject for subject in (*refused, *FORBIDDEN_TO_ALL) if await client.publish(subject)] == []


@pytest.mark.parametrize("user", USERS)
async def test_subscribing(streams: NatsServer, user: str) -> None:
    client = await sign_in(streams, user)
    allowed, refused = SUBSCRIBE[user]
    others = [f"_INBOX_{other}.>" for other in permissions.COMPONENTS if other != user]
    assert [subject for subject in allowed if not await client.subscribe(subject)] == []
    everything = [">", "*.>", "_INBOX_worker.>", "append.output.>", "$JS.>", "$SYS.>", "_R_.>"]
    assert [subject for subject in (*refused, *others, *everything) if await client.subscribe(subject)] == []


async def test_without_credentials_nobody_gets_in(fresh_nats: NatsServer, tmp_path: Path) -> None:
    import nats

    silent: dict[str, Any] = {"allow_reconnect": False, "connect_timeout": 2}
    with pytest.raises(NatsError):
        await nats.connect(fresh_nats.url, **silent)
    stranger = NatsAccounts.open(tmp_path / "others").user("admin", permissions.admin(), permissions.CORE)
    (tmp_path / "stranger.creds").write_text(stranger.text())
    jwt, sign = credentials_callbacks(tmp_path / "stranger.creds")
    with pytest.raises(NatsError):
        await nats.connect(fresh_nats.url, user_jwt_cb=jwt, signature_cb=sign, **silent)


async def test_a_worker_pulls_claims_writes_and_hears_of_ends(streams: NatsServer) -> None:
    gateway, worker = await sign_in(streams, "gateway"), await sign_in(streams, "worker")

    async def answer(message: Msg) -> None:
        await message.respond(b"claimed by " + message.subject.split(".")[3].encode())

    await gateway.client.subscribe("cmd.aura.worker.*.claim", cb=answer)
    ended = await worker.client.subscribe("aura.job.*.*.cancelled")
    await gateway.client.flush()
    await worker.client.flush()
    log = gateway.client.jetstream()
    await log.publish(f"append.aura.job.1.{JOB}.assigned.m", b'{"type":"job.assigned"}')

    inbox = worker.client.new_inbox()
    pulling = await worker.client.subscribe(inbox)
    assert await worker.publish("$JS.API.CONSUMER.MSG.NEXT.AURA_LOG.pool_m", inbox, b'{"batch":1,"expires":5000000000}')
    pulled = await pulling.next_msg(timeout=5)
    assert pulled.subject == f"aura.job.1.{JOB}.assigned.m"
    assert (await worker.client.request(f"cmd.aura.worker.{WORKER}.claim", b"")).data == b"claimed by w1"
    assert (await worker.client.request(pulled.reply, b"+ACK")).data == b""  # double ack: the server has it
    stored = await worker.client.request(
        f"append.output.1.{JOB}.1.stream",
        b"x",
        headers={
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Expected-Last-Subject-Sequence-Subject": f"aura.output.1.{JOB}.1.>",
        },
    )
    assert json.loads(stored.data) == {"stream": "AURA_OUTPUT", "seq": 1}
    own = await worker.client.request("$JS.API.STREAM.MSG.GET.AURA_OUTPUT", b'{"seq":1}')
    assert json.loads(own.data)["message"]["subject"] == f"aura.output.1.{JOB}.1.stream"
    heartbeat = await worker.client.request(f"health.aura.m.{WORKER}", b"{}")
    assert json.loads(heartbeat.data)["stream"] == "AURA_HEALTH"
    pool = await worker.client.request("$JS.API.CONSUMER.INFO.AURA_LOG.pool_m", b"")
    assert json.loads(pool.data)["num_ack_pending"] == 0

    await log.publish(f"append.aura.job.1.{JOB}.cancelled", b'{"type":"job.cancelled"}')
    heard = await ended.next_msg(timeout=5)
    assert heard.headers is not None
    assert (heard.subject, heard.headers["Nats-Sequence"]) == (f"aura.job.1.{JOB}.cancelled", "2")
    health = await gateway.client.request("$JS.API.STREAM.MSG.GET.AURA_HEALTH", b'{"seq":1}')
    assert json.loads(health.data)["message"]["subject"] == "health.aura.m.w1"


async def test_g7_the_pull_of_a_worker_that_is_gone_takes_no_job_with_it(streams: NatsServer) -> None:
    """Across accounts too, the server knows that nobody listens on the reply any more."""
    pull = b'{"batch":1,"expires":30000000000}'
    gone, stays = await sign_in(streams, "worker"), await sign_in(streams, "worker")
    for worker in (gone, stays):
        inbox = worker.client.new_inbox()
        subscription = await worker.client.subscribe(inbox)
        assert await worker.publish("$JS.API.CONSUMER.MSG.NEXT.AURA_LOG.pool_m", inbox, pull)
        if worker is gone:
            await worker.client.close()
    gateway = await sign_in(streams, "gateway")
    await gateway.client.jetstream().publish(f"append.aura.job.1.{JOB}.assigned.m", b"{}")
    assert (await subscription.next_msg(timeout=5)).subject == f"aura.job.1.{JOB}.assigned.m"


@pytest.mark.parametrize("target", [f"append.aura.job.1.{JOB}.completed", f"aura.job.1.{JOB}.completed"])
async def test_a_reply_subject_is_no_way_into_the_log(streams: NatsServer, target: str) -> None:
    """The server and the gateway answer on any reply subject: a worker or observer must not aim that at the log."""
    gateway = await sign_in(streams, "gateway")
    seen: list[str] = []

    async def watch(message: Msg) -> None:
        seen.append(message.subject)

    answered = asyncio.Semaphore(0)

    async def answer(message: Msg) -> None:
        await message.respond(b'{"type":"job.completed"}')
        answered.release()

    await gateway.client.subscribe("cmd.aura.>", cb=answer)
    for number in range(3):
        await gateway.client.jetstream().publish(f"append.aura.job.1.{number}.assigned.m", b"{}")
    await gateway.client.subscribe("aura.>", cb=watch)
    await gateway.client.flush()
    before = await log_length(streams)
    worker, observer = await sign_in(streams, "worker"), await sign_in(streams, "observer")
    for body in (
        b'{"batch":1,"no_wait":true}',
        b"rubbish",
        b'{"batch":10,"no_wait":true}',
        b'{"batch":1,"no_wait":true}',
    ):
        assert await worker.publish("$JS.API.CONSUMER.MSG.NEXT.AURA_LOG.pool_m", target, body)
    assert await worker.publish("$JS.API.STREAM.MSG.GET.AURA_OUTPUT", target, b'{"seq":1}')
    assert await worker.publish(f"append.output.1.{JOB}.1.stream", target, b"x")
    assert await worker.publish(f"cmd.aura.worker.{WORKER}.claim", target)
    for body in (b'{"seq":1}', b'{"batch":3,"next_by_subj":">"}'):
        assert await observer.publish("$JS.API.DIRECT.GET.AURA_LOG", target, body)
    async with asyncio.timeout(5):
        await answered.acquire()
    # Everything above was handled once these, sent after it by the same clients, are answered.
    await worker.client.request("$JS.API.CONSUMER.INFO.AURA_LOG.pool_m", b"")
    await observer.client.request("$JS.API.STREAM.INFO.AURA_LOG", b"")
    await gateway.client.flush()
    assert await log_length(streams) == before
    assert [subject for subject in seen if not subject.startswith("aura.output.")] == []


async def test_an_observer_sees_committed_events_and_reads_the_log(streams: NatsServer) -> None:
    gateway, observer = await sign_in(streams, "gateway"), await sign_in(streams, "observer")
    watched = await observer.client.subscribe("aura.job.>")
    await observer.client.flush()
    await gateway.client.jetstream().publish(f"append.aura.job.1.{JOB}.created", b'{"type":"job.created"}')
    seen = await watched.next_msg(timeout=5)
    assert seen.headers is not None
    assert (seen.data, seen.headers["Nats-Sequence"]) == (b'{"type":"job.created"}', "1")
    got = await observer.client.request("$JS.API.DIRECT.GET.AURA_LOG", b'{"seq":1}')
    assert got.data == b'{"type":"job.created"}'


async def test_a_worker_is_let_in_without_telling_the_server(fresh_nats: NatsServer, tmp_path: Path) -> None:
    """As ``aura worker --name late`` does it: from the keys in the data folder, while the server runs."""
    (tmp_path / "data").mkdir()
    keys = tmp_path / "data" / "nats"
    folder = NatsAccounts.open(keys)  # another installation: its server does not matter, only that files are made once
    del folder
    first = worker_credentials(tmp_path / "data", "late", ["m"])
    text = first.read_text()
    assert first.stat().st_mode & 0o777 == 0o600
    assert worker_credentials(tmp_path / "data", "late", ["m"]).read_text() == text
    assert worker_credentials(tmp_path / "data", "late", ["m", "n"]).read_text() != text
    assert inbox_prefix(first) == "_INBOX_worker.late"
    late = await fresh_nats.connect(fresh_nats.worker("late", ["m"]))
    assert late.is_connected


@pytest.mark.parametrize("name", ["*", ">", "a.b", "", "a b", "a\r\nPUB x 1", "\0", "x" * 65, "$SYS", "ü"])
def test_names_that_are_more_than_a_token_get_no_credential(name: str) -> None:
    with pytest.raises(InvalidRequest):
        permissions.worker(name, ["m"])
    with pytest.raises(InvalidRequest):
        permissions.worker("w", [name])


async def test_g1_kill_9_loses_nothing_and_the_port_stays(streams: NatsServer) -> None:
    gateway = await sign_in(streams, "gateway")
    for number in range(20):
        await gateway.client.jetstream().publish(f"append.aura.job.1.{number}.created", b"{}")
    await gateway.client.close()
    url = streams.url
    await streams.kill()
    await streams.start()
    assert streams.url == url
    assert await log_length(streams) == 20


def test_keys_and_credentials_are_private_and_round_trip(tmp_path: Path) -> None:
    keys = NatsAccounts.open(tmp_path / "nats")
    keys.write_component_creds(tmp_path / "credentials")
    again = NatsAccounts.open(tmp_path / "nats")
    subject = keys.server_config().split("system_account: ")[1].split()[0]
    assert again.server_config().split("system_account: ")[1].split()[0] == subject
    for path in (*(tmp_path / "nats").iterdir(), *(tmp_path / "credentials").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600
    creds = parse_creds((tmp_path / "credentials" / "gateway.creds").read_text())
    assert creds.seed not in repr(creds)
    assert creds.claims()["name"] == "gateway"
    assert "SO" not in keys.server_config().replace("\n", " ").split()
