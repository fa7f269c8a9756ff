"""``aura doctor``: one line per check; what fails says how to mend it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from aura.cli.options import data_option, output_option, url_option
from aura.cli.output import Format, safe, show_rows

_MARKS = {"ok": ("✔", "green"), "warn": ("!", "yellow"), "fail": ("✘", "red")}


@click.command()
@url_option
@data_option
@output_option
def doctor(url: str | None, data: Path | None, output: Format) -> int:
    """Find what is wrong and how to mend it. Exit code 1 when something has to be mended."""
    from dataclasses import asdict

    from aura import config
    from aura.cli.checkup import checkup
    from aura.cli.logs import configure_logging
    from aura.cli.options import gateway_url

    configure_logging(level="error")
    settings = config.load({"data_dir": data})
    findings = asyncio.run(checkup(settings, gateway_url(url, data)))
    if output == "table":
        for finding in findings:
            mark, colour = _MARKS[finding.state]
            click.echo(f"{click.style(mark, fg=colour)} {finding.check:<14} {safe(finding.found)}")
            if finding.mend:
                click.echo(f"  {'':<14} → {safe(finding.mend)}")
    else:
        show_rows([asdict(finding) for finding in findings], (), output)
    return 1 if any(finding.state == "fail" for finding in findings) else 0
