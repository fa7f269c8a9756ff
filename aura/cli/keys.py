"""The key-encryption key of content: a file of 32 random bytes outside every store (DECISIONS.md, content).

Whoever has it and a copy of ``AURA_CONTENT`` can read all content; without it nobody can, ever again. It is made once, 0600 in a
0700 folder, and never replaced: of two processes that start at once on an empty folder one makes it and both use it.
"""

from __future__ import annotations

import os
from pathlib import Path

from aura.errors import ConfigError
from aura.ids import IdSource

KEY_BYTES = 32


def content_key(data_dir: Path, ids: IdSource) -> bytes:
    """The key in ``<data_dir>/keys/kek``, made now if there is none. Raises ``ConfigError`` for one that cannot be used."""
    path = data_dir / "keys" / "kek"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make(path, ids)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} must hold {KEY_BYTES} bytes, not {len(key)}; restore it from a backup")
    return key


def _make(path: Path, ids: IdSource) -> None:
    beside = path.with_name(f".kek.{os.getpid()}")
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
        pass  # another process was first
    finally:
        beside.unlink()
