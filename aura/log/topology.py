"""The streams, the lease bucket and the pools' consumers: what must exist, and whether it does.

:func:`ensure` creates what is missing and *reports* what differs; it never changes an existing stream, because every
difference (a limit, a missing guard flag, another subject) may cost data or safety and is a person's decision. Safe to run from
many processes at once.

The log's epoch is made when ``AURA_LOG`` is created and kept in its metadata. :func:`accept_new_epoch` is the one sanctioned
way to change it (``aura log accept --new-epoch``): after a restore from a backup, say, every consumer must start over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from aura.clock import Clock
from aura.errors import AuraError, Unavailable
from aura.events import subjects
from aura.ids import IdSource
from aura.log.connection import Connection
from aura.log.inbox import Inbox, inbox_of, request
from aura.log.jetstream import ACCEPTED_KEY, EPOCH_KEY

log = structlog.get_logger("aura.log")

LEASE_BUCKET = "AURA_LEASES"
TICKET_BUCKET = "AURA_TICKETS"
#: How long a ticket of a live connection is good for, in seconds.
TICKET_S = 30
_SECOND_NS = 1_000_000_000
_NOT_FOUND = 10059
_EXISTS_DIFFERENTLY = (10058, 10065)
_CONSUMER_EXISTS = 10148
#: Copies of each stream on a cluster, unless ``AURA_REPLICAS`` says otherwise: one server may fail.
CLUSTER_REPLICAS = 3


def replicas(connection: Connection, wanted: int | None) -> int:
    """How many copies each stream has: ``wanted`` (``AURA_REPLICAS``), else what suits the server we are connected to."""
    if wanted is not None:
        return wanted
    return CLUSTER_REPLICAS if connection.clustered else 1


def desired_streams(replicas: int = 1) -> list[dict[str, Any]]:
    """The stream configurations of ARCHITECTURE §1, the epoch excepted."""
    common: dict[str, Any] = {
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": replicas,
        "allow_direct": True,
        "max_consumers": 100_000,
        "duplicate_window": 120 * _SECOND_NS,
    }
    kinds = ("job", "model", "session", "system")
    log_stream = common | {
        "name": "AURA_LOG",
        "description": "Every lifecycle event. Append-only, for ever.",
        "subjects": [f"append.aura.{kind}.>" for kind in kinds],
        "subject_transform": {"src": "append.aura.>", "dest": "aura.>"},
        "republish": {"src": "aura.>", "dest": "aura.>"},
        "deny_delete": True,
        "deny_purge": True,
        "allow_atomic": True,
        "max_msg_size": 64 * 1024,
    }
    output = common | {
        "name": "AURA_OUTPUT",
        "description": "Encrypted output of attempts. Erasable.",
        "subjects": ["append.output.>"],
        "subject_transform": {"src": "append.output.>", "dest": "aura.output.>"},
        "republish": {"src": "aura.output.>", "dest": "aura.output.>"},
        "allow_atomic": True,
    }
    content = common | {
        "name": "AURA_CONTENT",
        "description": "Encrypted inputs, results and error texts. Erasable.",
        "subjects": ["content.aura.>"],
        "allow_atomic": True,
    }
    health = common | {
        "name": "AURA_HEALTH",
        "description": "Heartbeats of workers, 24 hours.",
        "subjects": ["health.aura.>"],
        "discard": "old",
        "max_age": 24 * 3600 * _SECOND_NS,
        "max_msg_size": 64 * 1024,
    }
    if replicas == 1:
        health["persist_mode"] = "async"  # a heartbeat is not worth a flush
    leases = common | {
        "name": f"KV_{LEASE_BUCKET}",
        "description": "Leaders' leases.",
        "subjects": [f"$KV.{LEASE_BUCKET}.>"],
        "max_msgs_per_subject": 1,
        "deny_delete": True,
        "allow_rollup_hdrs": True,
        "max_msg_size": 4 * 1024,
    }
    tickets = common | {
        "name": f"KV_{TICKET_BUCKET}",
        "description": "Tickets of live connections, by their SHA-256: single use, seconds.",
        "subjects": [f"$KV.{TICKET_BUCKET}.*"],
        "discard": "old",
        "max_msgs_per_subject": 1,
        "max_msgs": 100_000,
        "max_age": 2 * TICKET_S * _SECOND_NS,
        "duplicate_window": 2 * TICKET_S * _SECOND_NS,
        "max_msg_size": 16 * 1024,
    }
    return [log_stream, output, content, health, leases, tickets]


@dataclass(frozen=True, slots=True)
class Drift:
    """One setting of an existing stream that is not what this version wants."""

    stream: str
    setting: str
    wanted: Any
    found: Any


@dataclass(slots=True)
class TopologyReport:
    """What :func:`ensure` did. ``epoch`` is the log's identity."""

    epoch: str = ""
    created: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    drift: list[Drift] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


async def inspect(connection: Connection, clock: Clock, ids: IdSource, *, replicas: int = 1) -> TopologyReport:
    """Compare and change nothing (``aura doctor``). Raises ``Unavailable`` while JetStream does not answer."""
    inbox = inbox_of(connection, clock, ids)
    report = TopologyReport()
    for config in desired_streams(replicas):
        name = config["name"]
        found = await _stream_config(inbox, name)
        if found is None:
            report.missing.append(name)
            continue
        report.existing.append(name)
        if name == "AURA_LOG":
            report.epoch = (found.get("metadata") or {}).get(EPOCH_KEY, "")
        report.drift.extend(_differences(config, found))
    return report


async def ensure(connection: Connection, clock: Clock, ids: IdSource, *, replicas: int = 1) -> TopologyReport:
    """Create what is missing, compare the rest. Raises ``Unavailable`` while JetStream does not answer, ``AuraError`` for a
    configuration that the server refuses (an older server, say)."""
    inbox = inbox_of(connection, clock, ids)
    report = TopologyReport()
    for config in desired_streams(replicas):
        name = config["name"]
        found = await _stream_config(inbox, name)
        if found is None:
            wanted = config | ({"metadata": {EPOCH_KEY: ids.uuid7()}} if name == "AURA_LOG" else {})
            found = await _create(inbox, wanted, report)
        else:
            report.existing.append(name)
        if name == "AURA_LOG":
            report.epoch = (found.get("metadata") or {}).get(EPOCH_KEY, "")
        report.drift.extend(_differences(config, found))
    if not report.epoch:
        report.drift.append(Drift("AURA_LOG", f"metadata.{EPOCH_KEY}", "a UUID", None))
    for drift in report.drift:
        log.warning(
            "topology.drift", stream=drift.stream, setting=drift.setting, wanted=drift.wanted, found=drift.found
        )
    return report


async def accept_new_epoch(connection: Connection, clock: Clock, ids: IdSource) -> str:
    """Give the log as it is now a new identity and return it. Projections rebuild, clients are reset.

    Needs ``STREAM.INFO`` and ``STREAM.UPDATE`` of ``AURA_LOG``, which no component's user has. Raises ``AuraError``,
    ``Unavailable``.
    """
    inbox = inbox_of(connection, clock, ids)
    found = await _stream_config(inbox, "AURA_LOG")
    if found is None:
        raise AuraError("there is no log to accept")
    epoch = ids.uuid7()
    metadata = {k: v for k, v in (found.get("metadata") or {}).items() if not k.startswith("_nats.")}
    metadata |= {EPOCH_KEY: epoch, ACCEPTED_KEY: epoch}
    await _api(inbox, "STREAM.UPDATE.AURA_LOG", found | {"metadata": metadata})
    log.warning("topology.new_epoch", epoch=epoch)
    return epoch


class Pools:
    """Makes sure that a pool's durable consumer exists before anything is assigned to the pool.

    A durable made after an assignment never sees it. Known pools are remembered until the connection is lost (the server may
    be another one afterwards), so the check costs nothing on the hot path.
    """

    def __init__(self, connection: Connection, clock: Clock, ids: IdSource) -> None:
        self._inbox = inbox_of(connection, clock, ids)
        self._known: set[str] = set()
        connection.on_reconnect(self._known.clear)

    async def ensure(self, model: str) -> None:
        """Create the durable ``pool_<model>`` unless it exists. Raises ``InvalidRequest`` for a bad name, ``Unavailable``."""
        if model in self._known:
            return
        await ensure_pool(self._inbox, model)
        self._known.add(model)


async def ensure_pool(inbox: Inbox, model: str) -> None:
    """One durable pull consumer on the log per model, delivering assignments made from now on. Idempotent."""
    durable, pool_filter = subjects.pool_durable(model), subjects.pool_filter(model)
    config = {
        "durable_name": durable,
        "name": durable,
        "deliver_policy": "new",
        "ack_policy": "explicit",
        "ack_wait": 30 * _SECOND_NS,
        "max_deliver": -1,
        "max_ack_pending": 20_000,
        "max_waiting": 4_096,
        "filter_subject": pool_filter,
    }
    body = {"stream_name": "AURA_LOG", "config": config, "action": "create"}
    answer = await _ask(inbox, f"CONSUMER.CREATE.AURA_LOG.{durable}.{pool_filter}", body)
    error = answer.get("error")
    if error is None:
        return
    if error.get("err_code") == _CONSUMER_EXISTS:
        log.warning("topology.drift", consumer=durable, reason="exists with another configuration")
        return
    raise Unavailable(f"the pool's consumer cannot be made ({error.get('err_code')})")


# --- the JetStream API


async def _ask(inbox: Inbox, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    reply = await request(
        inbox, f"$JS.API.{call}", orjson.dumps(body) if body is not None else b"", timeout_s=10.0, resend_s=2.0
    )
    answer: dict[str, Any] = orjson.loads(reply.body)
    return answer


async def _api(inbox: Inbox, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await _ask(inbox, call, body)
    if (error := answer.get("error")) is not None:
        text = f"{call.rpartition('.')[0]}: {error.get('description')} ({error.get('err_code')})"
        raise Unavailable(text) if error.get("code", 0) >= 500 else AuraError(text)
    return answer


async def _stream_config(inbox: Inbox, name: str) -> dict[str, Any] | None:
    answer = await _ask(inbox, f"STREAM.INFO.{name}")
    error = answer.get("error")
    if error is None:
        config: dict[str, Any] = answer["config"]
        return config
    if error.get("err_code") == _NOT_FOUND:
        return None
    raise Unavailable(f"JetStream is not ready: {error.get('description')} ({error.get('err_code')})")


async def _create(inbox: Inbox, config: dict[str, Any], report: TopologyReport) -> dict[str, Any]:
    name = config["name"]
    answer = await _ask(inbox, f"STREAM.CREATE.{name}", config)
    error = answer.get("error")
    if error is None:
        report.created.append(name)
        created: dict[str, Any] = answer["config"]
        return created
    if error.get("err_code") in _EXISTS_DIFFERENTLY:  # another process was first
        found = await _stream_config(inbox, name)
        if found is not None:
            report.existing.append(name)
            return found
    text = f"stream {name}: {error.get('description')} ({error.get('err_code')})"
    raise Unavailable(text) if error.get("code", 0) >= 500 else AuraError(text)


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[Drift]:
    drift = []
    for setting, value in wanted.items():
        there = found.get(setting)
        if isinstance(value, list):
            same = sorted(value) == sorted(there or [])
        elif isinstance(value, dict):
            same = all((there or {}).get(key) == part for key, part in value.items())
        else:
            same = there == value or (not value and not there)
        if not same:
            drift.append(Drift(wanted["name"], setting, value, there))
    return drift
