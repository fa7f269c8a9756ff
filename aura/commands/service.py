"""The command service: one table of operations, reached over HTTP (``gateway``) and over NATS (``endpoints.py``).

``call(operation, params, caller)`` validates, decides, appends, and answers a JSON object that always carries the committed
``seq``. Errors are those of ``aura.errors``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aura.clock import rfc3339
from aura.commands import requests as r
from aura.commands.access_keys import AccessKeys
from aura.commands.attempts import AttemptOperations
from aura.commands.handler import Caller, JobHandler
from aura.commands.models import ModelHandler, joined
from aura.commands.operation import Operation, Operations, Policy, Ports
from aura.commands.prd import PrdIntake
from aura.commands.purge import Purger
from aura.commands.sessions import SessionOperations
from aura.domain import job_commands as c
from aura.domain import model as m
from aura.errors import InvalidRequest, NotFound, TooLarge
from aura.events import envelope, subjects
from aura.events.catalogue import AssignReason

MAX_HEARTBEAT = 16 * 1024

__all__ = ["CommandService", "Policy", "Ports"]


class CommandService(Operations):
    """All commands. Stateless but for a bounded cache of heads; run as many as you like."""

    def __init__(self, ports: Ports, policy: Policy, handler: JobHandler | None = None) -> None:
        super().__init__(ports, policy, handler or JobHandler(ports.store, ports.clock, ports.ids))
        self.models = ModelHandler(ports.store, ports.clock, ports.ids)
        self.purger = Purger(self.jobs, ports.content)
        self.attempts = AttemptOperations(ports, policy, self.jobs)
        self.access_keys = AccessKeys(ports.store, ports.content, ports.clock, ports.ids)
        self._intake = PrdIntake(self.jobs, ports.content)
        self.sessions = SessionOperations(ports, policy, self.jobs, self.attempts, self._intake)
        self.operations: dict[str, Operation] = {
            **self.attempts.table(),
            "run_workflow": self.sessions.run,
            "cancel_session": self.sessions.cancel,
            "submit": self._submit,
            "assign": self._assign,
            "cancel": self._cancel,
            "retry": self._retry,
            "accept": self._accept,
            "reject": self._reject,
            "reprioritize": self._reprioritize,
            "hold": self._hold,
            "release_hold": self._release_hold,
            "purge": self._purge,
            "model_heartbeat": self._model_heartbeat,
            "pause_model": self._pause_model,
            "resume_model": self._resume_model,
            "issue_key": self.access_keys.issue,
            "revoke_key": self.access_keys.revoke,
            "list_keys": self.access_keys.ls,
        }

    async def call(self, operation: str, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Run one operation. ``params`` are the body's fields plus ``job_id`` or ``model``.

        Raises ``NotFound`` for an unknown operation, else what the operation raises.
        """
        found = self.operations.get(operation)
        if found is None:
            raise NotFound("operation", operation)
        if caller.idempotency_key is not None and not 1 <= len(caller.idempotency_key) <= 255:
            raise InvalidRequest("Idempotency-Key must have 1 to 255 characters", field="Idempotency-Key")
        envelope.check_actor(caller.actor)
        return await found(params, caller)

    async def ensure_pool(self, model: str) -> None:
        """Make a model's pool exist. Raises ``InvalidRequest`` for a bad name or one model too many, ``Unavailable``."""
        await self.models.admit(model)
        await self._ports.ensure_pool(model)

    # ------------------------------------------------------------ operations: PRDs and assignment

    async def _submit(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        request = r.parse(r.Submit, params)
        return await self._intake.submit(request, caller, self._key("submit", "", request, caller))

    async def _assign(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        job_id, request = self._job(params, r.Assign)
        await self.jobs.head(job_id)  # an unknown job makes no pool
        await self.ensure_pool(request.assigned_model)
        reason = AssignReason(policy="manual")
        command = c.AssignJob(model=request.assigned_model, reason=reason, override=True)
        outcome = await self.jobs.execute(job_id, command, caller, self._key("assign", job_id, request, caller))
        return {"job_id": job_id, "assigned_model": request.assigned_model, "seq": outcome.seq}

    # ------------------------------------------------------------ operations: people

    async def _because(
        self, operation: str, params: dict[str, Any], caller: Caller, command: Callable[[str], c.JobCommand]
    ) -> dict[str, Any]:
        job_id, request = self._job(params, r.Because)
        key = self._key(operation, job_id, request, caller)
        return await self._status_answer(job_id, command(request.reason), key, caller)

    async def _cancel(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        retention = self._policy.retention_s
        return await self._because("cancel", params, caller, lambda why: c.CancelJob(caller.actor, retention, why))

    async def _retry(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        return await self._because("retry", params, caller, lambda why: c.RetryJob(caller.actor, why))

    async def _accept(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        return await self._because("accept", params, caller, lambda why: c.AcceptJob(caller.actor, why))

    async def _reject(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        retention = self._policy.retention_s
        return await self._because("reject", params, caller, lambda why: c.RejectJob(caller.actor, retention, why))

    async def _hold(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        return await self._because("hold", params, caller, lambda why: c.HoldArchive(caller.actor, why))

    async def _release_hold(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        return await self._because("release_hold", params, caller, lambda _: c.ReleaseHold(caller.actor))

    async def _reprioritize(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        job_id, request = self._job(params, r.Reprioritize)
        command = c.ReprioritizeJob(caller.actor, request.priority)
        return await self._status_answer(job_id, command, self._key("reprioritize", job_id, request, caller), caller)

    async def _purge(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        job_id, request = self._job(params, r.Because)
        head = await self.jobs.head(job_id, consistent=True)
        if not head.state.status.closed:
            raise NotFound("archive", job_id)
        outcome = await self.purger.purge(job_id, caller.actor, request.reason, caller)
        return {"ok": True, "seq": outcome.seq}

    # ------------------------------------------------------------ operations: models

    async def _model_heartbeat(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        model, rest = self._split(params, "model")
        subjects.check_name(model, "model")
        report = r.parse(r.ModelHeartbeat, rest)
        extra = report.model_extra or {}
        payload = {"status": report.status, **extra}
        if len(payload) > 64 or len(r.stored_json(payload, "payload")) > MAX_HEARTBEAT:
            raise TooLarge(
                f"a heartbeat's payload has at most 64 fields and {MAX_HEARTBEAT} bytes", limit=MAX_HEARTBEAT
            )
        seq, state = await self.models.load(model)
        if state is None or state.roles != joined(state, report.roles):
            await self.ensure_pool(model)
            register = m.RegisterModel(slots=report.slots, roles=tuple(report.roles))
            seq = await self.models.execute(model, register, caller)
        sent = {
            "type": "model.heartbeat",
            "model": model,
            "worker_id": report.worker_id,
            "payload": payload,
            "slots": report.slots,
            "interval_s": report.interval_s,
            "in_flight": [],
            "ts": rfc3339(self._ports.clock.now()),
        }
        await self._ports.health.report(model, report.worker_id, sent)
        return {"ok": True, "seq": seq}

    async def _pause_model(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        return await self._model_command(params, m.PauseModel(caller.actor), caller)

    async def _resume_model(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        return await self._model_command(params, m.ResumeModel(caller.actor), caller)

    async def _model_command(self, params: dict[str, Any], command: m.ModelCommand, caller: Caller) -> dict[str, Any]:
        model, rest = self._split(params, "model")
        r.parse(r.Because, rest)
        _, state = await self.models.load(subjects.check_name(model, "model"))
        if state is None:
            raise NotFound("model", model)
        return {"ok": True, "model": model, "seq": await self.models.execute(model, command, caller)}
