"""Commands on sessions: what a workflow's worker says of its agents, what people ask for, and the start of a workflow.

A worker speaks over ``cmd.aura.worker.<id>.session``; it is believed only for the attempt that it leases, and only about the session that
the job was created for. That is checked on the job, a moment before the session's own event is appended; should the attempt end in that
moment, the session's ``attempt`` fences what comes late (``domain/session.py``).

``run_workflow`` stores the job and the session's ``started`` in one atomic batch: there is never one without the other. The job's id is
made from the caller's ``Idempotency-Key``, or without one from project and session id; so a repeat, by whomever, meets the first one:
the same request → the same job; another under that key → ``KeyReused``, under that session id → ``Conflict``.

What agents hand in is content of the job: written before the event that refers to it, erased with the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aura import ids as identifiers
from aura.clock import Clock, rfc3339
from aura.commands import requests as r
from aura.commands import session_end
from aura.commands.attempts import AttemptOperations
from aura.commands.handler import MAX_CONFLICTS, Caller, JobHandler, KeyUse
from aura.commands.heads import JobHead
from aura.commands.operation import Operations, Policy, Ports
from aura.commands.prd import PrdIntake
from aura.commands.reports import MAX_DETAILS
from aura.commands.session_names import newest_started
from aura.domain import job_commands as c
from aura.domain import session as domain
from aura.errors import (
    Conflict,
    KeyReused,
    NotFound,
    PoisonEvent,
    Refused,
    TooLarge,
    Unavailable,
    WrongExpectedSequence,
)
from aura.events import catalogue, envelope, subjects
from aura.events.catalogue import ContentRef, JobCreated
from aura.ids import IdSource
from aura.log.store import Append, EventStore, Recorded

#: A workflow is a job of this type and role; the role's pool runs it.
TASK_TYPE, ROLE = "workflow", "Agent"
#: How long one attempt of a workflow may take.
TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class SessionHead:
    """A session at the sequence of its last event."""

    project: int
    session_id: str
    seq: int
    state: domain.SessionState


class SessionHandler:
    """Decides and appends; the same protocol as for jobs (``handler.py``), for an entity that is not cached."""

    def __init__(self, store: EventStore, clock: Clock, ids: IdSource) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids

    async def load(self, project: int, session_id: str, *, consistent: bool = False) -> SessionHead | None:
        """The session; ``None`` when it was never started. Raises ``Unavailable``, ``PoisonEvent``."""
        last = await self._store.last(subjects.session_guard(project, session_id), consistent=consistent)
        return None if last is None else await self._head(last)

    async def find(self, session_id: str, projects: Iterable[int] | None) -> SessionHead:
        """The session that was started last of that name, in some projects or (``None``) in any. Raises ``NotFound``."""
        where = None if projects is None else frozenset(projects)
        newest = await newest_started(self._store, session_id, lambda project: where is None or project in where)
        among: Iterable[int | str] = ("*",) if where is None else where
        for project in (
            among if newest is None else [newest[0]]
        ):  # what was started a moment ago only the leader may have
            last = await self._store.last(f"aura.session.{project}.{session_id}.>", consistent=True)
            if last is not None:
                return await self._head(last)
        raise NotFound("session", session_id)

    async def _head(self, last: Recorded) -> SessionHead:
        where = subjects.parse(last.subject)
        project = subjects.check_project(where.project)
        carried = domain.from_json(last.decode().get("state") or {})
        state = carried if carried is not None else await self._fold(project, where.entity)
        return SessionHead(project, where.entity, last.seq, state)

    async def execute(
        self, project: int, session_id: str, command: domain.SessionCommand, caller: Caller
    ) -> tuple[SessionHead, bool]:
        """The session when it is so, and whether this call made it so. Raises ``Conflict``, ``Fenced``, ``Unavailable``."""
        head = await self.load(project, session_id)
        fresh = False
        for _ in range(MAX_CONFLICTS):
            state = head.state if head is not None else None
            try:
                events = domain.decide(state, command, now=self._clock.now())
            except Refused:
                if fresh:
                    raise
                events = []
            if not events:
                if fresh and head is not None:
                    return head, False
            else:
                seq = head.seq if head is not None else 0
                try:
                    append = self.seal(project, session_id, events[0], state, caller, expected_seq=seq)
                    at = await self._store.append(append)
                    return SessionHead(project, session_id, at, domain.evolve(state, events[0])), True
                except WrongExpectedSequence:
                    pass
            head, fresh = await self.load(project, session_id, consistent=True), True
        raise Unavailable("the session is changing too fast; try again")

    def seal(
        self,
        project: int,
        session_id: str,
        event: catalogue.SessionEvent,
        state: domain.SessionState | None,
        caller: Caller,
        *,
        expected_seq: int,
    ) -> Append:
        """One session event, ready to append."""
        event_id = self._ids.uuid7()
        stamp = envelope.Stamp(rfc3339(self._clock.now()), caller.actor, caller.correlation_id, caller.causation_id)
        body = envelope.seal(
            event,
            event_id=event_id,
            stamp=stamp,
            ids={"project_id": project, "session_id": session_id},
            state=domain.to_json(domain.evolve(state, event)),
        )
        subject = subjects.session_event(project, session_id, event.TYPE)
        return Append(subject, subjects.session_guard(project, session_id), expected_seq, event_id, body)

    async def _fold(self, project: int, session_id: str) -> domain.SessionState:
        state: domain.SessionState | None = None
        async for batch in self._store.read(subject=subjects.session_guard(project, session_id)):
            for recorded in batch:
                event, _ = envelope.unseal(recorded.body, seq=recorded.seq, subject=recorded.subject)
                if type(event) not in catalogue.SESSION_EVENTS:
                    raise PoisonEvent("not a session event", seq=recorded.seq, subject=recorded.subject)
                state = domain.evolve(state, event)  # type: ignore[arg-type]  # membership was checked above
        if state is None:
            raise NotFound("session", session_id)
        return state


class SessionOperations(Operations):
    """Operations on sessions."""

    def __init__(
        self, ports: Ports, policy: Policy, jobs: JobHandler, attempts: AttemptOperations, intake: PrdIntake
    ) -> None:
        super().__init__(ports, policy, jobs)
        self._attempts = attempts
        self._intake = intake
        self.sessions = SessionHandler(ports.store, ports.clock, ports.ids)

    # ------------------------------------------------------------ workers

    async def report(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """What the worker of a workflow says: ``{session_id, status, seq}``. ``started`` may leave ``session_id`` out and is told it
        (``None`` when the job belongs to no session). Raises ``Fenced``, ``Conflict``, ``Forbidden``, ``NotFound``, ``TooLarge``."""
        job_id, request = self._job(params, r.SessionReport)
        head = await self._attempts.leased(job_id, request.attempt, caller)
        caller = traced(caller, head)
        if request.event == "started":
            created = await self._created(head)
            if created.session_id is None:
                return {"session_id": None, "status": None, "seq": head.seq}
            session_id = created.session_id
            if request.session_id not in (None, session_id):
                raise Conflict("the job belongs to another session", status=head.state.status)
            command: domain.SessionCommand = domain.StartSession(
                job_id, request.workflow or created.task_type, request.attempt, created.input
            )
        else:
            session_id = request.session_id or ""
            command = await self._of_agent(head, request)
        found, _ = await self.sessions.execute(head.project, session_id, command, caller)
        return _answer(found)

    async def _of_agent(self, head: JobHead, request: r.SessionReport) -> domain.AgentCommand:
        job_id, agent = head.job_id, request.agent or ""
        match request.event:
            case "agent_started":
                return domain.StartAgent(job_id, request.attempt, agent)
            case "agent_completed":
                output = await self._kept(head, request)
                return domain.CompleteAgent(job_id, request.attempt, agent, request.duration_ms or 0, output)
            case _:
                return domain.FailAgent(job_id, request.attempt, agent, request.error_code, request.message)

    async def _kept(self, head: JobHead, request: r.SessionReport) -> ContentRef | None:
        if request.output is None:
            return None
        text = r.stored_json(request.output, "output")
        if len(text) > MAX_DETAILS:
            raise TooLarge(f"output is {len(text)} bytes; the limit is {MAX_DETAILS}", limit=MAX_DETAILS)
        return await self._ports.content.put(head.project, head.job_id, "result", request.attempt, text)

    async def _created(self, head: JobHead) -> JobCreated:
        subject = subjects.job_event(head.project, head.job_id, JobCreated.TYPE)
        last = await self._ports.store.last(subject, consistent=True)
        if last is None:
            raise PoisonEvent("a job without a beginning", seq=head.seq)
        event, _ = envelope.unseal(last.body, seq=last.seq, subject=last.subject)
        assert isinstance(event, JobCreated)
        return event

    # ------------------------------------------------------------ people

    async def cancel(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Cancel a session, with its job (which remembers the ``Idempotency-Key``): ``{session_id, project_id, job_id, status, seq}``.
        Raises ``NotFound``, ``Conflict``, ``KeyReused``."""
        session_id, rest = self._split(params, "session_id")
        request = r.parse(r.CancelSession, rest)
        head = await self.sessions.find(
            subjects.check_name(session_id, "session_id"), allowed(caller, request.project_id)
        )
        key = self._key("cancel_session", f"{head.project}.{head.session_id}", request, caller)
        if key is not None:
            seen = (await self.jobs.head(head.state.job_id, consistent=True)).state.key_seen(key.key)
            if seen is not None and not seen.of_request(key.body):
                raise KeyReused("this Idempotency-Key was used with another request")
        if head.state.status is domain.SessionStatus.RUNNING:
            cancel = c.CancelJob(caller.actor, self._policy.retention_s, request.reason)
            try:
                await self.jobs.execute(head.state.job_id, cancel, caller, key)
            finally:  # a job that has ended otherwise cannot be cancelled, but then its session ends as it did
                head = await self.settle(head.project, session_id, caller) or head
        if head.state.status is not domain.SessionStatus.CANCELLED:
            raise Conflict(f"a session that is {head.state.status} cannot be cancelled", status=head.state.status.value)
        return {**_answer(head), "project_id": head.project, "job_id": head.state.job_id}

    async def run(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Start a workflow, once: ``{session_id, project_id, job_id, seq}``. Raises ``KeyReused`` when the caller's ``Idempotency-Key``
        was used for anything else, ``Conflict`` when the session id was, ``InvalidRequest``, ``TooLarge``, ``Unavailable``."""
        request = r.parse(r.RunWorkflow, params)
        project, session_id = request.project_id, request.session_id
        if caller.idempotency_key is None:
            root = identifiers.derived("session", project, session_id)
        else:
            root = identifiers.derived("workflow", project, caller.actor, caller.idempotency_key)
        body = f"workflow\0{project}\0{session_id}\0{request.model_dump_json(exclude={'session_id', 'project_id'})}"
        fingerprint = self._ports.content.fingerprint
        key = KeyUse(fingerprint(f"session\0{project}\0{session_id}".encode()), fingerprint(body.encode()))
        prd = r.Submit(
            project_id=project,
            title=f"Workflow {request.workflow}",
            tasks=[
                r.Task(
                    type=TASK_TYPE,
                    role=ROLE,
                    title=f"{request.workflow} {session_id}"[:300],
                    payload={"workflow": request.workflow, "input": request.input},
                    session_id=session_id,
                    timeout_s=TIMEOUT_S,
                )
            ],
        )
        job_id = identifiers.derived("job", root, 0)
        own = await self.sessions.load(project, session_id, consistent=True)
        if own is not None and own.state.job_id != job_id:
            # Somebody started it under another key, or under none. A key that made another session is told so first.
            if caller.idempotency_key is not None and await self._ports.store.last(subjects.job_guard(project, job_id)):
                raise KeyReused("this Idempotency-Key was used with another request")
            return await self._started(own, key.body)

        def started(refs: Sequence[ContentRef]) -> list[Append]:
            command = domain.StartSession(job_id, request.workflow, input=refs[0])
            event = domain.decide(None, command, now=self._ports.clock.now())[0]
            return [self.sessions.seal(project, session_id, event, None, caller, expected_seq=0)]

        try:
            answer = await self._intake.submit(prd, caller, key, root=root, beside=started)
        except KeyReused as error:
            if caller.idempotency_key is not None:
                raise
            raise Conflict("this session id was used with another request") from error
        except Unavailable:
            own = await self.sessions.load(project, session_id, consistent=True)
            if own is None or own.state.job_id == job_id:
                raise
            return await self._started(own, key.body)  # somebody else was first, in this very moment
        return {"session_id": session_id, "project_id": project, "job_id": job_id, "seq": answer["seq"]}

    async def _started(self, own: SessionHead, body: str) -> dict[str, Any]:
        """The answer to whoever started a session with the same request. Raises ``Conflict`` when it was another."""
        subject = subjects.job_event(own.project, own.state.job_id, JobCreated.TYPE)
        created = await self._ports.store.last(subject, consistent=True)
        if created is None or (created.decode().get("idempotency_key") or {}).get("body") != body:
            raise Conflict("this session id was used with another request", status=own.state.status.value)
        return {
            "session_id": own.session_id,
            "project_id": own.project,
            "job_id": own.state.job_id,
            "seq": created.seq,
        }

    # ------------------------------------------------------------ the end

    async def settle(self, project: int, session_id: str, caller: Caller) -> SessionHead | None:
        """End the session if its job has ended; the session as it is then (``None``: there is none). Safe to repeat, by anybody, at any
        time. Raises ``Unavailable``."""
        found = await self.sessions.load(project, session_id, consistent=True)
        if found is None or found.state.status.ended:
            return found
        job = await self.jobs.head(found.state.job_id, consistent=True)
        command = await session_end.ending(self._ports.store, job, session_id)
        if command is None:
            return found
        try:
            return (await self.sessions.execute(project, session_id, command, traced(caller, job)))[0]
        except Conflict:  # somebody else was first, or the job was retried in the meantime
            return await self.sessions.load(project, session_id, consistent=True)


def allowed(caller: Caller, project: int | None) -> Iterable[int] | None:
    """In which projects a caller may look for what it names (``None``: in any)."""
    if project is None:
        return caller.projects
    return [project] if caller.projects is None or project in caller.projects else []


def traced(caller: Caller, job: JobHead) -> Caller:
    """The caller within the trace of the job."""
    trace = job.state.trace or caller.correlation_id
    return Caller(caller.actor, trace, caller.causation_id, caller.idempotency_key, caller.owner, caller.projects)


def _answer(head: SessionHead) -> dict[str, Any]:
    return {"session_id": head.session_id, "status": head.state.status.value, "seq": head.seq}
