"""Content in memory, for simulations and tests; see ``content.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol

from aura.log.content import SealedMessage
from aura.log.ports import Erased


class _Erasable(Protocol):
    def erase(self, prefix: str) -> int:
        """Remove what lies under ``prefix``; the bytes removed."""


class MemoryContentBackend:
    """A dictionary. ``also_erase`` is the memory output log, which the same erasure covers."""

    def __init__(self) -> None:
        self._messages: dict[str, list[SealedMessage]] = {}
        self._last_seq = 0
        self._unseen: dict[int, str] = {}
        self.also_erase: list[_Erasable] = []

    async def create(self, messages: Sequence[SealedMessage]) -> list[bool]:
        return [await self.replace(message, 0) for message in messages]

    async def replace(self, message: SealedMessage, expected_seq: int) -> bool:
        last = await self.last(message.subject)
        if (last.seq if last is not None else 0) != expected_seq:
            return False
        await self.put(message)
        if message.wrapped_key is not None:
            self._unseen[self._last_seq] = message.subject
        return True

    async def put(self, message: SealedMessage) -> None:
        self._last_seq += 1
        self._messages.setdefault(message.subject, []).append(replace(message, seq=self._last_seq))

    async def last(self, subject: str, *, consistent: bool = False) -> SealedMessage | None:
        del consistent  # there is only one copy
        found = self._messages.get(subject)
        return found[-1] if found else None

    async def erase(self, key_subject: str, prefixes: Sequence[str]) -> Erased:
        size = sum(len(message.body) for message in self._messages.pop(key_subject, []))
        for prefix in prefixes:
            start = prefix.removesuffix(">")
            for subject in self.subjects(start):
                size += sum(len(message.body) for message in self._messages.pop(subject))
            size += sum(other.erase(start) for other in self.also_erase)
        return Erased(size, ("AURA_CONTENT", "AURA_OUTPUT"))

    async def drop(self, subject: str, upto_seq: int) -> None:
        kept = [message for message in self._messages.pop(subject, []) if message.seq > upto_seq]
        if kept:
            self._messages[subject] = kept

    async def inputs(self) -> AsyncIterator[tuple[int, str, int]]:
        for seq, subject in list(self._unseen.items()):
            if subject in self._messages:
                _, _, project, job_id, _ = subject.split(".")
                yield int(project), job_id, seq
            self._unseen.pop(seq, None)

    def subjects(self, prefix: str) -> list[str]:
        """Where something is stored."""
        return [subject for subject in self._messages if subject.startswith(prefix)]
