"""A Postgres data folder: made whole or not at all, with two roles and one database, and cleared of what a crash left.

Making it: initdb into a folder beside, roles and database in single-user mode (no server, so no moment at which it could be
reached with less than its final access rules), then one rename. Passwords reach Postgres only as SCRAM verifiers, computed here: the
password itself is in no file, log or argument list of Postgres.

Roles: ``aura_owner`` (owns the database ``aura``; migrations and projections), ``aura_reader`` (may read what the owner makes, also
what it makes later), ``postgres`` (superuser; repair and tests).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from aura.errors import ConfigError, Unavailable
from aura.ids import IdSource
from aura.runtime.files import flush_folder, private_folder, read_json, write_private
from aura.runtime.logs import last_lines
from aura.runtime.postgres_user import RunAs, give
from aura.runtime.process import Program, start

DATABASE = "aura"
OWNER, READER, SUPERUSER = "aura_owner", "aura_reader", "postgres"
_SCRAM_ROUNDS = 4096
_INIT_S = 120.0
_GONE_TRIES, _GONE_PAUSE_S = 1000, 0.01
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
#: Everybody shows a password, on the socket too. Nobody comes from another machine.
_HBA = """\
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
"""


def scram_verifier(password: str, salt: bytes) -> str:
    """RFC 5803 verifier of an ASCII password, as Postgres stores it."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _SCRAM_ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    b64 = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_SCRAM_ROUNDS}:{b64[0]}${b64[1]}:{b64[2]}"


def passwords(credentials: Path, ids: IdSource) -> Mapping[str, str]:
    """Role → password, made once and kept in ``credentials/postgres.json`` (0600)."""
    path = private_folder(credentials) / "postgres.json"
    if not path.exists():
        write_private(path, json.dumps({role: ids.random_bytes(24).hex() for role in (OWNER, READER, SUPERUSER)}))
    found = read_json(path)
    if not {OWNER, READER, SUPERUSER} <= found.keys():
        raise ConfigError(f"{path} lacks a role: restore it from a backup")
    return found


def bootstrap_sql(secrets: Mapping[str, str], ids: IdSource) -> str:
    """One statement a line, for ``postgres --single`` on ``template1``; databases made later inherit the default privileges."""
    verifier = {role: scram_verifier(password, ids.random_bytes(16)) for role, password in secrets.items()}
    granted = f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT"
    return "\n".join(
        [
            f"ALTER ROLE {SUPERUSER} PASSWORD '{verifier[SUPERUSER]}';",
            f"CREATE ROLE {OWNER} LOGIN PASSWORD '{verifier[OWNER]}';",
            f"CREATE ROLE {READER} LOGIN PASSWORD '{verifier[READER]}';",
            f"ALTER ROLE {READER} SET default_transaction_read_only = on;",
            f"{granted} USAGE ON SCHEMAS TO {READER};",
            f"{granted} SELECT ON TABLES TO {READER};",
            f"{granted} SELECT ON SEQUENCES TO {READER};",
            f"CREATE DATABASE {DATABASE} OWNER {OWNER};",
            f"REVOKE TEMPORARY ON DATABASE {DATABASE} FROM PUBLIC;",
            "",
        ]
    )


async def create(
    data: Path,
    programs: Path,
    run_as: RunAs,
    secrets: Mapping[str, str],
    log: Path,
    *,
    ids: IdSource,
    durable: bool = True,
) -> None:
    """Make the cluster in ``data``; nothing is there before it is complete. Raises :class:`Unavailable`."""
    fresh = data.with_name(data.name + ".new")
    if fresh.exists():  # from a start that was killed half-way
        await asyncio.to_thread(shutil.rmtree, fresh)
    fresh.mkdir(mode=0o700)
    give(fresh, run_as)
    initdb: list[str | Path] = [
        *(programs / "bin" / "initdb", "--pgdata", fresh, "--username", SUPERUSER),
        *("--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
        *("--auth", "reject", "--no-instructions", "--no-sync"),
        *("--set", "shared_buffers=16MB", "--set", "max_connections=20"),
    ]
    await _run("initdb", initdb, log, run_as)
    sql = bootstrap_sql(secrets, ids).encode()
    single: list[str | Path] = [programs / "bin" / "postgres", "--single", "-F", "-D", fresh, "template1"]
    await _run("postgres --single", single, log, run_as, sql)
    hba = fresh / "pg_hba.conf"
    hba.write_text(_HBA, "ascii")
    if durable:
        flush: list[str | Path] = [programs / "bin" / "initdb", "--pgdata", fresh, "--sync-only"]
        await _run("initdb --sync-only", flush, log, run_as)
    fresh.rename(data)
    flush_folder(data.parent)


async def _run(name: str, args: Sequence[str | Path], log: Path, run_as: RunAs, stdin: bytes = b"") -> None:
    child = start(Program(name, args, log, ENVIRONMENT, become=run_as.become, stdin=stdin))
    try:
        async with asyncio.timeout(_INIT_S):
            status = await child.wait()
    except TimeoutError:
        status = await child.stop()
    except asyncio.CancelledError:
        await child.stop()
        raise
    if status != 0:
        said = " | ".join(last_lines(log, 4))
        raise Unavailable(f"{name} ended with status {status}: {said}")


def leftovers(data: Path) -> list[int]:
    """Processes that still work in a data folder (Postgres's working folder is its data folder)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")) == data.resolve():
                found.append(int(entry.name))
        except OSError:  # gone, or not ours
            continue
    return found


async def clear_crash(data: Path, sockets: Path) -> None:
    """After a crash: end what is left of the old server, then remove its pid and lock files.

    Only for the holder of the data folder's lock. Postgres itself refuses to start when the number in ``postmaster.pid`` has
    been given to any other process; we know better, since we look at what the processes are. Raises :class:`Unavailable`.
    """
    pid_file = data / "postmaster.pid"
    if _exists(pid_file):
        for _ in range(_GONE_TRIES):
            left = leftovers(data)
            if not left:
                break
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            await asyncio.sleep(_GONE_PAUSE_S)
        else:
            raise Unavailable(f"processes of an earlier Postgres on {data} do not end")
    for path in (pid_file, *_socket_files(sockets)):
        path.unlink(missing_ok=True)


def _exists(path: Path) -> bool:
    return path.exists()


def _socket_files(sockets: Path) -> list[Path]:
    return list(sockets.glob(".s.PGSQL.*")) if sockets.is_dir() else []
