"""``aura sessions``: runs of agent workflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aura.cli.main import tell
from aura.cli.options import client_options
from aura.cli.output import Format, show_one, show_rows

STATUSES = ("RUNNING", "COMPLETED", "FAILED", "CANCELLED")
_project = click.option("--project", "project_id", type=int, help="Only this project.")


@click.group()
def sessions() -> None:
    """Runs of agent workflows: inspect, cancel."""


@sessions.command("ls")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only this status.")
@_project
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most this many.")
@client_options
def ls(url: str | None, data: Path | None, output: Format, **filters: Any) -> None:
    """Newest first."""
    from aura.cli.api import Api

    with Api(url, data) as api:
        rows: list[dict[str, Any]] = api.get("/sessions", filters)
    if output == "table":
        rows = [
            {**row, "agents": ", ".join(f"{one['agent']} {one['status']}" for one in row["agents"])} for row in rows
        ]
    show_rows(rows, ("session_id", "project_id", "workflow", "status", "agents", "duration_ms", "started_at"), output)


@sessions.command("show")
@click.argument("session_id")
@_project
@client_options
def show(session_id: str, project_id: int | None, url: str | None, data: Path | None, output: Format) -> None:
    """One session, its agents and its result."""
    from aura.cli.api import Api, segment

    with Api(url, data) as api:
        found: dict[str, Any] = api.get(f"/sessions/{segment(session_id)}", {"project_id": project_id})
    if output != "table":
        show_one(found, output)
        return
    agents = found.pop("agents")
    show_one(found, output)
    click.echo()
    show_rows(agents, ("agent", "status", "duration_ms", "attempt", "message"), output)


@sessions.command("cancel")
@click.argument("session_id")
@_project
@click.option("--reason", default="", help="Why; kept in the log for ever.")
@client_options
def cancel(
    session_id: str, project_id: int | None, reason: str, url: str | None, data: Path | None, output: Format
) -> None:
    """Stop a session, with its job."""
    from aura.cli.api import Api, segment

    body = {"reason": reason} | ({} if project_id is None else {"project_id": project_id})
    with Api(url, data) as api:
        answer = api.post(f"/sessions/{segment(session_id)}/cancel", body)
    tell(f"{session_id}: cancelled")
    if output != "table":
        show_one(answer, output)
