"""``aura projections``: status over HTTP; rebuild and verify work on the log and Postgres directly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aura.cli.main import tell
from aura.cli.options import client_options, data_option, output_option
from aura.cli.output import Format, show_rows

if TYPE_CHECKING:
    from aura.projections.rebuild import Rebuilt

_COLUMNS = ("name", "version", "seq", "lag_events", "lag_s", "verified_seq", "quarantined")
NAMES = ("jobs", "timeline", "models", "archives", "sessions", "health")


@click.group()
def projections() -> None:
    """Read models: status, rebuild, verify."""


@projections.command("status")
@client_options
def status(url: str | None, data: Path | None, output: Format) -> None:
    """How far each read model is behind the log."""
    from aura.cli.api import Api

    with Api(url, data) as api:
        rows: list[dict[str, Any]] = api.get("/projections")
    show_rows(rows, _COLUMNS, output)


@projections.command("rebuild")
@click.argument("name", type=click.Choice(NAMES))
@data_option
@output_option
def rebuild(name: str, data: Path | None, output: Format) -> None:
    """Build a read model anew beside the live one, compare, then switch. The API keeps serving."""
    show_rows([_row(_run(name, data, switch=True))], _RESULT, output)


@projections.command("verify")
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@data_option
@output_option
def verify(names: tuple[str, ...], data: Path | None, output: Format) -> int:
    """Prove that live = rebuilt: build anew, compare row by row, drop. Exit code 1 when rows differ."""
    results = [_run(name, data, switch=False) for name in names or NAMES]
    show_rows([_row(result) for result in results], _RESULT, output)
    return 1 if any(result.differences for result in results) else 0


_RESULT = ("projection", "version", "seq", "rows", "differences", "compared", "switched")


def _row(result: Rebuilt) -> dict[str, Any]:
    from dataclasses import asdict

    for difference in result.examples:
        tell(f"{result.projection}: {difference}")
    return asdict(result)


def _run(name: str, data: Path | None, *, switch: bool) -> Rebuilt:
    import asyncio

    from aura import config
    from aura.cli import compose, direct
    from aura.cli.logs import configure_logging
    from aura.cli.progress import progress

    configure_logging(level="warning")
    settings = config.discover(config.load({"data_dir": data}), "projector")
    settings.require_database()
    with progress(f"{'rebuild' if switch else 'verify'} {name}") as advance:
        return asyncio.run(direct.rebuild(compose.world(settings), name, switch=switch, progress=advance))
