"""``aura env``: variables for other programs."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from aura.cli.options import data_option, gateway_url


@click.command()
@click.option(
    "--as", "component", default="observer", show_default=True, help="Whose NATS credential (observer, admin)."
)
@data_option
def env(component: str, data: Path | None) -> None:
    """Print variables for the nats CLI and curl.

    \b
    eval "$(aura env)"
    nats sub 'aura.job.>'
    curl -s "$AURA_URL/jobs"
    """
    from aura import config

    settings = config.discover(config.load({"data_dir": data}), component)
    variables = {"AURA_URL": gateway_url(None, data), "NATS_URL": settings.require_nats()}
    if settings.nats_creds is not None:
        variables["NATS_CREDS"] = str(settings.nats_creds)
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")
