"""Output in memory, for simulations and tests; see ``output.py``."""

from __future__ import annotations

from aura.clock import Clock
from aura.errors import TooLarge, WrongExpectedSequence
from aura.ids import IdSource
from aura.log.content import SealedContent
from aura.log.content_memory import MemoryContentBackend
from aura.log.memory import matches
from aura.log.output import MAX_MESSAGE_BYTES, OutputMessage, OutputPage, SealedOutput


class MemoryOutputBackend:
    """See :class:`~aura.log.output.OutputBackend`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._messages: list[OutputMessage] = []
        self._last_seq = 0

    async def append(
        self,
        subject: str,
        guard: str,
        expected_seq: int,
        first: int,
        count: int,
        sealed: bytes,
        keys: tuple[str, ...] = (),
    ) -> int:
        if len(sealed) > MAX_MESSAGE_BYTES:
            raise TooLarge("the message is larger than the stream allows", limit=MAX_MESSAGE_BYTES)
        last = await self.last(guard)
        actual = last.seq if last is not None else 0
        if actual != expected_seq:
            raise WrongExpectedSequence(guard, expected_seq, actual)
        self._last_seq += 1
        stored_at_ns = int(self._clock.now().timestamp() * 1e9)
        self._messages.append(OutputMessage(self._last_seq, subject, stored_at_ns, first, count, sealed, keys))
        return self._last_seq

    async def last(self, guard: str) -> OutputMessage | None:
        wanted = guard.split(".")
        return next((message for message in reversed(self._messages) if matches(wanted, message.subject)), None)

    async def last_seq(self) -> int:
        return self._last_seq

    async def read(self, subject: str, after_seq: int, limit: int) -> OutputPage:
        found = [message for message in self._messages if message.subject == subject and message.seq > after_seq]
        return OutputPage(found[:limit], len(found) > limit)

    def erase(self, prefix: str) -> int:
        """Remove what lies under ``prefix``; the bytes removed."""
        gone = [message for message in self._messages if message.subject.startswith(prefix)]
        self._messages = [message for message in self._messages if not message.subject.startswith(prefix)]
        return sum(len(message.sealed) for message in gone)


def memory_content_and_output(clock: Clock, ids: IdSource, kek: bytes) -> tuple[SealedContent, SealedOutput]:
    """Both stores of one in-memory system; erasing a job covers both, as on the server."""
    output, backend = MemoryOutputBackend(clock), MemoryContentBackend()
    backend.also_erase.append(output)
    content = SealedContent(backend, kek, ids)
    return content, SealedOutput(output, content, ids)
