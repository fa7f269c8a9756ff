"""What attempts handed in, found by the events that refer to it.

A result or error text is shown only if a committed event names it (``ContentRef.part``), and only if it is what the event's digest
says: what a straggler or a crashed writer stored beside it is never read.
"""

from __future__ import annotations

from dataclasses import dataclass

from aura.commands.heads import JobHead
from aura.events import envelope, subjects
from aura.events.catalogue import JobCompleted, JobFailed, JobSubmitted
from aura.log.ports import ContentStore
from aura.log.store import EventStore, Recorded

Report = JobCompleted | JobSubmitted | JobFailed


@dataclass(frozen=True, slots=True)
class Reported:
    """JSON texts: the newest result (accepted or waiting for a verdict), and the newest failure's error text."""

    details: bytes | None
    error: bytes | None


async def newest(store: EventStore, head: JobHead, *types: type[Report]) -> tuple[Recorded, Report] | None:
    """The newest event of these types. Raises ``Unavailable``."""
    found: Recorded | None = None
    for type_ in types:
        subject = subjects.job_event(head.project, head.job_id, type_.TYPE)
        last = await store.last(subject, consistent=True)
        if last is not None and (found is None or last.seq > found.seq):
            found = last
    if found is None:
        return None
    event, _ = envelope.unseal(found.body, seq=found.seq, subject=found.subject)
    assert isinstance(event, Report)
    return found, event


async def text(content: ContentStore, head: JobHead, event: Report) -> bytes | None:
    """The JSON text that an event refers to; ``None`` when there is none, or it is erased. Raises ``BrokenSeal``."""
    part: subjects.ReportPart = "error" if isinstance(event, JobFailed) else "result"
    ref = event.error if isinstance(event, JobFailed) else event.result
    if ref is None:
        return None
    found = await content.get(head.project, head.job_id, part, ref)
    return found.plaintext if found is not None else None


async def reported(store: EventStore, content: ContentStore, head: JobHead) -> Reported:
    """What a job's attempts handed in. Raises ``BrokenSeal`` for damaged content, ``Unavailable``."""
    result = await newest(store, head, JobCompleted, JobSubmitted)
    failure = await newest(store, head, JobFailed)
    return Reported(
        await text(content, head, result[1]) if result is not None else None,
        await text(content, head, failure[1]) if failure is not None else None,
    )
