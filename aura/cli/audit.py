"""``aura audit``."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import click

from aura.cli.options import data_option


@click.group()
def audit() -> None:
    """Replay the log."""


@audit.command("replay")
@click.option("--from", "from_", metavar="SEQ|TIME", help="Begin here: a sequence, or an RFC 3339 time.")
@click.option("--to", metavar="SEQ|TIME", help="End here (inclusive).")
@click.option("--subject", help="Only these subjects (NATS wildcards).")
@click.option(
    "--speed", type=click.FloatRange(min=0, min_open=True), help="1 keeps the original pauses; without it, at once."
)
@data_option
def replay(from_: str | None, to: str | None, subject: str | None, speed: float | None, data: Path | None) -> None:
    """Write any window of the log as JSON lines, the exact stored bytes with the sequence put first."""
    from aura import config
    from aura.cli import compose, direct
    from aura.cli.logs import configure_logging

    configure_logging(level="warning")
    settings = config.discover(config.load({"data_dir": data}), "admin")
    start, end = _place(from_, "--from"), _place(to, "--to")
    if isinstance(start, int) and isinstance(end, int) and start > end:
        raise click.UsageError(f"--from {start} lies after --to {end}")

    async def main() -> None:
        async for line in direct.replay(compose.world(settings), start, end, subject=subject, speed=speed):
            click.echo(line, nl=False)

    asyncio.run(main())


def _place(text: str | None, option: str) -> int | datetime | None:
    """A sequence or an instant."""
    from aura.clock import parse_rfc3339

    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is neither a sequence nor an RFC 3339 time ({error})", param_hint=option
        ) from None
