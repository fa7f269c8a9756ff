"""The embedded Postgres: roles, ways to run it, crashes, and what must never be seen of its passwords."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psycopg
import pytest

from aura.errors import ConfigError
from aura.runtime import postgres_user
from aura.runtime.embedded_postgres import EmbeddedPostgres
from aura.runtime.postgres_cluster import OWNER, READER, SUPERUSER, leftovers
from tests.support.servers import Database, PostgresServer

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="how root runs Postgres")


def server(folder: Path, how: str | None = None) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder / "postgres", folder / "credentials", folder / "logs" / "postgres.log", run_as=how)


def one(url: str, statement: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


async def test_the_reader_sees_what_the_owner_makes_and_changes_nothing(database: Database) -> None:
    with psycopg.connect(database.owner_url) as connection:
        connection.execute("CREATE SCHEMA s")
        connection.execute("CREATE TABLE s.t AS SELECT generate_series(1, 5) AS x")
        connection.execute("CREATE VIEW s.v AS SELECT sum(x) AS total FROM s.t")
    assert one(database.reader_url, "SELECT total FROM s.v") == 15
    for attempt in (
        "INSERT INTO s.t VALUES (6)",
        "SET default_transaction_read_only = off; INSERT INTO s.t VALUES (6)",
        "SET default_transaction_read_only = off; DROP TABLE s.t",
        "SET default_transaction_read_only = off; CREATE TABLE public.mine ()",
        "SET default_transaction_read_only = off; CREATE SCHEMA mine",
    ):
        with psycopg.connect(database.reader_url, autocommit=True) as connection, pytest.raises(psycopg.Error):
            connection.execute(attempt.encode())
    assert one(database.reader_url, "SELECT total FROM s.v") == 15


async def test_a_wrong_password_is_refused_on_tcp_and_on_the_socket(tmp_path: Path) -> None:
    postgres = server(tmp_path)
    await postgres.start()
    try:
        for host in ("127.0.0.1", str(postgres.socket_folder)):
            for password in ("wrong", ""):
                with pytest.raises(psycopg.OperationalError):
                    psycopg.connect(host=host, port=postgres.port, user=SUPERUSER, password=password, dbname="aura")
    finally:
        await postgres.stop()


@AS_ROOT
@pytest.mark.parametrize("how", ["namespace", "setuid"])
async def test_root_runs_it_either_way_and_it_keeps_its_data(tmp_path: Path, how: str) -> None:
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)  # pytest closes them, as some people close their homes
    data = tmp_path / "data"
    postgres = server(data, how)
    await postgres.start()
    assert postgres.how == how
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    owner = (data / "postgres" / "data").stat().st_uid
    assert (owner == 0) == (how == "namespace")
    await postgres.stop()
    again = server(data)  # nobody says how: the data's owner decides
    await again.start()
    assert (again.how, one(again.url(READER), "SELECT x FROM kept")) == (how, 42)
    await again.stop()


@AS_ROOT
async def test_a_closed_home_is_refused_with_advice_and_stays_closed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="choose another data folder"):
        await server(home / "data", "setuid").start()
    assert home.stat().st_mode & 0o777 == 0o700


@AS_ROOT
async def test_binaries_in_a_closed_place_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    installed = postgres_user.binaries()
    (closed / "site").symlink_to(installed.parent.parent)
    monkeypatch.setattr(postgres_user, "binaries", lambda: closed / "site" / "embedded_postgres" / "pginstall")
    postgres = server(tmp_path / "data", "setuid")
    await postgres.start()
    assert Path(os.readlink(f"/proc/{postgres.child.pid}/exe")).is_relative_to(tmp_path / "data")  # type: ignore[union-attr]
    await postgres.stop()


async def test_g1_a_killed_postmaster_leaves_nothing_and_recovers_on_its_port(tmp_path: Path) -> None:
    postgres = server(tmp_path)
    await postgres.start()
    port = postgres.port
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    assert postgres.child is not None
    postgres.child.signal(signal.SIGKILL)
    await postgres.child.wait()
    await postgres.start()
    assert postgres.port == port
    assert one(postgres.url(), "SELECT x FROM kept") == 42
    await postgres.stop()
    assert leftovers(postgres.data) == []


async def test_a_stale_pid_file_that_names_a_living_stranger_does_not_stop_it(tmp_path: Path) -> None:
    postgres = server(tmp_path)
    await postgres.start()
    await postgres.stop()
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        pid_file = postgres.data / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n{postgres.data}\n0\n{postgres.port}\n\n127.0.0.1\n\nready\n")
        await postgres.start()
        assert stranger.returncode is None
        await postgres.stop()
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_start_that_was_killed_half_way_is_begun_anew(tmp_path: Path) -> None:
    half = tmp_path / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18")
    postgres = server(tmp_path)
    await postgres.start()
    assert one(postgres.url(), "SELECT 1") == 1
    assert not half.exists()
    await postgres.stop()


async def test_a_path_too_long_for_a_socket_means_tcp_only(tmp_path: Path) -> None:
    postgres = server(tmp_path / ("d" * 100))
    await postgres.start()
    assert postgres.socket_folder is None
    assert one(postgres.url(), "SELECT 1") == 1
    await postgres.stop()


async def test_passwords_are_in_no_argument_environment_log_or_data_file(tmp_path: Path) -> None:
    postgres = server(tmp_path)
    await postgres.start()
    assert postgres.child is not None
    proc = Path(f"/proc/{postgres.child.pid}")
    seen = [(proc / "cmdline").read_bytes(), (proc / "environ").read_bytes()]
    with pytest.raises(psycopg.Error):
        one(postgres.url(), "SELECT 1 / 0 AS a_failed_statement")
    await postgres.stop()
    seen += [path.read_bytes() for path in (tmp_path / "postgres").rglob("*") if path.is_file()]
    seen += [path.read_bytes() for path in (tmp_path / "logs").iterdir()]
    for role in (OWNER, READER, SUPERUSER):
        password = postgres.url(role).split(":")[2].split("@")[0].encode()
        assert len(password) == 48
        assert not any(password in text for text in seen)
    assert not any(b"a_failed_statement" in text for text in seen[2:])
    for path in (tmp_path / "credentials").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


async def test_a_template_makes_databases_apart(pg_server: PostgresServer, database: Database) -> None:
    other = await pg_server.create_database()
    with psycopg.connect(database.owner_url) as connection:
        connection.execute("CREATE TABLE only_here ()")
    with pytest.raises(psycopg.errors.UndefinedTable):
        one(other.owner_url, "SELECT count(*) FROM only_here")
    await pg_server.drop_database(other.name)


async def test_the_projections_frame_is_there(read_models: Database) -> None:
    assert one(read_models.reader_url, "SELECT count(*) FROM aura.projections") == 0
