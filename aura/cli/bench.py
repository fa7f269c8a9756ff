"""``aura bench``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from aura.errors import ConfigError


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def bench(args: tuple[str, ...]) -> None:
    """Measure this machine against the targets.

    The same as `make bench`, with its arguments: --quick, names of scenarios, --json FILE.
    """
    checkout = Path(__file__).parents[2]
    if not (checkout / "bench" / "__main__.py").exists():
        raise ConfigError(
            "the benchmarks are in the source checkout, not in the installed package: run `make bench` there"
        )
    sys.exit(subprocess.call([sys.executable, "-m", "bench", *args], cwd=checkout))  # noqa: S603 - our own program
