"""Who may publish and subscribe to what, tried against the real server, user by user (DECISIONS.md)."""

from __future__ import annotations

import pytest

from aura.errors import InvalidRequest
from aura.runtime import permissions
from tests.support.servers import NatsServer
from tests.support.signed_in import JOB, sign_in

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
            "append.aura.system.key.abcdefghijklmn23.issued",
            "append.aura.system.access_denied",
            "$KV.AURA_TICKETS.0f",
            "$JS.API.STREAM.MSG.GET.KV_AURA_TICKETS",
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
            "append.aura.system.alert_raised",
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
            "append.aura.system.key.abcdefghijklmn23.issued",
            "append.aura.system.access_denied",
            "$KV.AURA_TICKETS.0f",
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
        ["$JS.API.STREAM.INFO.AURA_LOG", "$JS.API.DIRECT.GET.AURA_LOG", "$SRV.PING"],
        [
            f"append.aura.job.1.{JOB}.created",
            f"append.output.1.{JOB}.1.log",
            "health.aura.m.w1",
            "cmd.aura.admin.purge",
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
    "observer": (
        ["aura.job.>", "aura.>", "_INBOX_observer.x", "_INBOX.x"],
        ["cmd.aura.>", "content.aura.>", "_INBOX_worker.w1.x"],
    ),
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


@pytest.mark.parametrize("name", ["*", ">", "a.b", "", "a b", "a\r\nPUB x 1", "\0", "x" * 65, "$SYS", "ü"])
def test_names_that_are_more_than_a_token_get_no_credential(name: str) -> None:
    with pytest.raises(InvalidRequest):
        permissions.worker(name, ["m"])
    with pytest.raises(InvalidRequest):
        permissions.worker("w", [name])
