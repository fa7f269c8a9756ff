"""``aura models``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aura.cli.options import client_options
from aura.cli.output import Format, show_one, show_rows


@click.group()
def models() -> None:
    """See models and their workers."""


@models.command("ls")
@client_options
def ls(url: str | None, data: Path | None, output: Format) -> None:
    """Models seen in the last five minutes."""
    from aura.cli.api import Api

    with Api(url, data) as api:
        rows: list[dict[str, Any]] = api.get("/models/health")
    show_rows(rows, ("model_name", "status", "slots", "workers", "reported_at", "payload"), output)


@models.command("show")
@click.argument("model")
@client_options
def show(model: str, url: str | None, data: Path | None, output: Format) -> None:
    """One model and its recent reports."""
    from aura.cli.api import Api, segment

    with Api(url, data) as api:
        show_one(api.get(f"/models/{segment(model)}/health"), output)
