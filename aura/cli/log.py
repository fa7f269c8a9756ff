"""``aura log``: the log itself. ``accept`` is the way out of ``LogRegression``, and a person's decision (GUARANTEES G5)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aura.cli.main import tell
from aura.cli.options import data_option
from aura.errors import ConfigError

if TYPE_CHECKING:
    from aura.config import Settings
    from aura.log.store import LogIdentity

#: What has to be typed.
WORD = "accept"
_CREDENTIAL_S = 300


@click.group()
def log() -> None:
    """The log itself."""


@log.command("accept")
@click.option("--new-epoch", is_flag=True, required=True, help="Say that the log as it is now is the right one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_option
def accept(new_epoch: bool, yes: bool, data: Path | None) -> None:
    """Accept the log as it is now, after it was cut short, replaced or restored from a backup.

    Until then everything that knew it otherwise stands still (LogRegression). Afterwards read models are rebuilt from it, the
    scheduler starts over and clients are told to. What the log no longer holds is gone for good: look for a better copy first.

    Needs the keys in the data folder of `aura up`, or AURA_NATS_CREDS with a user that may update the stream AURA_LOG.
    """
    from aura import config
    from aura.cli.logs import configure_logging

    del new_epoch  # required: it is what is being said
    configure_logging(level="warning")
    settings = config.discover(config.load({"data_dir": data}), "admin")
    settings.require_nats()
    with _credential(settings) as creds:
        asyncio.run(_accept(settings, creds, ask=not yes))


async def _accept(settings: Settings, creds: Path | None, *, ask: bool) -> None:
    from aura.clock import SystemClock
    from aura.ids import SystemIds
    from aura.log.connection import connect
    from aura.log.jetstream import JetStreamEventStore
    from aura.log.topology import accept_new_epoch

    clock, ids = SystemClock(), SystemIds()
    connection = await connect(settings.require_nats(), creds, "aura-log-accept", ids=ids)
    try:
        before = await JetStreamEventStore(connection, clock, ids).identity()
        if ask:
            await asyncio.to_thread(_confirm, before)
        epoch = await accept_new_epoch(connection, clock, ids)
    finally:
        await connection.close()
    tell(f"accepted at sequence {before.last_seq}; read models are rebuilt, processes and clients start over")
    click.echo(epoch)


def _confirm(found: LogIdentity) -> None:
    tell(f"The log holds sequences {found.first_seq} to {found.last_seq}, epoch {found.epoch}.")
    tell("Accepting it makes this the truth. Events that other copies hold beyond it are not part of it any more.")
    if click.prompt(f"Type {WORD!r} to accept it", err=True, default="", show_default=False).strip() != WORD:
        raise click.Abort


@contextmanager
def _credential(settings: Settings) -> Iterator[Path | None]:
    """The one that was named, else one made for this and good for five minutes: no component may do this."""
    keys = settings.data_dir / "nats" / "keys.json"
    if settings.sources.get("nats_creds") in ("env", "file", "flag"):
        yield settings.nats_creds
    elif keys.is_file():
        from aura.runtime import permissions
        from aura.runtime.files import write_private
        from aura.runtime.nats_accounts import NatsAccounts

        user = NatsAccounts.open(keys.parent).user(
            permissions.ACCEPT_USER, permissions.accept_epoch(), permissions.CORE, expires_s=_CREDENTIAL_S
        )
        with tempfile.TemporaryDirectory(dir=keys.parent, prefix=".accept-") as folder:
            path = Path(folder) / "user.creds"
            write_private(path, user.text())
            yield path
    elif settings.sources.get("nats_url") in ("env", "file", "flag"):
        yield None  # a server without accounts
    else:
        raise ConfigError(f"{keys} is missing: name the data folder with --data, or a credential with AURA_NATS_CREDS")
