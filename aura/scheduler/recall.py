"""What the planner cannot know from the events it follows: the facts of jobs that were closed and are open again.

A closed job is dropped, so that nothing grows with closed jobs. When it is retried or rejected, its ``job.created`` and the present
state of what it depends on are read from the log: two or more direct gets, only for such jobs.

The dependencies are read from the leader of the stream and may be newer than the planner's sequence. That is safe: COMPLETED is
final, and for every other answer the event that changes it comes after the planner's sequence and will be applied. Therefore
nothing may be applied between :func:`recall` and ``adopt`` (the service holds the feed for so long).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura.commands.heads import carried_head, fold_job, load_job
from aura.domain import job_state, policy
from aura.domain.job_state import JobStatus
from aura.errors import NotFound
from aura.events import subjects
from aura.events.catalogue import JobAssigned, JobCreated
from aura.log.store import EventStore
from aura.scheduler.rows import OpenJob


async def recall(store: EventStore, project: int, job_id: str, seq: int) -> OpenJob:
    """The open job as of its event at ``seq``. Raises ``NotFound``, ``PoisonEvent``, ``Unavailable``."""
    recorded = await store.get(seq)
    if recorded is None:
        raise NotFound("event", str(seq))
    where = subjects.parse(recorded.subject)
    head = carried_head(recorded) or await fold_job(store, where, job_id, to_seq=seq)
    created = await store.last(subjects.job_event(project, job_id, JobCreated.TYPE), consistent=True)
    if created is None:
        raise NotFound("job", job_id)
    facts = created.decode()
    unmet: list[str] = []
    failed: list[str] = []
    if head.state.deps and head.state.status is JobStatus.QUEUED:
        for wanted in facts.get("depends_on") or ():
            verdict = policy.dependency((await load_job(store, wanted, consistent=True)).state.status)
            if verdict is not policy.Dependency.MET:
                unmet.append(wanted)
            if verdict is policy.Dependency.FAILED:
                failed.append(wanted)
    last = recorded.decode()
    assigned_by = (last.get("reason") or {}).get("policy") if where.type == JobAssigned.TYPE else None
    return open_job(
        project,
        job_id,
        seq=seq,
        state=job_state.to_json(head.state),
        created_seq=created.seq,
        facts=facts,
        since_ns=recorded.stored_at_ns,
        unmet_deps=tuple(unmet),
        failed_deps=tuple(failed),
        assigned_by=assigned_by,
    )


def open_job(
    project: int,
    job_id: str,
    *,
    seq: int,
    state: Mapping[str, Any],
    created_seq: int,
    facts: Mapping[str, Any],
    since_ns: int,
    unmet_deps: tuple[str, ...],
    failed_deps: tuple[str, ...],
    assigned_by: str | None,
) -> OpenJob:
    """An open job from the fields of its ``job.created`` (``facts``) and what came of it."""
    return OpenJob(
        project=project,
        job_id=job_id,
        seq=seq,
        state=state,
        created_seq=created_seq,
        since_ns=since_ns,
        unmet_deps=unmet_deps,
        failed_deps=failed_deps,
        concurrency_key=facts.get("concurrency_key"),
        timeout_s=facts.get("timeout_s"),
        queue_timeout_s=facts.get("queue_timeout_s"),
        assigned_by=assigned_by,
    )
