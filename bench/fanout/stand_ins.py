"""What a gateway needs besides its hub when only the hub is measured: a log that is a list, and ports that have nothing to say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

from aura.gateway.ports import Stop
from aura.log.memory import matches
from aura.log.store import Append, LogIdentity, Recorded


class ListLog:
    """An :class:`~aura.log.store.EventStore` over a list whose sequences begin with 1; counts how often it is read."""

    def __init__(self, events: list[Recorded]) -> None:
        self.events = events
        self.reads = 0

    async def append(self, append: Append) -> int:
        raise NotImplementedError(append)

    async def append_batch(self, appends: Sequence[Append]) -> list[int]:
        raise NotImplementedError(appends)

    async def last(self, guard: str, *, consistent: bool = False) -> Recorded | None:
        raise NotImplementedError(guard)

    async def get(self, seq: int) -> Recorded | None:
        self.reads += 1
        return self.events[seq - 1] if 0 < seq <= len(self.events) else None

    async def read(
        self, from_seq: int = 1, *, to_seq: int | None = None, subject: str | None = None, batch: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        self.reads += 1
        chosen = self.events[max(from_seq, 1) - 1 : len(self.events) if to_seq is None else to_seq]
        if subject is not None:
            wanted = subject.split(".")
            chosen = [one for one in chosen if matches(wanted, one.subject)]
        for start in range(0, len(chosen), batch):
            yield chosen[start : start + batch]

    async def follow(self, from_seq: int) -> AsyncIterator[list[Recorded]]:
        if from_seq:
            raise NotImplementedError(from_seq)
        yield []

    async def identity(self) -> LogIdentity:
        return LogIdentity("bench", 1, len(self.events))

    async def close(self) -> None:
        """Nothing."""


class NoOutput:
    """An ``OutputReader`` of jobs that say nothing."""

    async def read(self, *_args: Any, **_options: Any) -> AsyncIterator[Sequence[Any]]:
        for nothing in list[Sequence[Any]]():
            yield nothing

    async def watch(self, *_args: Any) -> Stop:
        return _stop

    async def watch_all(self, *_args: Any) -> Stop:
        return _stop

    async def last_seq(self) -> int:
        return 0

    async def newest(self, *_args: Any) -> int:
        return 0


async def _stop() -> None:
    """Nothing to stop."""


class NoCommands:
    """Every job is one of project 1."""

    def __init__(self) -> None:
        self.jobs = self

    async def head(self, job_id: str, **_options: Any) -> Any:
        return SimpleNamespace(job_id=job_id, project=1)
