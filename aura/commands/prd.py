"""PRD intake: one request becomes one job per task, all or none.

Order of effects: validate everything → write the inputs (encrypted, guarded, erasable) → append every ``job.created``: one plain
append for one task, one atomic batch for 2 to 1,000. A crash in between leaves inputs without a job, which the sweep of
``log/content_sweep.py`` removes; never a job without its input: who comes between the two writes for too long gives up.

Idempotency: with an ``Idempotency-Key`` all ids are derived from (project, actor, key), every append expects sequence 0, so a repeat,
however late, meets its own first event: the same body → the first answer, another body → ``KeyReused``. After a crash in between, it
meets the first input instead, which names the body it came with, with the same outcome: a job never runs another body's payload.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aura import ids as identifiers
from aura.clock import rfc3339
from aura.commands import requests as r
from aura.commands.handler import Caller, JobHandler, KeyUse
from aura.commands.heads import load_job
from aura.commands.requests import Submit, Task
from aura.domain.job import evolve
from aura.errors import InvalidRequest, KeyReused, NotFound, Unavailable, WrongExpectedSequence
from aura.events import subjects
from aura.events.catalogue import ContentRef, JobCreated, KeyRef
from aura.log.content_sweep import IN_FLIGHT_S
from aura.log.ports import ContentStore, InputItem
from aura.log.store import Append

Beside = Callable[[Sequence[ContentRef]], list[Append]]
"""References to the stored inputs → further events of the same batch."""


class PrdIntake:
    """Turns PRDs into jobs."""

    def __init__(self, handler: JobHandler, content: ContentStore) -> None:
        self._handler = handler
        self._content = content

    async def submit(
        self,
        request: Submit,
        caller: Caller,
        key: KeyUse | None,
        *,
        root: str | None = None,
        beside: Beside | None = None,
    ) -> dict[str, Any]:
        """``{"root_job_id", "job_ids", "message", "seq"}``. Raises ``InvalidRequest``, ``KeyReused``, ``TooLarge``, ``Unavailable``.

        ``root``: the root job's id where the caller has made it of something that repeats. ``beside``: events of other entities that
        are stored with the jobs or not at all."""
        depends_on = resolve_dependencies(request.tasks)
        root, job_ids = self._ids(request, caller, root)
        if key is not None and (found := await self._first_answer(request, root, job_ids, key)):
            return found
        inputs = [
            InputItem(request.project_id, job_id, r.stored_json(task.payload, "payload"))
            for job_id, task in zip(job_ids, request.tasks, strict=True)
        ]
        created = False
        try:
            started = self._handler.clock.monotonic_s()
            refs = await self._content.put_inputs(inputs, request=key.body if key is not None else None)
            appends = self._appends(request, caller, key, root, job_ids, depends_on, refs)
            appends += [] if beside is None else beside(refs)
            if self._handler.clock.monotonic_s() - started > IN_FLIGHT_S:
                raise Unavailable("the submission took too long; try again")
            seq = (await self._append(appends))[len(job_ids) - 1]
            created = True
        except WrongExpectedSequence:
            # Somebody with the same key was first (or we were, and the answer got lost).
            found = await self._first_answer(request, root, job_ids, key)
            if found is None:
                raise Unavailable("the submission raced with itself; try again") from None
            return found
        finally:
            if not created:
                self._content.forget_inputs(job_ids)
        return _answer(root, job_ids, request, seq)

    async def _append(self, appends: list[Append]) -> list[int]:
        """All or none; their sequences."""
        if len(appends) == 1:
            return [await self._handler.store.append(appends[0])]
        return await self._handler.store.append_batch(appends)

    def _ids(self, request: Submit, caller: Caller, root: str | None) -> tuple[str, list[str]]:
        if root is not None:
            pass
        elif caller.idempotency_key is None:
            root = self._handler.ids.uuid7()
        else:
            root = identifiers.derived("prd", request.project_id, caller.actor, caller.idempotency_key)
        return root, [identifiers.derived("job", root, index) for index in range(len(request.tasks))]

    async def _first_answer(
        self, request: Submit, root: str, job_ids: list[str], key: KeyUse | None
    ) -> dict[str, Any] | None:
        """The answer to the first use of the key, if there was one."""
        store = self._handler.store
        guard_subject = subjects.job_event(request.project_id, job_ids[0], JobCreated.TYPE)
        try:
            await load_job(store, job_ids[0], consistent=True)
        except NotFound:
            return None
        async for batch in store.read(subject=guard_subject):
            for recorded in batch:
                created = recorded.decode()
                if key is None or created.get("idempotency_key", {}).get("body") != key.body:
                    raise KeyReused("this Idempotency-Key was used with another request")
                return _answer(root, job_ids, request, recorded.seq + int(created["count"]) - 1)
        return None

    def _appends(
        self,
        request: Submit,
        caller: Caller,
        key: KeyUse | None,
        root: str,
        job_ids: list[str],
        depends_on: list[list[int]],
        refs: Sequence[ContentRef],
    ) -> list[Append]:
        stamp_key = KeyRef(key=key.key, body=key.body) if key is not None else None
        appends = []
        for index, task in enumerate(request.tasks):
            created = JobCreated(
                root_job_id=root,
                index=index,
                count=len(job_ids),
                title=task.title or task.name or task.type,
                prd_title=request.title,
                name=task.name,
                task_type=task.type,
                role=task.role,
                priority=task.priority,
                labels=task.labels,
                subject=task.subject,
                stages=task.stages,
                depends_on=[job_ids[i] for i in depends_on[index]],
                session_id=task.session_id,
                max_attempts=task.max_attempts,
                timeout_s=task.timeout_s,
                queue_timeout_s=task.queue_timeout_s,
                run_at=rfc3339(task.run_at) if task.run_at is not None else None,
                concurrency_key=task.concurrency_key,
                idempotency_key=stamp_key,
                trace_id=caller.trace_id,
                input=refs[index],
            )
            state = evolve(None, created)
            appends.append(
                self._handler.seal(request.project_id, job_ids[index], created, state, caller, expected_seq=0)
            )
        return appends


def _answer(root: str, job_ids: list[str], request: Submit, seq: int) -> dict[str, Any]:
    noun = "job" if len(job_ids) == 1 else "jobs"
    return {
        "root_job_id": root,
        "job_ids": job_ids,
        "message": f"{len(job_ids)} {noun} queued in project {request.project_id}",
        "seq": seq,
    }


def resolve_dependencies(tasks: Sequence[Task]) -> list[list[int]]:
    """Each task's dependencies as indexes. Raises ``InvalidRequest`` for unknown names, duplicates of names, and cycles."""
    by_name: dict[str, int] = {}
    for index, task in enumerate(tasks):
        if task.name is not None:
            if task.name in by_name:
                raise InvalidRequest(f"tasks {by_name[task.name]} and {index} have the same name", field="tasks")
            by_name[task.name] = index
    resolved = []
    for index, task in enumerate(tasks):
        wanted: dict[int, None] = {}
        for reference in task.depends_on:
            target = by_name.get(reference) if isinstance(reference, str) else reference
            if target is None or target >= len(tasks):
                raise InvalidRequest(f"task {index} depends on a task that is not in this PRD", field="depends_on")
            wanted[target] = None
        resolved.append(list(wanted))
    _refuse_cycles(resolved)
    return resolved


def _refuse_cycles(depends_on: Sequence[Sequence[int]]) -> None:
    """Kahn's algorithm: what cannot be ordered is on, or behind, a cycle."""
    waiting = [len(wanted) for wanted in depends_on]
    dependents: list[list[int]] = [[] for _ in depends_on]
    for index, wanted in enumerate(depends_on):
        for target in wanted:
            dependents[target].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    done = 0
    while ready:
        done += 1
        for dependent in dependents[ready.pop()]:
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                ready.append(dependent)
    if done != len(depends_on):
        raise InvalidRequest("the dependencies form a cycle", field="depends_on")
