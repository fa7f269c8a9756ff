"""``aura up`` as a process tree: start, crash of anything, drain, no orphan. Components are stand-ins; the servers are real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aura import config, running
from aura.errors import ConfigError
from aura.runtime.children import AURA_COMMAND
from aura.runtime.files import FolderLock
from aura.runtime.logs import last_lines, open_log, turn_over
from aura.runtime.ports import http_status
from tests.support.servers import NatsServer, PostgresServer

STAND_IN = Path(__file__).parent.parent / "support" / "stand_in.py"
CHILDREN = ("nats", "postgres", "gateway", "scheduler", "projector", "worker-w0", "worker-w1")


class Up:
    """A supervisor in a process of its own; its notices are its standard output."""

    def __init__(self, data: Path, env: dict[str, str] | None = None, workers: int = 2) -> None:
        self.data = data
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")} | (env or {})
        self._env["PYTHONPATH"] = str(STAND_IN.parent.parent.parent)
        self._workers = workers
        self.said: list[str] = []
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Return when it says that it is ready, and its workers are up too."""
        await self.spawn()
        await self.until(lambda line: line.startswith("aura ready"))
        async with asyncio.timeout(30):
            while (self.data / "started").read_text().count("worker") < self._workers:
                await asyncio.sleep(0.01)

    async def spawn(self) -> None:
        """Return at once."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, STAND_IN, "up", self.data, "0", str(self._workers)),
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def until(self, wanted: Callable[[str], bool]) -> str:
        """The next line that is ``wanted``."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while line := (await self.process.stdout.readline()).decode():
                self.said.append(line)
                if wanted(line):
                    return line
        raise AssertionError("it ended and said:\n" + "".join(self.said))

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        assert self.process.stdout is not None
        self.said.append((await self.process.stdout.read()).decode())
        return await self.process.wait()

    def state(self) -> dict[str, Any]:
        return json.loads((self.data / "runtime.json").read_text())

    def environment(self, child: str) -> bytes:
        return Path(f"/proc/{self.pid(child)}/environ").read_bytes()

    def pid(self, child: str) -> int:
        return int(self.state()["children"][child]["pid"])


def living(data: Path) -> dict[int, str]:
    """Pid → command line of processes that work on ``data``: by argument, environment or working folder."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            text = command + (entry / "environ").read_bytes() + os.readlink(entry / "cwd").encode()
        except OSError:
            continue
        if str(data).encode() in text and int(entry.name) != os.getpid():
            found[int(entry.name)] = command.decode()
    return found


async def gone(data: Path) -> None:
    """Return when nothing works on ``data``. What dies with its parent is nobody's child: the kernel tells its end."""
    async with asyncio.timeout(20):
        for pid in living(data):
            with contextlib.suppress(ProcessLookupError):
                await _end_of(pid)
    assert living(data) == {}


async def _end_of(pid: int) -> None:
    ended, loop, handle = asyncio.Event(), asyncio.get_running_loop(), os.pidfd_open(pid)
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that a supervisor made and left: to start from nothing takes seconds, and one test does."""
    first = Up(tmp_path_factory.mktemp("used") / "data", workers=0)
    await first.start()
    assert await first.stop() == 0
    (first.data / "started").unlink()
    (first.data / "drained").unlink()
    return first.data


@pytest.fixture
def data(tmp_path: Path, used: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(used, tmp_path / "data"))


@pytest_asyncio.fixture
async def up(data: Path) -> AsyncIterator[Up]:
    started = Up(data)
    await started.start()
    yield started
    await started.stop()
    await gone(data)


async def test_it_starts_everything_and_says_where(up: Up) -> None:
    state = up.state()
    assert set(state["children"]) == set(CHILDREN)
    assert await http_status("127.0.0.1", state["gateway"]["port"], "/ready") == 200
    assert await http_status("127.0.0.1", state["nats"]["monitor_port"], "/healthz") == 200
    for path in (up.data, *up.data.rglob("*")):
        inside_servers = path.is_relative_to(up.data / "postgres" / "data") or path.is_relative_to(
            up.data / "nats" / "store"
        )
        if not inside_servers and not path.is_socket() and path.name != "started":
            assert path.stat().st_mode & 0o077 == 0, path
    text = (up.data / "runtime.json").read_text()
    password = (up.data / "credentials" / "postgres.json").read_text().split('"')[3]
    assert password not in text


async def test_read_models_and_workers_give_way_to_the_path_of_a_job(up: Up) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    gives_way = {child: os.getpriority(os.PRIO_PROCESS, up.pid(child)) - own for child in CHILDREN}
    assert {child for child, less in gives_way.items() if less == 0} == {"nats", "gateway", "scheduler"}
    assert all(gives_way[child] > 0 for child in ("postgres", "projector", "worker-w0", "worker-w1"))


async def test_other_commands_find_it_and_only_while_it_runs(up: Up) -> None:
    plain = config.load({"data_dir": str(up.data)}, env={})
    for component, role in (("admin", "aura_owner"), ("projector", "aura_owner"), ("gateway", "aura_reader")):
        found = config.discover(plain, component)
        assert found.nats_creds == up.data / "credentials" / f"{component}.creds"
        assert f"//{role}:" in found.require_database()
    await up.stop()
    with pytest.raises(ConfigError, match="aura up"):
        config.discover(plain).require_nats()


async def test_a_killed_child_is_started_again_and_nothing_else_is(up: Up) -> None:
    for child in CHILDREN:
        before = up.state()
        os.kill(up.pid(child), signal.SIGKILL)
        await up.until(lambda line, child=child: line.startswith(f"{child} ready started again"))  # type: ignore[misc]
        after = up.state()
        assert after["children"][child]["pid"] != before["children"][child]["pid"]
        before["children"].pop(child)
        after["children"].pop(child)
        assert after == before  # ports and all others


async def test_what_a_killed_worker_started_is_ended(up: Up) -> None:
    def started() -> dict[int, str]:
        return {pid: command for pid, command in living(up.data).items() if command.startswith("sleep")}

    before = started()
    assert len(before) == 2
    os.kill(up.pid("worker-w0"), signal.SIGKILL)
    await up.until(lambda line: line.startswith("worker-w0 ready started again"))
    assert len(before.keys() & started().keys()) == 1


async def test_a_drain_goes_from_the_edge_inwards_and_leaves_nothing(up: Up) -> None:
    assert await up.stop() == 0
    await gone(up.data)
    assert (up.data / "drained").read_text().split() == ["worker", "worker", "gateway", "scheduler", "projector"]
    stopped = [line.split()[0] for line in "".join(up.said).splitlines() if " stopped" in line]
    assert set(stopped[-2:]) == {"nats", "postgres"}
    assert up.state()["supervisor"] is None
    assert up.state()["children"] == {}


async def test_kill_9_of_the_supervisor_takes_all_down_and_the_next_start_recovers(data: Path) -> None:
    first = Up(data, workers=1)
    await first.start()
    ports = {part: first.state()[part] for part in ("nats", "postgres", "gateway")}
    await first.stop(signal.SIGKILL)
    orphans = {pid for pid, command in living(data).items() if command.startswith("sleep")}
    assert len(orphans) == 1
    second = Up(data, workers=0)
    await second.start()  # at once: it does not need the first one's children to be gone already
    assert not living(data).keys() & orphans  # what the killed worker had started is ended too
    assert {part: second.state()[part] for part in ports} == ports
    await second.stop()
    await gone(data)


async def test_what_a_dead_supervisor_left_is_ended_first(data: Path) -> None:
    left = await asyncio.create_subprocess_exec("sleep", "600")
    stranger = await asyncio.create_subprocess_exec("sleep", "600")
    began = running.process_start(left.pid)
    children = {
        "gateway": {"pid": left.pid, "start": began},
        "worker": {"pid": stranger.pid, "start": (began or 0) - 1},
    }
    (data / "runtime.json").write_text(json.dumps({"version": 1, "supervisor": None, "children": children}))
    up = Up(data, workers=0)
    await up.start()
    assert await left.wait() == -signal.SIGKILL
    assert stranger.returncode is None  # a pid that was given to somebody else is left alone
    stranger.kill()
    await stranger.wait()
    await up.stop()


async def test_a_second_supervisor_on_the_folder_is_refused(up: Up) -> None:
    second = Up(up.data)
    with pytest.raises(AssertionError, match="another `aura up` runs"):
        await second.start()
    await second.process.wait()
    assert set(up.state()["children"]) == set(CHILDREN)


async def test_a_component_that_never_stays_up_fails_the_start_with_its_own_words(data: Path) -> None:
    up = Up(data, {"STAND_IN_BROKEN": "scheduler"}, workers=0)
    with pytest.raises(AssertionError, match=r"scheduler does not stay up: .*scheduler cannot work: the reason"):
        await up.start()
    assert "scheduler failing" in "".join(up.said)
    assert await up.process.wait() != 0
    await gone(data)


def test_a_log_is_turned_over_in_place_and_its_end_is_shown_without_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    with open_log(path) as log:
        log.write(b"old\n" * 100)
        assert not turn_over(path, limit=400)
        log.write(b"more\n")
        assert turn_over(path, limit=400)
        log.write("\x1b[31mred\x07\nlast \u00e9\n".encode())  # the writer never noticed
    assert path.read_bytes().startswith(b"\x1b")
    assert (tmp_path / "x.log.1").stat().st_size == 405
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert last_lines(path, 2) == ["\ufffd[31mred\ufffd", "last \u00e9"]
    assert last_lines(tmp_path / "missing.log") == []


async def test_a_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    up = Up(tmp_path / "data")
    await up.spawn()
    await up.until(lambda line: line.startswith("postgres starting"))
    assert await up.stop() == 0
    assert "aura ready" not in "".join(up.said)
    await gone(tmp_path)


async def test_external_servers_are_used_and_not_started(
    tmp_path: Path, fresh_nats: NatsServer, pg_server: PostgresServer
) -> None:
    external = {
        "AURA_NATS_URL": fresh_nats.url,
        "AURA_NATS_CREDS": str(fresh_nats.creds("admin").parent),
        "AURA_DATABASE_URL": pg_server.url(),
    }
    for name in ("gateway", "scheduler", "projector"):
        fresh_nats.creds(name)
    up = Up(tmp_path / "data", external, workers=0)
    await up.start()
    assert set(up.state()["children"]) == {"gateway", "scheduler", "projector"}
    streams = await (await fresh_nats.connect()).jetstream().streams_info()
    assert {stream.config.name for stream in streams} >= {"AURA_LOG", "AURA_OUTPUT"}
    environment = up.environment("gateway")
    assert pg_server.url().encode() not in environment
    assert b"AURA_DATABASE_URL_FILE=" in environment
    assert await up.stop() == 0


async def test_secrets_go_to_children_as_files_and_only_where_needed(data: Path) -> None:
    up = Up(data, {"AURA_DIRECTOR_API_KEY": "s3cret-director-key"}, workers=1)
    await up.start()
    seen = {child: up.environment(child) for child in up.state()["children"]}
    assert not any(b"s3cret-director-key" in text for text in seen.values())
    assert [child for child, text in seen.items() if b"AURA_DIRECTOR_API_KEY_FILE=" in text] == ["gateway"]
    assert b"AURA_DATABASE_URL" not in seen["worker-w0"]
    assert b"worker-w0.creds" in seen["worker-w0"]
    await up.stop()


def test_the_lock_is_let_go_when_its_holder_ends_and_children_do_not_keep_it(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    with pytest.raises(ConfigError):
        FolderLock(tmp_path).acquire()
    lock.release()
    lock.release()
    again = FolderLock(tmp_path)
    again.acquire()
    again.release()


def test_what_is_in_the_working_folder_is_not_our_code(tmp_path: Path) -> None:
    (tmp_path / "aura").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (tmp_path / "aura" / name).write_text("raise SystemExit('somebody else')\n")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [*AURA_COMMAND, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert "somebody else" not in found.stdout + found.stderr
    assert found.returncode == 0
