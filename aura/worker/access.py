"""Where a worker connects and as whom.

In this order: what the caller says; ``AURA_NATS_URL`` and ``AURA_NATS_CREDS``; the ``aura up`` that runs on ``AURA_DATA_DIR`` (default
``./.aura``), whose keys lie beside it, so that a worker started by the same user mints its own credential and a worker's author
configures nothing.

A credential pins the worker's id: its inbox is ``_INBOX_worker.<id>``. Another id with it is refused here, where one can still
say why, and not by a server that only drops messages.

Workers beside an ``aura up`` are named ``<model>-<host>-<n>`` with the first ``n`` that no living process has (a lock beside the
credential says so): names stay readable and credentials do not pile up.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from aura import config
from aura.errors import ConfigError
from aura.ids import IdSource
from aura.log.credentials import inbox_prefix

_OWN_INBOX = "_INBOX_worker."
#: Most workers of one model on one machine that need no names.
_MAX_UNNAMED = 10_000


@dataclass(frozen=True, slots=True)
class Access:
    """A worker's id, server and credentials file (``None``: the server asks for none)."""

    worker_id: str
    url: str
    creds: Path | None


def find_access(model: str, worker_id: str | None, url: str | None, creds: str | None, ids: IdSource) -> Access:
    """See the module docstring. Raises ``ConfigError`` when there is no server or the credential is another worker's."""
    settings = config.load({"nats_url": url, "nats_creds": creds})
    if settings.nats_url is not None:
        named = settings.nats_creds
        if named is not None and named.is_dir():
            named = _in_folder(named, model, worker_id)
        return Access(_identity(named, worker_id, model, ids), settings.nats_url, named)
    server = config.discover(settings, "observer").require_nats()
    if settings.nats_creds is not None:
        return Access(_identity(settings.nats_creds, worker_id, model, ids), server, settings.nats_creds)
    # The composition root of a worker script: the only place where the worker package sees the runtime.
    from aura.runtime.nats_accounts import worker_credentials

    own = worker_id or _free_name(settings.data_dir / "credentials", model)
    return Access(own, server, worker_credentials(settings.data_dir, own, [model]))


def _in_folder(folder: Path, model: str, worker_id: str | None) -> Path:
    name = f"worker-{worker_id or model}.creds"
    if not (folder / name).is_file():
        raise ConfigError(f"AURA_NATS_CREDS={folder} holds no {name}; name the file itself, or another worker id")
    return folder / name


def _identity(creds: Path | None, worker_id: str | None, model: str, ids: IdSource) -> str:
    prefix = inbox_prefix(creds) if creds is not None else ""
    if not prefix.startswith(_OWN_INBOX):
        return worker_id or f"{_base(model)}-{ids.uuid7()[-8:]}"
    pinned = prefix.removeprefix(_OWN_INBOX)
    if worker_id not in (None, pinned):
        raise ConfigError(f"the credentials in {creds} are those of worker {pinned!r}, not {worker_id!r}")
    return pinned


def _base(model: str) -> str:
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:20] or "host"
    return f"{model[:32]}-{host}"


def _free_name(folder: Path, model: str) -> str:
    """The first free name; it stays ours until this process ends (the lock's descriptor is kept open on purpose)."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(1, _MAX_UNNAMED):
        name = f"{_base(model)}-{number}"
        handle = os.open(folder / f".worker-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        return name
    raise ConfigError(f"{_MAX_UNNAMED} workers of {model} run here: give this one a worker id")
