"""The streams as a real server makes them: idempotent, drift reported and never changed, pools, epochs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import orjson
import pytest

from aura.errors import InvalidRequest
from aura.events import subjects
from aura.log import topology
from aura.log.connection import Connection
from aura.log.inbox import inbox_of
from aura.log.jetstream import JetStreamEventStore
from aura.log.store import Append
from tests.support.log_streams import CLOCK, IDS, delete_streams, empty_log, log_connection
from tests.support.servers import NatsServer

STREAMS = ["AURA_LOG", "AURA_OUTPUT", "AURA_CONTENT", "AURA_HEALTH", "KV_AURA_LEASES", "KV_AURA_TICKETS"]


@pytest.fixture
async def connection(fresh_nats: NatsServer) -> AsyncIterator[Connection]:
    async with empty_log(fresh_nats) as made:
        yield made


async def info(connection: Connection, stream: str) -> dict[str, object]:
    answer: dict[str, object] = orjson.loads((await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"")).data)
    return answer


async def test_ensure_is_idempotent_also_from_many_processes_at_once(
    fresh_nats: NatsServer, connection: Connection
) -> None:
    await delete_streams(connection)
    others = [await log_connection(fresh_nats, "admin") for _ in range(4)]
    reports = await asyncio.gather(*(topology.ensure(other, CLOCK, IDS) for other in others))
    assert len({report.epoch for report in reports}) == 1
    assert {name for report in reports for name in report.created} == set(STREAMS)
    again = await topology.ensure(connection, CLOCK, IDS)
    assert (again.created, again.existing, again.drift) == ([], STREAMS, [])
    assert again.epoch == reports[0].epoch
    for other in others:
        await other.close()


async def test_drift_is_reported_and_not_changed(connection: Connection) -> None:
    config = (await info(connection, "AURA_LOG"))["config"]
    assert isinstance(config, dict)
    changed = config | {"max_msg_size": 1_000, "description": "mine", "duplicate_window": 60_000_000_000}
    await connection.request("$JS.API.STREAM.UPDATE.AURA_LOG", orjson.dumps(changed))
    for _ in range(2):
        report = await topology.ensure(connection, CLOCK, IDS)
        found = {(drift.stream, drift.setting): (drift.wanted, drift.found) for drift in report.drift}
        assert found[("AURA_LOG", "max_msg_size")] == (64 * 1024, 1_000)
        assert ("AURA_LOG", "description") in found
        assert ("AURA_LOG", "duplicate_window") in found
        assert len(found) == 3


async def test_the_log_cannot_be_deleted_from_or_purged(connection: Connection) -> None:
    store = JetStreamEventStore(connection, CLOCK, IDS)
    await store.append(Append("aura.system.alert_raised", None, 0, str(uuid.uuid4()), b"{}"))
    for call, body in (("STREAM.PURGE.AURA_LOG", b"{}"), ("STREAM.MSG.DELETE.AURA_LOG", b'{"seq":1}')):
        answer = orjson.loads((await connection.request(f"$JS.API.{call}", body)).data)
        assert answer["error"]["code"] >= 400
    assert (await store.identity()).last_seq == 1


async def test_g5_a_new_epoch_is_another_identity_of_the_same_events(connection: Connection) -> None:
    store = JetStreamEventStore(connection, CLOCK, IDS)
    await store.append(Append("aura.system.alert_raised", None, 0, str(uuid.uuid4()), b"{}"))
    before = await store.identity()
    epoch = await topology.accept_new_epoch(connection, CLOCK, IDS)
    after = await store.identity()
    assert after.epoch == epoch != before.epoch
    assert after.last_seq == 1
    report = await topology.ensure(connection, CLOCK, IDS)
    assert (report.epoch, report.drift) == (epoch, [])


async def test_pools_are_made_once_and_keep_their_place(fresh_nats: NatsServer, connection: Connection) -> None:
    scheduler = await log_connection(fresh_nats, "scheduler")
    pools = topology.Pools(scheduler, CLOCK, IDS)
    await asyncio.gather(*(pools.ensure("employee_ollama") for _ in range(10)))
    await topology.ensure_pool(inbox_of(connection, CLOCK, IDS), "employee_ollama")
    names = orjson.loads((await connection.request("$JS.API.CONSUMER.NAMES.AURA_LOG", b"")).data)
    assert names["consumers"] == ["pool_employee_ollama"]
    found = orjson.loads((await connection.request("$JS.API.CONSUMER.INFO.AURA_LOG.pool_employee_ollama", b"")).data)
    config = found["config"]
    assert config["filter_subject"] == subjects.pool_filter("employee_ollama")
    assert (config["deliver_policy"], config["ack_policy"], config["max_deliver"]) == ("new", "explicit", -1)
    with pytest.raises(InvalidRequest):
        await pools.ensure("a.b")
    await scheduler.close()
