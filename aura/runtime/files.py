"""Private files: folders 0700, files 0600, replaced whole (written beside, flushed, renamed), and the lock of a data folder."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from aura.errors import ConfigError


def private_folder(path: Path) -> Path:
    """Make ``path`` (and its parents) if needed and close it to everybody else. Raises :class:`ConfigError`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077 and path.stat().st_uid == os.geteuid():
            path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"cannot use the folder {path}: {error.strerror}") from None
    return path


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, 0600: a crash, even of the machine, leaves the old content or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Make renames in ``path`` survive a power loss."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises :class:`ConfigError` naming the file, never quoting it."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not what Aura wrote")
    return found


class FolderLock:
    """The lifetime lock on a data folder: held by one process, let go by the kernel when it ends, however it ends.

    The descriptor is close-on-exec (Python's default, and stated): a child that inherited it would keep the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise :class:`ConfigError` at once when another process has it."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise ConfigError(
                f"another `aura up` runs on {self._path.parent}: stop it, or choose another folder with --data"
            ) from None
        self._handle = handle

    def release(self) -> None:
        """Let go. Safe twice."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
