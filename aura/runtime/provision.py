"""What has to be made once, in a process of its own: ``python -m aura.runtime.provision accounts|topology …``.

The supervisor lives as long as the system and should stay small; keys need ``cryptography`` and streams need ``nats``, 25 MB that
would stay. So it runs this, which ends. Nothing secret is in the arguments or printed; exit status 0 done, 1 unavailable, 2
refused configuration, with one line on stderr.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from aura.config import masked
from aura.errors import AuraError, ConfigError
from aura.runtime.files import private_folder, write_private
from aura.runtime.permissions import STREAMS, fingerprint

#: In ``credentials/``: for what the files beside it were made.
MINTED = "minted"


def wanted(workers: dict[str, list[str]]) -> str:
    """The content of :data:`MINTED` when everything is as this version makes it; ``workers`` is worker id → models."""
    return json.dumps({"permissions": fingerprint(), "workers": workers}, sort_keys=True)


def is_minted(data_dir: Path, workers: dict[str, list[str]]) -> bool:
    """Whether :func:`accounts` has nothing to do."""
    try:
        found = (data_dir / "credentials" / MINTED).read_text("utf-8")
    except OSError:
        return False
    return found == wanted(workers) and (data_dir / "nats" / "accounts.conf").is_file()


def has_topology(data_dir: Path, nats_url: str | None) -> bool:
    """Whether the streams were made by an earlier start on this store (or on this external server)."""
    try:
        return (data_dir / "nats" / "streams-made").read_text("utf-8") == _server(nats_url)
    except OSError:
        return False


def note_topology(data_dir: Path, nats_url: str | None) -> None:
    """Remember it beside the store, so that it goes when the store goes."""
    write_private(private_folder(data_dir / "nats") / "streams-made", _server(nats_url))


def _server(nats_url: str | None) -> str:
    """The server and the streams that this version makes there: a later version that needs another one makes it."""
    return f"{masked(nats_url) if nats_url else 'embedded'} {','.join(STREAMS)}"


def accounts(data_dir: Path, workers: dict[str, list[str]]) -> None:
    """Make the keys (once), ``nats/accounts.conf``, and the credentials of all components and of the workers named."""
    from aura.runtime.nats_accounts import NatsAccounts, worker_credentials

    keys = NatsAccounts.open(data_dir / "nats")
    write_private(data_dir / "nats" / "accounts.conf", keys.server_config())
    keys.write_component_creds(data_dir / "credentials")
    for worker_id, models in workers.items():
        worker_credentials(data_dir, worker_id, models)
    write_private(data_dir / "credentials" / MINTED, wanted(workers))


async def topology() -> None:
    """Make sure the streams exist on the server of ``AURA_NATS_URL``; says on stdout what was made and what differs."""
    from aura import config
    from aura.clock import SystemClock
    from aura.ids import SystemIds
    from aura.log.connection import connect
    from aura.log.topology import ensure, replicas

    settings = config.load()
    connection = await connect(
        settings.require_nats(), settings.creds_of("admin"), "aura-topology", connect_timeout_s=30
    )
    try:
        copies = replicas(connection, settings.replicas)
        report = await ensure(connection, SystemClock(), SystemIds(), replicas=copies)
    finally:
        await connection.close()
    sys.stdout.write(
        f"epoch {report.epoch}; created {report.created or 'nothing'}; {len(report.drift)} settings differ\n"
    )


def main(args: list[str]) -> int:
    """Run one step; see the module docstring."""
    try:
        if args[0] == "accounts":
            accounts(Path(args[1]), json.loads(args[2]))
        else:
            asyncio.run(topology())
    except AuraError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 2 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
