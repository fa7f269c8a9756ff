"""``aura jobs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aura.cli.main import tell
from aura.cli.options import client_options
from aura.cli.output import Format, safe, show_one, show_rows, write_json, write_line

STATUSES = ("QUEUED", "ASSIGNED", "IN_PROGRESS", "SUBMITTED", "COMPLETED", "FAILED", "CANCELLED")


@click.group()
def jobs() -> None:
    """List, watch and steer jobs."""


@jobs.command("ls")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only this status.")
@click.option("--project", "project_id", type=int, help="Only this project.")
@click.option("--role", help="Only this role.")
@click.option("--model", help="Only this model.")
@click.option("-q", "--query", "q", help="Words of the title.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most this many.")
@client_options
def ls(url: str | None, data: Path | None, output: Format, **filters: Any) -> None:
    """Jobs, newest first."""
    from aura.cli.api import Api

    with Api(url, data) as api:
        rows: list[dict[str, Any]] = api.get("/jobs", filters)
    show_rows(rows, ("id", "status", "title", "role", "assigned_model", "attempt", "created_at"), output)


@jobs.command("show")
@click.argument("job_id")
@client_options
def show(job_id: str, url: str | None, data: Path | None, output: Format) -> None:
    """One job."""
    from aura.cli.api import Api, segment

    with Api(url, data) as api:
        show_one(api.get(f"/jobs/{segment(job_id)}"), output)


@jobs.command("output")
@click.argument("job_id")
@client_options
def output_of(job_id: str, url: str | None, data: Path | None, output: Format) -> None:
    """What a job has written so far (text; every record with -o jsonl)."""
    from aura.cli.api import Api, segment

    path = f"/jobs/{segment(job_id)}/output"
    with Api(url, data) as api:
        if output == "table":
            click.echo(safe(api.get(path, accept="text/plain")), nl=False)
            return
        for line in api.lines(path):
            click.echo(line)


@jobs.command("watch")
@click.argument("job_id")
@client_options
def watch(job_id: str, url: str | None, data: Path | None, output: Format) -> int:
    """Follow one job: output to stdout, everything else to stderr. Exit code 0 only for COMPLETED."""
    import asyncio

    from aura.cli.options import gateway_url
    from aura.cli.watch import watch_job

    return asyncio.run(watch_job(gateway_url(url, data), job_id, output))


@jobs.command("explain")
@click.argument("job_id")
@client_options
def explain(job_id: str, url: str | None, data: Path | None, output: Format) -> None:
    """Why a job is where it is."""
    from aura.cli.api import Api, segment

    with Api(url, data) as api:
        show_one(api.get(f"/jobs/{segment(job_id)}/explain"), output)


def _steering(name: str, summary: str, done: str) -> click.Command:
    """A command that takes job ids and a reason and posts to ``/jobs/{id}/<name>``."""

    @click.argument("job_ids", nargs=-1, required=True)
    @click.option("--reason", default="", help="Why; kept in the log for ever.")
    @client_options
    def command(job_ids: tuple[str, ...], reason: str, url: str | None, data: Path | None, output: Format) -> None:
        from aura.cli.api import Api, segment

        answers = []
        with Api(url, data) as api:
            for job_id in job_ids:
                answers.append(api.post(f"/jobs/{segment(job_id)}/{name}", {"reason": reason}))
                tell(f"{job_id}: {done}")
        if output == "json":
            write_json(answers[0] if len(answers) == 1 else answers)
        elif output == "jsonl":
            for answer in answers:
                write_line(answer)

    command.__doc__ = summary
    return click.command(name)(command)


for _name, _summary, _done in (
    ("cancel", "Stop jobs, wherever they are.", "cancelled"),
    ("retry", "Queue failed, cancelled or submitted jobs again.", "queued again"),
    ("accept", "Accept submitted results.", "accepted"),
    ("reject", "Reject submitted results.", "rejected"),
):
    jobs.add_command(_steering(_name, _summary, _done))
