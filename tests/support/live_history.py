"""The live history checker: what each client was told, compared with what is stored (G11).

Independent of the gateway: the log is read from JetStream, output is what its writer was acknowledged. A client's history is wrong
when anything it asked for is lost, doubled, out of order, not in the log, or another event under the same sequence.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from aura.log.memory import matches
from aura.log.store import EventStore


@dataclass
class Stored:
    """The log: epoch, and per sequence its subject and a fingerprint of the event's id."""

    epoch: str = ""
    seqs: list[int] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    ids: dict[int, int] = field(default_factory=dict)


async def read_log(store: EventStore) -> Stored:
    """Everything in the log."""
    stored = Stored((await store.identity()).epoch)
    async for batch in store.read():
        for recorded in batch:
            stored.seqs.append(recorded.seq)
            stored.subjects.append(recorded.subject)
            stored.ids[recorded.seq] = hash(orjson.loads(recorded.body)["id"])
    return stored


class Told:
    """What one client was told of the log. ``patterns``: what it asked for; ``since``: after which sequence, ``None`` = from some moment
    on, which its first event decides."""

    def __init__(self, name: str, patterns: Sequence[str], since: int | None = 0) -> None:
        self.name = name
        self.patterns = [pattern.split(".") for pattern in patterns]
        self.since = since
        self.seqs = array("q")
        self.ids = array("q")
        self.epochs: set[str] = set()
        self.resets = 0

    @property
    def last(self) -> int:
        """The newest sequence, or where it began."""
        return self.seqs[-1] if self.seqs else self.since or 0

    def take(self, seq: int, event_id: str) -> None:
        """One event."""
        self.seqs.append(seq)
        self.ids.append(hash(event_id))

    def wrongs(self, stored: Stored, until: int | None = None) -> list[str]:
        """Everything that must not be. ``until``: it must have been told at least this far."""
        found = []
        if self.epochs - {stored.epoch}:
            found.append(f"{self.name}: epochs {self.epochs}, the log's is {stored.epoch}")
        if self.resets:
            found.append(f"{self.name}: {self.resets} resets")
        if until is not None and self.last < until:
            found.append(f"{self.name}: was told up to {self.last} only, not {until}")
        if not self.seqs:
            return found
        first = self.seqs[0] if self.since is None else self.since + 1
        wanted = [
            seq
            for seq, subject in zip(stored.seqs, stored.subjects, strict=True)
            if first <= seq <= self.seqs[-1] and any(matches(pattern, subject) for pattern in self.patterns)
        ]
        found += differences(self.name, wanted, list(self.seqs))
        other = [seq for seq, id_ in zip(self.seqs, self.ids, strict=True) if stored.ids.get(seq, id_) != id_]
        if other:
            found.append(f"{self.name}: another event than the log's under {other[:5]}")
        return found


def differences(name: str, wanted: Sequence[Any], got: Sequence[Any]) -> list[str]:
    """Lost, doubled, reordered, unexpected; nothing when the two are equal."""
    if list(wanted) == list(got):
        return []
    counts, expected = Counter(got), Counter(wanted)
    lost = [one for one in expected if not counts[one]]
    doubled = [one for one, count in counts.items() if count > max(expected[one], 1)]
    unexpected = [one for one in counts if one not in expected]
    found = [
        f"{name}: {len(what)} {how}, e.g. {what[:5]}"
        for how, what in (("lost", lost), ("doubled", doubled), ("unexpected", unexpected))
        if what
    ]
    return found or [f"{name}: another order"]


class Heard:
    """What one client was told of attempts' output: per attempt ``(i, text)`` in the order of arrival."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: dict[tuple[str, int], list[tuple[int, int]]] = {}

    def take(self, record: Mapping[str, Any]) -> None:
        """One record as a client gets it."""
        text = record.get("chunk") or record.get("line") or record.get("step") or ""
        self.records.setdefault((record["job_id"], record["attempt"]), []).append((record["i"], hash(text)))

    def wrongs(self, said: Mapping[tuple[str, int], Sequence[str]], complete: Iterable[tuple[str, int]]) -> list[str]:
        """Everything that must not be; attempts in ``complete`` must have been heard to their end, others may have been left."""
        found = []
        for key, got in self.records.items():
            found += differences(
                f"{self.name} {key}", [(i, hash(text)) for i, text in enumerate(said[key])][: len(got)], got
            )
        for key in complete:
            if len(self.records.get(key, ())) < len(said[key]):
                found.append(f"{self.name} {key}: {len(self.records.get(key, ()))} of {len(said[key])} records")
        return found
