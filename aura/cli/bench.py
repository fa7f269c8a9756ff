"""``aura bench``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from aura.errors import ConfigError


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def bench(args: tuple[str, ...]) -> None:
    """Measure this machine against the targets: as `make bench`, with its arguments (--quick, scenario names, --json FILE)."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "bench" / "__main__.py").exists():
        raise ConfigError(
            "the benchmarks are in the source checkout, not in the installed package: clone it and run `make bench`"
        )
    os.chdir(checkout)
    os.execv(sys.executable, [sys.executable, "-m", "bench", *args])  # noqa: S606 - our own program
