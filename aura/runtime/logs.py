"""The children's log files: they write to them directly (append mode), we only keep them from growing for ever.

A file over the limit is copied to ``<name>.1`` (replacing the older copy) and emptied in place, since the child holds it open;
lines written between the two steps can be lost. So a child's logs take at most about twice the limit.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

#: Bytes of one log file before it is turned over.
LIMIT = 8 * 1024 * 1024


def open_log(path: Path) -> BinaryIO:
    """The log for a child that is about to start: append, 0600, turned over first when it is too long."""
    turn_over(path)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab", buffering=0)


def turn_over(path: Path, limit: int = LIMIT) -> bool:
    """Move what is in ``path`` to ``<path>.1`` if it is over ``limit`` bytes; says whether it was."""
    if not path.exists() or path.stat().st_size <= limit:
        return False
    older = path.with_name(path.name + ".1")
    shutil.copyfile(path, older)
    older.chmod(0o600)
    os.truncate(path, 0)
    return True


def last_lines(path: Path, count: int = 10) -> list[str]:
    """The last lines of a log (at most 16 KiB of it), without control characters, for a person to read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = text.splitlines()[-count:]
    return [
        "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in line)
        for line in lines
    ]
