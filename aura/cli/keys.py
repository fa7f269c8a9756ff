"""The key-encryption key of content: a file of 32 random bytes outside every store (DECISIONS.md, content).

Whoever has it and a copy of ``AURA_CONTENT`` can read all content; without it nobody can, ever again. So it is made once, 0600 in a
0700 folder, and only while the content stream is new: a key file that is missing later, or that holds another key than the one
content was written with (``aura/log/key_check.py`` knows), stops the start with what to do. Of two processes that start at once on an
empty folder one makes it and both use it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from aura.clock import Clock
from aura.config import Settings
from aura.errors import ConfigError
from aura.ids import IdSource

if TYPE_CHECKING:
    from aura.log.connection import Connection

KEY_BYTES = 32


def key_file(settings: Settings) -> Path:
    """``AURA_CONTENT_KEY_FILE``, else ``<data_dir>/keys/kek``."""
    return settings.content_key_file or settings.data_dir / "keys" / "kek"


async def content_key(settings: Settings, connection: Connection, clock: Clock, ids: IdSource) -> bytes:
    """The key that content on ``connection``'s stream is encrypted with; made now if that stream is new and there is no file.

    Raises ``ConfigError`` for a file that is missing, unusable or another key's, ``Unavailable``.
    """
    from aura.log.key_check import KeyCheck

    path = key_file(settings)
    check = KeyCheck(connection, clock, ids)
    made = False
    try:
        if not path.exists():
            if not await check.is_new():
                raise ConfigError(
                    f"{path}: the key of stored content is not there. Restore it from a backup, or copy it from the machine that "
                    "runs the other gateway; AURA_CONTENT_KEY_FILE names another place. A new key could read nothing of what is stored"
                )
            made = _make(path, ids)
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise ConfigError(f"{path} must hold {KEY_BYTES} bytes, not {len(key)}; restore it from a backup")
        if not await check.admit(key):
            if made:  # of two machines that started on one new stream the other one's key counts
                path.unlink()
            raise ConfigError(
                f"{path} is not the key that stored content is encrypted with: restore that one from a backup"
            )
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    return key


def _make(path: Path, ids: IdSource) -> bool:
    """Write a new key, whole or not at all; ``False`` when another process was first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(ids.random_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(beside, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(folder)
        os.close(folder)
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    return True
