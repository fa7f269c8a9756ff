"""``aura events``."""

from __future__ import annotations

from pathlib import Path

import click

from aura.cli.options import client_options
from aura.cli.output import Format


@click.group()
def events() -> None:
    """Follow the log."""


@events.command("tail")
@click.argument("subject", default="aura.>")
@click.option("--since", type=click.IntRange(min=0), help="Replay what came after this sequence first.")
@click.option("--last", type=click.IntRange(min=1), help="Replay this many events first.")
@click.option("--no-follow", is_flag=True, help="Stop at the end of the log.")
@client_options
def tail(
    subject: str,
    since: int | None,
    last: int | None,
    no_follow: bool,
    url: str | None,
    data: Path | None,
    output: Format,
) -> None:
    """Committed events as they come; SUBJECT takes NATS wildcards, for example 'aura.job.1.>'.

    The live feed resumes by itself where it broke off; nothing is skipped.
    """
    import asyncio

    from aura.cli.options import gateway_url
    from aura.cli.tail import tail_events, tail_stored

    if no_follow:
        tail_stored(gateway_url(url, data), subject, since, last, output)
    else:
        asyncio.run(tail_events(gateway_url(url, data), subject, since, last, output))
