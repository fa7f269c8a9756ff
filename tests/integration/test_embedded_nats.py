"""The embedded nats-server and its offline-minted users at work; what each may do is in the test beside this one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aura.log.credentials import credentials_callbacks, inbox_prefix, parse_creds
from aura.runtime import permissions
from aura.runtime.nats_accounts import NatsAccounts, worker_credentials
from tests.support import servers
from tests.support.servers import NatsServer
from tests.support.signed_in import JOB, WORKER, log_length, sign_in


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


async def test_a_worker_is_let_in_without_telling_the_server(backend: str, tmp_path: Path) -> None:
    """As ``aura worker --name late`` does it: from the keys in the data folder, while the server runs."""
    data = tmp_path / "data"
    server = servers.nats_server(backend, tmp_path / "server", NatsAccounts.open(data / "nats"))
    await server.start()
    try:
        late = worker_credentials(data, "late", ["m"])
        assert (late.stat().st_mode & 0o777, inbox_prefix(late)) == (0o600, "_INBOX_worker.late")
        assert (await server.connect(late)).is_connected
        text = late.read_text()
        assert worker_credentials(data, "late", ["m"]).read_text() == text
        assert worker_credentials(data, "late", ["m", "n"]).read_text() != text
        assert (await server.connect(late)).is_connected
    finally:
        await server.stop()


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
