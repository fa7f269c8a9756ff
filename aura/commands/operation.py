"""What every operation of the command service stands on: ports, policy, and the steps they share.

An operation takes the request's fields and the caller, and answers a JSON object with the committed ``seq``. An answer is a function
of the committed event (and of content), so a repeat with the same ``Idempotency-Key`` gets the same answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aura.clock import Clock
from aura.commands import requests as r
from aura.commands.handler import Caller, Intent, JobHandler, KeyUse, Outcome
from aura.domain.roles import RoleModels
from aura.errors import InvalidRequest, PoisonEvent
from aura.events import envelope, subjects
from aura.events.catalogue import Event
from aura.ids import IdSource
from aura.log.ports import ContentStore, EnsurePool, LeaseRenewals, OutputLog
from aura.log.store import EventStore


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator configures. Seconds."""

    roles: RoleModels
    lease_ttl_s: float = 300.0
    retention_s: float = 30 * 86_400.0


class HeartbeatSink(Protocol):
    """Where health reports go (``AURA_HEALTH``); implemented in ``log/health.py``."""

    async def report(self, model: str, worker_id: str, report: dict[str, Any]) -> None:
        """Publish one heartbeat. Raises ``Unavailable``."""


Operation = Callable[[dict[str, Any], Caller], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Ports:
    """What the service stands on. ``ensure_pool`` makes a model's durable exist before anything is assigned to it."""

    store: EventStore
    content: ContentStore
    output: OutputLog
    renewals: LeaseRenewals
    health: HeartbeatSink
    ensure_pool: EnsurePool
    clock: Clock
    ids: IdSource


class Operations:
    """Base of the groups of operations (``attempts.py``, ``service.py``)."""

    def __init__(self, ports: Ports, policy: Policy, jobs: JobHandler) -> None:
        self._ports = ports
        self._policy = policy
        self.jobs = jobs

    def _key(self, operation: str, target: str, body: r.Request, caller: Caller) -> KeyUse | None:
        """Hashes of the caller's idempotency key and of this request, if it came with one."""
        if caller.idempotency_key is None:
            return None
        fingerprint = self._ports.content.fingerprint
        try:
            asked = body.model_dump_json()
        except ValueError as error:
            raise InvalidRequest("the request is not JSON that can be stored") from error
        return KeyUse(
            key=fingerprint(f"key\0{caller.actor}\0{caller.idempotency_key}".encode()),
            body=fingerprint(f"body\0{operation}\0{target}\0{asked}".encode()),
        )

    @staticmethod
    def _split(params: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
        rest = dict(params)
        return str(rest.pop(name, "")), rest

    def _job(self, params: Mapping[str, Any], model: type[r.T]) -> tuple[str, r.T]:
        """The job id and the validated rest of a request on a job."""
        job_id, rest = self._split(params, "job_id")
        return subjects.check_job_id(job_id), r.parse(model, rest)

    async def _event_at(self, outcome: Outcome) -> Event:
        """The event an outcome speaks of: the one just written, or the one a repeated key met."""
        if outcome.event is not None:
            return outcome.event
        recorded = await self._ports.store.get(outcome.seq)
        if recorded is None:
            raise PoisonEvent("an event that was read before is gone", seq=outcome.seq)
        return envelope.unseal(recorded.body, seq=recorded.seq, subject=recorded.subject)[0]

    async def _status_answer(self, job_id: str, intent: Intent, key: KeyUse | None, caller: Caller) -> dict[str, Any]:
        """Execute, and answer ``{job_id, status, seq}``."""
        outcome = await self.jobs.execute(job_id, intent, caller, key)
        return {"job_id": job_id, "status": await self._status_at(outcome), "seq": outcome.seq}

    async def _status_at(self, outcome: Outcome) -> str:
        """The job's status right after the event the outcome speaks of."""
        status = outcome.head.state.status.value
        if not outcome.repeated or outcome.seq == outcome.head.seq:
            return status
        recorded = await self._ports.store.get(outcome.seq)
        state = recorded.decode().get("state", {}) if recorded is not None else {}
        return str(state.get("status", status))
