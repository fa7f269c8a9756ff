"""``aura version``."""

from __future__ import annotations

import click


@click.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        click.echo(f"aura {installed('aura-orchestra')}")
    except PackageNotFoundError:
        click.echo("aura (from a checkout, not installed)")
