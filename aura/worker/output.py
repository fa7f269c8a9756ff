"""An attempt's output on its way: one write at a time, and what comes meanwhile is the next one.

::

    write → pending ──nothing in flight, and ``PACE_S`` since the last one left──▶ one message per run of the same kind ──stored──▶ …
              └ more than MAX_PENDING bytes: write waits (back-pressure)          flush: at once

So a lone chunk leaves at once, a stream is two hundred messages a second at most and not as many as it has tokens, and the slower the log
is the more of them travel together.

Invariants: records keep the order of the calls and are stored once. When an acknowledgement is lost, the log is asked how many
records it has, and exactly the rest is written again. Text that is pending together becomes one record. Another writer under
our attempt means that we are fenced: nothing is written any more, and ``write`` and ``flush`` say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from aura.clock import Clock, rfc3339
from aura.errors import AuraError, Fenced, Refused, WrongExpectedSequence
from aura.events.subjects import OutputKind
from aura.log.output import OutputWriter
from aura.worker.backoff import Backoff
from aura.worker.context import MAX_CHUNK

log = structlog.get_logger("aura.worker")

#: Between two messages of one attempt: what a message costs the log, the gateway and every watcher is worth so much waiting. Less than a
#: shared flush takes, so that attempts which shared one are ready for the next together, instead of one pace after it.
PACE_S = 0.005
#: Characters that may wait to be stored.
MAX_PENDING = 1024 * 1024
#: What a record or a piece of text takes besides its characters, about.
_EACH = 64
#: Most records in one write; the writer splits further by bytes.
MAX_RECORDS = 1_000

Record = dict[str, Any]


class _Text:
    """The record of text that waits last, to which more may be added. What was added becomes one string when nothing more can be."""

    __slots__ = ("_parts", "_record", "_room")

    def __init__(self, record: Record) -> None:
        self._record = record
        self._parts: list[str] = [record["chunk"]]
        self._room = MAX_CHUNK - len(record["chunk"])

    def add(self, text: str, final: bool) -> bool:
        """Whether there was room for it."""
        if self._record["final"] or len(text) > self._room:
            return False
        self._parts.append(text)
        self._room -= len(text)
        self._record["final"] = final
        return True

    def close(self) -> None:
        self._record["chunk"] = "".join(self._parts)


class CollectedOutput:
    """See the module docstring; implements :class:`aura.worker.link.Output`."""

    def __init__(
        self, writer: OutputWriter, clock: Clock, backoff: Callable[[], Backoff], *, pace_s: float = PACE_S
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._backoff = backoff
        self._pace_s = pace_s
        self._left_s = -pace_s
        self._hurry = asyncio.Event()
        self._pending: list[tuple[OutputKind, Record]] = []
        self._text: _Text | None = None
        """The last one pending, while text may be added to it. Somebody is about to store it."""
        self._size = 0
        self._accepted = 0
        self._pump: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._over: Exception | None = None
        self._discarded = False

    @property
    def count(self) -> int:
        """How many records were accepted."""
        return self._accepted

    async def write(self, kind: OutputKind, record: Record) -> None:
        """Accept one record. Raises ``Fenced``, or what made the output impossible."""
        if self._over is not None:
            raise self._over
        if self._discarded:
            return
        text = record.get("chunk") or record.get("line") or ""
        if not (kind == "stream" and self._text is not None and self._text.add(text, record["final"])):
            self._append(kind, {"ts": rfc3339(self._clock.now()), **record})
        self._size += len(text) + _EACH
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        if self._size > MAX_PENDING:
            self._room.clear()
            await self._room.wait()

    def _append(self, kind: OutputKind, record: Record) -> None:
        self._close_text()
        self._pending.append((kind, record))
        self._accepted += 1
        if kind == "stream":
            self._text = _Text(record)

    def join(self, text: str, final: bool) -> bool:
        """Add ``text`` to the record that waits. ``False``: none does, or there is no room, so :meth:`write` it."""
        if self._text is None or self._size > MAX_PENDING or not self._text.add(text, final):
            return False
        self._size += len(text) + _EACH
        return True

    def _close_text(self) -> None:
        text, self._text = self._text, None
        if text is not None:
            text.close()

    async def flush(self) -> None:
        """Return when everything accepted is stored. Raises ``Fenced``, or what made the output impossible."""
        self._hurry.set()
        try:
            while self._pump is not None and not self._pump.done():
                await asyncio.wait({self._pump})
        finally:
            self._hurry.clear()
        if self._over is not None:
            raise self._over

    def discard(self) -> None:
        """Write nothing more."""
        self._discarded = True
        self._text = None
        self._pending.clear()
        self._room.set()
        if self._pump is not None:
            self._pump.cancel()

    async def _run(self) -> None:
        try:
            while self._pending:
                await self._paced()
                self._close_text()
                taken, self._pending, self._size = self._pending, [], 0
                self._room.set()
                await self._store(taken)
        except WrongExpectedSequence:
            self._over = Fenced("another attempt writes this job's output")
        except AuraError as error:
            self._over = error
        finally:
            self._text = None
            self._room.set()

    async def _paced(self) -> None:
        """Wait until the next message may leave: not when somebody waits for it or too much is pending."""
        wait_s = self._left_s + self._pace_s - self._clock.monotonic_s()
        if wait_s > 0 and self._size <= MAX_PENDING and not self._hurry.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurry.wait()
        self._left_s = self._clock.monotonic_s()

    async def _store(self, taken: list[tuple[OutputKind, Record]]) -> None:
        """Store these records, however often the log goes away meanwhile. Raises ``WrongExpectedSequence``, ``TooLarge``."""
        base = self._writer.count
        pause: Backoff | None = None
        resume = False
        while (stored := self._writer.count - base) < len(taken):
            try:
                if resume:
                    await self._writer.resume()
                    resume = False
                    continue
                kind, run = _run_of_one_kind(taken, stored)
                await self._writer.write(kind, run)
            except (WrongExpectedSequence, Refused):
                raise
            except AuraError as error:
                pause = pause or self._backoff()
                resume = True
                log.warning("worker.output_waits", code=error.code, detail=error.detail)
                await pause.wait()


def _run_of_one_kind(records: list[tuple[OutputKind, Record]], start: int) -> tuple[OutputKind, list[Record]]:
    kind = records[start][0]
    run: list[Record] = []
    for next_kind, record in records[start : start + MAX_RECORDS]:
        if next_kind != kind:
            break
        run.append(record)
    return kind, run
