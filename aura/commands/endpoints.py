"""The command service over NATS request/reply: ``cmd.aura.worker.<worker_id>.<name>`` and ``cmd.aura.admin.<operation>``.

A worker's identity is the subject it may publish on (its credential pins it): ``worker_id`` is taken from there and never from the
body. Registered as a NATS micro service by the composition root (``log/rpc.py``), so that ``nats micro ls`` shows it.

``cmd.aura.worker.<worker_id>.batch`` carries up to :data:`MAX_CALLS` independent commands of one worker, ``[{name, key, body}]``, and is
answered with as many ``{status, body}`` in the same order. They run at the same time, as they would as requests of their own; a worker
with many jobs in flight saves four messages a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from aura.commands import requests as r
from aura.commands import wire
from aura.commands.handler import Caller
from aura.commands.operation import Operation
from aura.commands.service import CommandService
from aura.commands.wire import MAX_CALLS
from aura.domain import model as m
from aura.errors import AuraError, Forbidden, InvalidRequest, NotFound, Unavailable
from aura.events import subjects
from aura.ids import IdSource
from aura.log.ports import EnsurePool

log = structlog.get_logger("aura.commands")

KEY_HEADER = "Aura-Idempotency-Key"
CORRELATION_HEADER = "Aura-Correlation-Id"
WORKER_SUBJECT = "cmd.aura.worker.*.*"
ADMIN_SUBJECT = "cmd.aura.admin.*"
MAX_BODY = 4 * 1024 * 1024
#: Most bytes of a batch's answer, the first command's apart; the rest is told to ask again (its key gives the same answer).
MAX_ANSWER = 2 * 1024 * 1024
_ASK_AGAIN = wire.problem(Unavailable("the answer did not fit into the batch; ask again"))


class CommandEndpoints:
    """Answers requests: ``(subject, headers, body)`` → ``(status, JSON)``. Never raises."""

    def __init__(self, service: CommandService, ensure_pool: EnsurePool, ids: IdSource) -> None:
        self._service = service
        self._ensure_pool = ensure_pool
        self._ids = ids
        attempts = service.attempts
        self._worker: dict[str, Operation] = {
            "claim": attempts.claim_for_worker,
            "heartbeat": attempts.heartbeats,
            "complete": attempts.complete,
            "fail": attempts.fail,
            "release": attempts.release,
            "stage": attempts.stage,
            "session": service.sessions.report,
            "hello": self._hello,
        }

    async def handle(self, subject: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Answer one request."""
        try:
            if subject.endswith(".batch") and subject.startswith("cmd.aura.worker."):
                return 200, await self._batch(subject.removesuffix("batch"), headers, body)
            answer = await self._dispatch(subject, headers, _object(body))
        except AuraError as error:
            return wire.problem(error)
        except Exception as error:
            log.error("command.failed", subject=subject, exc_info=error)
            return 500, orjson.dumps({"type": "urn:aura:problem:internal", "status": 500, "code": "internal"})
        return 200, orjson.dumps(answer)

    async def _batch(self, prefix: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """Every command by itself, answered together. Raises ``InvalidRequest`` for a batch that is not one."""
        calls = _object(body).get("calls")
        if not isinstance(calls, list) or not 1 <= len(calls) <= MAX_CALLS:
            raise InvalidRequest(f"a batch has 1 to {MAX_CALLS} calls", field="calls")
        correlation = headers.get(CORRELATION_HEADER)
        answers = await asyncio.gather(*(self._one(prefix, call, correlation) for call in calls))
        fitting: list[dict[str, Any]] = []
        size = 0
        for status, answer in answers:
            size += len(answer)
            if fitting and size > MAX_ANSWER:
                status, answer = _ASK_AGAIN
            fitting.append({"status": status, "body": orjson.Fragment(answer)})
        return orjson.dumps(fitting)

    async def _one(self, prefix: str, call: object, correlation: str | None) -> tuple[int, bytes]:
        """One command of a batch: status and JSON. Never raises."""
        try:
            if not isinstance(call, dict) or not isinstance(params := call.get("body"), dict):
                raise InvalidRequest("a call is {name, key, body}", field="calls")
            headers = {} if correlation is None else {CORRELATION_HEADER: correlation}
            if (key := call.get("key")) is not None:
                headers[KEY_HEADER] = str(key)
            return 200, orjson.dumps(await self._dispatch(f"{prefix}{call.get('name')}", headers, params))
        except AuraError as error:
            return wire.problem(error)
        except Exception as error:
            log.error("command.failed", subject=prefix, exc_info=error)
            return 500, b'{"code":"internal"}'

    async def _dispatch(self, subject: str, headers: Mapping[str, str], params: dict[str, Any]) -> dict[str, Any]:
        match subject.split("."):
            case ["cmd", "aura", "worker", worker_id, name]:
                subjects.check_name(worker_id, "worker_id")
                caller = self._caller(f"worker:{worker_id}", headers)
                operation = self._worker.get(name)
                if operation is None:
                    raise NotFound("operation", name)
                if params.get("worker_id", worker_id) != worker_id:
                    raise Forbidden("a worker speaks only for itself")
                if name == "claim":
                    params["worker_id"] = worker_id
                else:
                    params.pop("worker_id", None)
                return await operation(params, caller)
            case ["cmd", "aura", "admin", name]:
                return await self._service.call(name, params, self._caller("user:nats", headers))
            case _:
                raise NotFound("operation", subject)

    def _caller(self, actor: str, headers: Mapping[str, str]) -> Caller:
        key = headers.get(KEY_HEADER)
        if key is not None and not 1 <= len(key) <= 255:
            raise InvalidRequest(f"{KEY_HEADER} must have 1 to 255 characters")
        request_id = self._ids.uuid7()
        given = headers.get(CORRELATION_HEADER, "")
        return Caller(actor, given if subjects.NAME.match(given) else request_id, request_id, key)

    async def _hello(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """A worker introduces its pool: the pool's consumer exists before the model's ``registered`` event."""
        hello = r.parse(r.Hello, params)
        await self._ensure_pool(hello.model)
        register = m.RegisterModel(slots=hello.slots, roles=tuple(hello.roles))
        seq = await self._service.models.execute(hello.model, register, caller)
        return {"ok": True, "model": hello.model, "seq": seq}


def _object(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY:
        raise InvalidRequest(f"a request has at most {MAX_BODY} bytes")
    try:
        params = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise InvalidRequest("the request is not JSON") from error
    if not isinstance(params, dict):
        raise InvalidRequest("the request is not a JSON object")
    return params
