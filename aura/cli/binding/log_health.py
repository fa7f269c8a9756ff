"""Whether the log is still ours: one switch that every command passes, over HTTP and over NATS (G5).

::

    start: log fits every projection's checkpoint? ──no──┐
    the tail meets another log ──────────────────────────┴─▶ lost ─▶ commands: 503 log_regression, heads forgotten, /ready says so

There is no way back in this process: whoever mended the log (``aura log accept``) starts it again. Without the switch a gateway would
go on appending to a log that readers have left, guarded by sequences that mean other events there.

It also remembers whether the newest command could be stored (G1): a disk that is full shows in ``/ready`` for :data:`UNSTORED_S` after
the last command that failed, or until one succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from aura.clock import Clock
from aura.commands import wire
from aura.commands.handler import Caller, JobHandler
from aura.commands.service import CommandService
from aura.errors import AuraError, Forbidden, LogRegression, Overloaded, Unavailable
from aura.log import identity
from aura.log.identity import Checkpoint
from aura.log.rpc import Handler
from aura.log.store import EventStore
from aura.projections.queries import Queries

log = structlog.get_logger("aura.cli")

UNSTORED_S = 30.0

#: What only the director may do, and the director speaks HTTP.
DIRECTORS_ONLY = ("cmd.aura.admin.purge", "cmd.aura.admin.release_hold")


class LogHealth:
    """See the module docstring."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.failure: str | None = None
        """What is wrong with the log; ``None`` when nothing is known to be."""
        self._unstored: tuple[float, str] | None = None
        self._on_lost: list[Callable[[str], None]] = []

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` with the reason, once, when the log is lost (at once when it is already)."""
        self._on_lost.append(callback)
        if self.failure is not None:
            callback(self.failure)

    def ended(self, error: AuraError) -> None:
        """The tail ended. Only a regression says something about the log."""
        if isinstance(error, LogRegression) and self.failure is None:
            self.failure = error.detail or error.code
            log.error("log.lost", reason=self.failure)
            for callback in self._on_lost:
                callback(self.failure)

    def check(self) -> None:
        """Raises ``LogRegression``."""
        if self.failure is not None:
            raise LogRegression(self.failure)

    async def ready(self) -> str | None:
        """A readiness check of the gateway: the log is ours."""
        return self.failure

    def stored(self) -> None:
        """A command was answered."""
        self._unstored = None

    def unstored(self, detail: str) -> None:
        """A command could not be stored."""
        self._unstored = self._clock.monotonic_s(), detail or "a command could not be stored"

    async def storing(self) -> str | None:
        """A readiness check of the gateway: what is accepted gets stored."""
        if self._unstored is None or self._clock.monotonic_s() - self._unstored[0] > UNSTORED_S:
            return None
        return self._unstored[1]


class GuardedCommands:
    """The command service behind the switch; implements :class:`aura.gateway.ports.Commands`."""

    def __init__(self, service: CommandService, health: LogHealth) -> None:
        self._service = service
        self.health = health

    @property
    def jobs(self) -> JobHandler:
        """Heads of jobs."""
        return self._service.jobs

    async def call(self, operation: str, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Run one operation. Raises ``LogRegression``, and what the operation raises."""
        self.health.check()
        try:
            answer = await self._service.call(operation, params, caller)
        except Overloaded:
            raise
        except Unavailable as error:
            self.health.unstored(error.detail)
            raise
        self.health.stored()
        return answer


def guarded(handle: Handler, health: LogHealth) -> Handler:
    """Command endpoints over NATS behind the switch, and without what is the director's."""

    async def answer(subject: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        try:
            health.check()
            if subject in DIRECTORS_ONLY:
                raise Forbidden("this is the director's to do, over HTTP with the director's key")
        except AuraError as error:
            return wire.problem(error)
        status, reply = await handle(subject, headers, body)
        if status == Unavailable.http_status:
            health.unstored("a command could not be stored")
        elif status < 400 and not subject.endswith(".batch"):  # a batch is answered whatever became of its parts
            health.stored()
        return status, reply

    return answer


async def compare(store: EventStore, queries: Queries, health: LogHealth) -> None:
    """Compare the log with what the read models were built from. Raises ``Unavailable`` when one of both does not answer."""
    rows = await queries.checkpoints()
    try:
        for epoch, seq, sha256 in {(row["epoch"], row["seq"], row["sha256"]) for row in rows}:
            if (await store.identity()).supersedes(epoch):
                continue  # a person accepted this log in place of that one: the projector starts over
            await identity.verify(store, Checkpoint(epoch, seq, bytes.fromhex(sha256)))
    except LogRegression as error:
        health.ended(error)
