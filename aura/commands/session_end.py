"""How a session ends: as its job did. Pure but for the reads of the job's last events.

The sentence of a failure is for the workflow's user. It is the failing agent's own, if the job failed with that agent's error; else one
of :data:`_SENTENCES`. Error texts, which may hold internals, are content of the job and never come here.
"""

from __future__ import annotations

from aura.commands import results
from aura.commands.heads import JobHead
from aura.domain import session as domain
from aura.domain.job_state import JobStatus
from aura.errors import PoisonEvent
from aura.events import envelope, subjects
from aura.events.catalogue import (
    ContentRef,
    Event,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobLeaseExpired,
    JobRejected,
    JobSubmitted,
    SessionAgentFailed,
)
from aura.log.store import EventStore

UNFINISHED = "The workflow could not be finished."
_SENTENCES = {
    "lease_expired": "The worker stopped before the workflow was finished, and no attempts are left.",
    "timeout": "The workflow took longer than it may.",
    "queue_timeout": "No worker took the workflow up in time.",
    "content_unreadable": "What the workflow was given cannot be read.",
    "rejected": "The workflow's result was rejected.",
    "unknown_workflow": "There is no workflow of that name here.",
    "unknown_agent": "The workflow names an agent that there is not.",
}


async def ending(store: EventStore, job: JobHead, session_id: str) -> domain.EndCommand | None:
    """What ends the session; ``None`` while its job is open or waits for a verdict. Raises ``Unavailable``."""
    match job.state.status:
        case JobStatus.COMPLETED:
            found = await results.newest(store, job, JobCompleted, JobSubmitted)
            return domain.CompleteSession(output=None if found is None else _result(found[1]))
        case JobStatus.FAILED:
            return await _failure(store, job, session_id)
        case JobStatus.CANCELLED:
            event = await _newest(store, job, JobCancelled)
            if not isinstance(event, JobCancelled):
                raise PoisonEvent("a cancelled job without its cancellation", seq=job.seq)
            return domain.CancelSession(event.by, event.reason)
        case _:
            return None


def _result(report: results.Report) -> ContentRef | None:
    return None if isinstance(report, JobFailed) else report.result


async def _failure(store: EventStore, job: JobHead, session_id: str) -> domain.FailSession:
    event = await _newest(store, job, JobFailed, JobLeaseExpired, JobRejected)
    match event:
        case JobFailed(error_code=code, attempt=attempt):
            told = await _agents_word(store, job, session_id, attempt, code)
        case JobLeaseExpired():
            code, told = "lease_expired", None
        case _:
            code, told = "rejected", None
    return domain.FailSession(code, told or _SENTENCES.get(code, UNFINISHED))


async def _agents_word(store: EventStore, job: JobHead, session_id: str, attempt: int, code: str) -> str | None:
    """The sentence of the agent whose failure the job's is."""
    subject = subjects.session_event(job.project, session_id, SessionAgentFailed.TYPE)
    last = await store.last(subject, consistent=True)
    if last is None:
        return None
    event, _ = envelope.unseal(last.body, seq=last.seq, subject=last.subject)
    if isinstance(event, SessionAgentFailed) and (event.attempt, event.error_code) == (attempt, code):
        return event.message
    return None


async def _newest(store: EventStore, job: JobHead, *types: type[Event]) -> Event | None:
    found: tuple[int, Event] | None = None
    for type_ in types:
        last = await store.last(subjects.job_event(job.project, job.job_id, type_.TYPE), consistent=True)
        if last is not None and (found is None or last.seq > found[0]):
            found = last.seq, envelope.unseal(last.body, seq=last.seq, subject=last.subject)[0]
    return found[1] if found is not None else None
