"""The route table: one row builds the route, its OpenAPI entry and its test. Live endpoints (WebSocket, SSE) stand
below it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from aura.commands import requests as r
from aura.gateway.api import (
    accept,
    access,
    commands,
    forms,
    history,
    output,
    problems,
    reads,
    sessions,
    system,
    workflows,
)
from aura.gateway.api import answers as a
from aura.gateway.api.endpoint import Answer, Endpoint, Handler, Kind, Repeat
from aura.gateway.metrics import CONTENT_TYPE

Shape = type[BaseModel] | dict[str, Any]


#: What reading takes, by tag, where a row says nothing else.
_READS = {
    "jobs": "jobs.read",
    "prds": "jobs.read",
    "models": "models.read",
    "archives": "archives.read",
    "sessions": "sessions.read",
    "system": "system.health",
}


def _ok(description: str, shape: Shape | None, *media: str, status: int = 200) -> tuple[Answer, ...]:
    return (Answer(status, description, shape, media or (accept.JSON,)),)


def _get(
    path: str,
    name: str,
    handler: Handler,
    summary: str,
    tag: str,
    answers: tuple[Answer, ...],
    *,
    query: type[BaseModel] = forms.NoQuery,
    kind: Kind = "read",
    errors: tuple[int, ...] = (),
    action: str = "",
) -> Endpoint:
    return Endpoint(
        "GET", path, name, handler, summary, tag, answers, action or _READS[tag], kind, query, errors=errors
    )


def _job(
    action: str,
    body: type[BaseModel],
    summary: str,
    *,
    operation: str | None = None,
    answer: type[BaseModel] = a.Committed,
    text_field: str | None = None,
    needs: str = "jobs.work",
    repeat: Repeat = "none",
) -> Endpoint:
    return Endpoint(
        method="POST",
        path=f"/jobs/{{job_id}}/{action}",
        name=f"{operation or action}_job",
        handler=commands.job_command(operation or action, text_field=text_field),
        summary=summary,
        tag="jobs",
        answers=_ok("Committed", answer),
        action=needs,
        kind="command",
        body=body,
        text_field=text_field,
        errors=(404, 409),
        repeat=repeat,
    )


def _model(action: str, operation: str, body: type[BaseModel], summary: str) -> Endpoint:
    return Endpoint(
        method="POST",
        path=f"/models/{{name}}/{action}",
        name=operation,
        handler=commands.model_command(operation),
        summary=summary,
        tag="models",
        answers=_ok("Done", a.Ok),
        action="models.report" if action == "heartbeat" else "models.steer",
        kind="command",
        body=body,
        errors=(404, 409),
        repeat="again" if action == "heartbeat" else "kept",
    )


def _archive(action: Literal["hold", "release"], operation: str, summary: str) -> Endpoint:
    return Endpoint(
        method="POST",
        path=f"/archives/{{job_id}}/{action}",
        name=operation,
        handler=commands.job_command(operation),
        summary=summary,
        tag="archives",
        answers=_ok("Committed", a.Committed),
        action=f"archives.{action}",
        kind="command",
        body=r.Because,
        headers=("x-director-key",),
        errors=(403, 404, 409),
    )


_SYSTEM = (
    _get("/health", "health", system.health, "This process answers", "system", _ok("Alive", a.ANYTHING), kind="free"),
    _get("/livez", "livez", system.health, "This process answers", "system", _ok("Alive", a.ANYTHING), kind="free"),
    *(
        _get(
            path,
            name,
            system.ready,
            "Everything we depend on answers; 503 names what does not",
            "system",
            (*_ok("Ready", a.Ready), Answer(503, "Not ready", a.Ready)),
            query=forms.VerboseQuery,
            kind="free",
        )
        for path, name in (("/ready", "ready"), ("/readyz", "readyz"))
    ),
    _get("/version", "version", system.version, "Software and log", "system", _ok("Version", a.Version), kind="free"),
    _get(
        "/metrics", "metrics", system.metrics, "Prometheus", "system", _ok("Metrics", a.TEXT, CONTENT_TYPE), kind="free",
        action="system.status",
    ),
    _get("/projections", "projections", reads.projections, "How far each read model is", "system",
         _ok("Read models", a.array(a.Projection)), query=forms.FreshOnly, action="system.status"),
)  # fmt: skip

_PRDS = (
    Endpoint(
        method="POST",
        path="/prds",
        name="submit_prd",
        handler=commands.submit,
        summary="Submit a PRD: a root job and one job per task, all or none",
        tag="prds",
        answers=_ok("Stored", a.Submitted, status=201),
        action="jobs.submit",
        kind="command",
        body=r.Submit,
    ),
    _get("/prds", "list_prds", reads.prds, "PRDs, newest first", "prds", _ok("PRDs", a.array(a.Prd)),
         query=forms.PageQuery),
    _get("/prds/{root_job_id}", "get_prd", reads.prd, "A PRD and its jobs", "prds", _ok("The PRD", a.Prd),
         query=forms.FreshOnly, errors=(404,)),
)  # fmt: skip

_JOBS = (
    _get("/jobs", "list_jobs", reads.jobs, "Jobs, newest first", "jobs", _ok("Jobs", a.array(a.Job)),
         query=forms.JobsQuery),
    Endpoint(
        method="POST",
        path="/jobs/bulk",
        name="bulk_jobs",
        handler=commands.bulk,
        summary="Cancel or retry many jobs: a dry run names the ids, then the ids are posted back",
        tag="jobs",
        answers=(
            Answer(200, "The selection, or one line per job", a.Selected),
            Answer(200, "The selection, or one line per job", a.ANYTHING, (accept.NDJSON,)),
        ),
        action="jobs.steer",
        kind="command",
        body=(forms.BulkDryRun, r.Bulk),
        repeat="checked",
    ),
    _get("/jobs/{job_id}", "get_job", reads.job, "A job, or a root job derived from its jobs", "jobs",
         (*_ok("The job", a.Job), Answer(304, "Not modified")), query=forms.Fresh, errors=(404,)),
    _get("/jobs/{job_id}/events", "job_events", history.job_events, "The job's timeline, from the log", "jobs",
         _ok("Events", a.array(a.Event), accept.JSON, accept.NDJSON, history.CLOUDEVENTS),
         query=forms.JobEventsQuery, errors=(404, 406), action="log.read"),
    _get("/jobs/{job_id}/output", "job_output", output.output, "The job's output", "jobs",
         _ok("Output", a.TEXT, accept.TEXT, accept.NDJSON), query=forms.OutputQuery, errors=(404, 406), action="jobs.content"),
    _get("/jobs/{job_id}/logs", "job_logs", output.logs, "The job's log lines", "jobs",
         _ok("Log lines", {"type": "array", "items": {"type": "object"}}, accept.JSON, accept.NDJSON, accept.TEXT),
         query=forms.OutputQuery, errors=(404, 406), action="jobs.content"),
    _get("/jobs/{job_id}/result", "job_result", output.result, "What the job handed in", "jobs",
         _ok("Result", a.Result), query=forms.FreshOnly, errors=(404,), action="jobs.content"),
    _get("/jobs/{job_id}/explain", "explain_job", reads.explain, "Why the job is where it is", "jobs",
         _ok("Explanation", a.ANYTHING), query=forms.FreshOnly, errors=(404,)),
    _job("assign", r.Assign, "Give a job to a model by hand", answer=a.Assigned, text_field="assigned_model",
         needs="jobs.steer"),
    _job("claim", r.Claim, "Start an attempt", answer=a.Claimed, text_field="worker_id"),
    _job("heartbeat", r.Heartbeat, "Renew a lease; says whether the job was cancelled", answer=a.Renewed,
         repeat="again"),
    _job("stream", r.Stream, "Append output text", answer=a.Ok),
    _job("log", r.Log, "Append a log line", answer=a.Ok),
    _job("progress", r.Progress, "Report progress", answer=a.Ok),
    _job("stage", r.Stage, "Report a stage"),
    _job("complete", r.Complete, "Hand in a result"),
    _job("fail", r.Fail, "Report a failure"),
    _job("release", r.Release, "Give the job back unharmed"),
    _job("cancel", r.Because, "Cancel a job", needs="jobs.steer"),
    _job("retry", r.Because, "Queue a closed job again", needs="jobs.steer"),
    _job("accept", r.Because, "Accept a submitted result", needs="jobs.steer"),
    _job("reject", r.Because, "Reject a submitted result", needs="jobs.steer"),
    _job("priority", r.Reprioritize, "Change the priority", operation="reprioritize", needs="jobs.steer"),
)  # fmt: skip

_MODELS = (
    _get("/models/health", "models_health", reads.models_health, "Models heard of in the last five minutes", "models",
         _ok("Models", a.array(a.ModelHealth)), query=forms.FreshOnly),
    _get("/models/{name}/health", "model_health", reads.model_health, "One model with its history", "models",
         _ok("Model", a.ANYTHING), query=forms.FreshOnly, errors=(404,)),
    Endpoint(
        method="POST",
        path="/models/{name}/next",
        name="next_job",
        handler=commands.next_job,
        summary="The next job of a pool, already claimed; waits for one. A repeat with the same Idempotency-Key gets the same claim",
        tag="models",
        answers=(*_ok("A job", a.Claimed), Answer(204, "No job within wait_s")),
        action="jobs.work",
        kind="wait",
        body=forms.Next,
        text_field="worker_id",
    ),
    _model("heartbeat", "model_heartbeat", r.ModelHeartbeat, "Report a model's health; the first report registers it"),
    _model("pause", "pause_model", r.Because, "Stop new assignments to a model"),
    _model("resume", "resume_model", r.Because, "Let assignments go on"),
)  # fmt: skip

_ARCHIVES = (
    _get("/archives", "list_archives", reads.archives, "Closed jobs, newest first", "archives",
         _ok("Archives", a.array(a.Archive)), query=forms.PageQuery),
    _get("/archives/{job_id}", "get_archive", reads.archive, "A closed job", "archives", _ok("Archive", a.Archive),
         query=forms.FreshOnly, errors=(404,)),
    _archive("hold", "hold", "Put an archive on legal hold"),
    _archive("release", "release_hold", "End a legal hold"),
    Endpoint(
        method="POST",
        path="/archives/{job_id}/purge",
        name="purge_archive",
        handler=commands.job_command("purge"),
        summary="Erase a closed job's content for good, leaving a tombstone",
        tag="archives",
        answers=_ok("Erased", a.Ok),
        action="archives.purge",
        kind="command",
        body=r.Because,
        headers=("x-director-key",),
        errors=(403, 404, 409),
        repeat="kept",
    ),
)  # fmt: skip

_SESSIONS = (
    Endpoint(
        method="POST",
        path="/run-workflow",
        name="run_workflow",
        handler=workflows.run,
        summary="Run an agent workflow and wait for its result; the same session_id gets the same answer again",
        tag="sessions",
        answers=(
            *_ok("What the workflow found", a.WorkflowDone),
            Answer(202, "Still running: follow /ws/orchestrator/{session_id}, or ask again", a.WorkflowRunning),
            Answer(502, "The workflow failed; detail says why in words for its user", a.Problem, (problems.MEDIA_TYPE,)),
        ),
        action="sessions.run",
        kind="wait",
        body=workflows.RunWorkflow,
        text_field="strategy_description",
        errors=(409,),
    ),
    _get("/sessions", "list_sessions", sessions.sessions, "Sessions of agent workflows, newest first", "sessions",
         _ok("Sessions", a.array(a.Session)), query=forms.SessionsQuery),
    _get("/sessions/{session_id}", "get_session", sessions.session, "A session, its agents and its result", "sessions",
         (*_ok("The session", a.Session), Answer(304, "Not modified")), query=forms.SessionQuery, errors=(404,)),
    Endpoint(
        method="POST",
        path="/sessions/{session_id}/cancel",
        name="cancel_session",
        handler=sessions.cancel,
        summary="Cancel a session, with its job",
        tag="sessions",
        answers=_ok("Cancelled", a.SessionCommitted),
        action="sessions.cancel",
        kind="command",
        body=r.CancelSession,
        errors=(404, 409),
    ),
)  # fmt: skip

_VIEWS = (
    _get("/projects/{project_id}/subjects", "project_grid", reads.grid, "Subjects × stages", "views",
         _ok("Grid", a.ANYTHING), query=forms.FreshOnly, action="jobs.read"),
    _get("/stats", "stats", reads.stats, "Counts, throughput, latency, success rates", "views",
         _ok("Statistics", a.ANYTHING), query=forms.Fresh, action="stats.read"),
    _get("/events", "list_events", history.events, "The log", "views",
         _ok("Events", a.array(a.Event), accept.JSON, accept.NDJSON, history.CLOUDEVENTS),
         query=forms.EventsQuery, errors=(406,), action="log.read"),
)  # fmt: skip


def _auth(path: str, name: str, handler: Handler, summary: str, action: str, answer: Shape, **more: Any) -> Endpoint:
    return Endpoint(
        method="POST",
        path=path,
        name=name,
        handler=handler,
        summary=summary,
        tag="access",
        answers=_ok("Done", answer, status=201 if "revoke" not in path else 200),
        action=action,
        kind="command",
        **more,
    )


_ACCESS = (
    _get("/auth/me", "who_am_i", access.me, "Who one is, and what one may do", "access", _ok("The caller", a.Caller),
         kind="free", action="access.me"),
    _get("/auth/keys", "list_keys", access.keys, "API keys, newest first; never the keys themselves", "access",
         _ok("Keys", a.array(a.AccessKey)), action="keys.read"),
    _auth("/auth/keys", "issue_key", access.issue, "Issue an API key: only this answer has it", "keys.manage", a.IssuedKey,
          body=r.IssueKey, headers=("x-director-key",), errors=(409,)),
    _auth("/auth/keys/{key_id}/revoke", "revoke_key", access.revoke, "Revoke an API key, with what it has open", "keys.manage",
          a.AccessKey, body=r.Because, headers=("x-director-key",), errors=(404,), repeat="kept"),
    _auth("/auth/tickets", "issue_ticket", access.ticket, "A ticket for one live connection, good for 30 seconds",
          "access.ticket", a.Ticket, body=r.NoArguments),
)  # fmt: skip

#: Every HTTP endpoint but the page, the streams and the API's own description.
ENDPOINTS: tuple[Endpoint, ...] = (*_SYSTEM, *_PRDS, *_JOBS, *_MODELS, *_ARCHIVES, *_SESSIONS, *_VIEWS, *_ACCESS)
