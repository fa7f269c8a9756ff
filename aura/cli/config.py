"""``aura config``: the table of settings."""

from __future__ import annotations

from pathlib import Path

import click

from aura.cli.options import data_option, output_option
from aura.cli.output import Format, show_rows


@click.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A settings file (default ./aura.toml).",
)
@data_option
@output_option
def config(config_file: Path | None, data: Path | None, output: Format) -> None:
    """Show every setting and where it comes from. Secrets are masked.

    Flag beats environment (AURA_…, or AURA_…_FILE for secrets) beats file beats default.
    """
    from dataclasses import asdict

    from aura import config as settings

    found = settings.discover(settings.load({"data_dir": data}, config_file=config_file), "admin")
    show_rows([asdict(row) for row in settings.rows(found)], ("env", "value", "source", "description"), output)
