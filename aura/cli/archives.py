"""``aura archives``: finished jobs, their retention, holds and purges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aura.cli.main import tell
from aura.cli.options import client_options
from aura.cli.output import Format, show_one, show_rows


@click.group()
def archives() -> None:
    """Finished jobs: inspect, hold, purge."""


@archives.command("ls")
@click.option("--project", type=int, help="Only this project.")
@click.option("--limit", type=click.IntRange(1, 1000), help="At most this many.")
@client_options
def ls(project: int | None, limit: int | None, url: str | None, data: Path | None, output: Format) -> None:
    """Newest first."""
    from aura.cli.api import Api

    with Api(url, data) as api:
        rows: list[dict[str, Any]] = api.get("/archives", {"project_id": project, "limit": limit})
    show_rows(rows, ("id", "project_id", "title", "final_status", "archived_at", "retention_until", "held"), output)


@archives.command("show")
@click.argument("job_id")
@client_options
def show(job_id: str, url: str | None, data: Path | None, output: Format) -> None:
    """One archived job."""
    from aura.cli.api import Api, segment

    with Api(url, data) as api:
        show_one(api.get(f"/archives/{segment(job_id)}"), output)


@archives.command("hold")
@click.argument("job_id")
@click.option("--reason", default="", help="Why; kept in the log for ever.")
@client_options
def hold(job_id: str, reason: str, url: str | None, data: Path | None, output: Format) -> None:
    """Keep a job from being purged."""
    _post(job_id, "hold", reason, url, data, output, _director())


@archives.command("release")
@click.argument("job_id")
@click.option("--reason", default="", help="Why; kept in the log for ever.")
@client_options
def release(job_id: str, reason: str, url: str | None, data: Path | None, output: Format) -> None:
    """Lift a hold. Needs AURA_DIRECTOR_API_KEY (or …_FILE) where the system has a director."""
    _post(job_id, "release", reason, url, data, output, _director())


@archives.command("purge")
@click.argument("job_id")
@click.option("--reason", default="", help="Why; kept in the log for ever.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_options
def purge(job_id: str, reason: str, yes: bool, url: str | None, data: Path | None, output: Format) -> None:
    """Erase a job's content and output for good. Needs AURA_DIRECTOR_API_KEY (or …_FILE)."""
    from aura import config
    from aura.errors import ConfigError

    key = config.load().director_api_key
    if key is None:
        raise ConfigError("purging needs the director's key: set AURA_DIRECTOR_API_KEY or AURA_DIRECTOR_API_KEY_FILE")
    if not yes:
        click.confirm(f"Erase the content of {job_id}? Nobody can bring it back", abort=True, err=True)
    _post(job_id, "purge", reason, url, data, output, {"x-director-key": key})


def _director() -> dict[str, str]:
    """The director's key, if this user has it."""
    from aura import config

    key = config.load().director_api_key
    return {} if key is None else {"x-director-key": key}


def _post(
    job_id: str,
    action: str,
    reason: str,
    url: str | None,
    data: Path | None,
    output: Format,
    headers: dict[str, str] | None = None,
) -> None:
    from aura.cli.api import Api, segment

    with Api(url, data, timeout_s=120) as api:
        answer = api.post(f"/archives/{segment(job_id)}/{action}", {"reason": reason}, headers=headers)
    tell(f"{job_id}: {action} done")
    show_one(answer, output)
