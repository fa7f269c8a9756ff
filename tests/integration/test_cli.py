"""``aura up`` and the commands beside it, as a user types them. One system for the whole module: a start takes seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


class System:
    """A running ``aura up`` and how to run commands beside it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
        self.env |= {"AURA_DATA_DIR": str(data), "PYTHONPATH": str(ROOT), "AURA_ROLE_MODELS": "Shell=shell"}

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "aura", *args]
        return subprocess.Popen(command, env=self.env, cwd=self.data.parent, text=True, **options)

    def run(self, *args: str, expect: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aura", *args]
        done = subprocess.run(
            command,
            env=self.env,
            cwd=self.data.parent,
            text=True,
            capture_output=True,
            input=stdin,
            timeout=60,
            check=False,
        )
        assert done.returncode == expect, (done.args, done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *args: str) -> Any:
        return json.loads(self.run(*args, "-o", "json").stdout)


def ready(process: subprocess.Popen[str], sign: str) -> None:
    """Read stderr until a line says so."""
    assert process.stderr is not None
    for line in process.stderr:
        if sign in line:
            return
    raise AssertionError(f"ended before it said {sign!r}")


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return process.returncode


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("up") / "data")
    up = running.start("up", "--port", "0", stderr=subprocess.PIPE)
    ready(up, "Aura is ready")
    worker = running.start(
        "worker",
        "command",
        "--model",
        "shell",
        "--allow",
        "echo",
        "--allow",
        "sleep",
        "--slots",
        "2",
        stderr=subprocess.PIPE,
    )
    ready(worker, "worker.ready")
    yield running
    assert ended(worker) == 0
    assert ended(up) == 0


def submit(system: System, *argv: str, expect: int = 0, options: tuple[str, ...] = ("--watch",)) -> Any:
    task = {"role": "Shell", "name": "it", "payload": {"argv": list(argv), "retry": False}}
    prd = json.dumps({"title": "try", "tasks": [task]})
    return system.run("submit", "-", *options, expect=expect, stdin=prd)


def test_submit_and_watch_to_the_end(system: System) -> None:
    done = submit(system, "echo", "hello there")
    assert "it | hello there" in done.stdout
    assert "it: COMPLETED" in done.stderr
    [newest] = system.json("jobs", "ls", "--limit", "1")
    assert newest["status"] == "COMPLETED"
    assert system.run("jobs", "output", newest["id"]).stdout == "hello there\n"
    assert system.json("jobs", "show", newest["id"])["assigned_model"] == "shell"
    assert system.json("jobs", "explain", newest["id"])["reasons"][0]["code"] == "ended"
    assert system.run("jobs", "watch", newest["id"]).stdout == "hello there\n"
    system.run("jobs", "retry", newest["id"], expect=4)
    system.run("archives", "show", newest["id"])
    system.run("archives", "hold", newest["id"], "--reason", "a dispute")
    assert system.json("archives", "show", newest["id"])["held"] is True
    system.run("archives", "release", newest["id"])
    system.run("archives", "purge", newest["id"], "--yes", expect=2)  # no director's key


def test_a_failed_job_makes_watch_exit_1(system: System) -> None:
    done = submit(system, "sleep", "not a number", expect=1)
    assert "FAILED exit_1" in done.stderr


def test_cancel_stops_a_running_program(system: System) -> None:
    submit(system, "sleep", "600", options=())
    [newest] = system.json("jobs", "ls", "--limit", "1")
    watching = system.start("jobs", "watch", newest["id"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    ready(watching, "job.claimed")
    system.run("jobs", "cancel", newest["id"], "--reason", "enough")
    watching.communicate(timeout=30)
    assert watching.returncode == 1


def test_the_same_key_submits_once(system: System) -> None:
    first = submit(system, "echo", "once", options=("--key", "k1", "-o", "json"))
    again = submit(system, "echo", "once", options=("--key", "k1", "-o", "json"))
    assert json.loads(first.stdout) == json.loads(again.stdout)
    submit(system, "echo", "twice", options=("--key", "k1"), expect=4)


def test_unknown_and_malformed_ids(system: System) -> None:
    system.run("jobs", "show", "0199c000-0000-7000-8000-00000000ffff", expect=3)
    system.run("jobs", "show", "../../etc/passwd", expect=2)
    system.run("jobs", "cancel", "0199c000-0000-7000-8000-00000000ffff", expect=3)


def test_the_log_is_followed_and_replayed(system: System) -> None:
    submit(system, "echo", "event")
    tailed = system.run("events", "tail", "aura.job.>", "--no-follow", "-o", "jsonl").stdout.splitlines()
    replayed = system.run("audit", "replay", "--subject", "aura.job.>").stdout.splitlines()
    assert [json.loads(line) for line in tailed] == [json.loads(line) for line in replayed]
    assert {"job.created", "job.completed"} <= {json.loads(line)["type"] for line in tailed}


def test_read_models_are_verified_and_rebuilt_g4(system: System) -> None:
    submit(system, "echo", "projected")
    assert {row["lag_events"] for row in system.json("projections", "status") if row["name"] != "health"} == {0}
    assert {row["differences"] for row in system.json("projections", "verify")} == {0}
    [rebuilt] = system.json("projections", "rebuild", "jobs")
    assert (rebuilt["switched"], rebuilt["differences"]) == (True, 0)
    submit(system, "echo", "afterwards")


def test_doctor_env_config_and_models(system: System) -> None:
    found = {row["check"]: row for row in system.json("doctor")}
    assert [name for name, row in found.items() if row["state"] == "fail"] == []
    assert "shell 2 slots" in found["workers"]["found"]
    exported = system.run("env").stdout
    assert "export NATS_URL=" in exported
    assert "observer.creds" in exported
    assert [row["model_name"] for row in system.json("models", "ls")] == ["agents", "shell"]
    masked = {row["env"]: row["value"] for row in system.json("config")}
    assert "********" in masked["AURA_DATABASE_URL"]
    assert system.run("version").stdout.startswith("aura ")


@pytest.mark.skipif(shutil.which("jq") is None or shutil.which("curl") is None, reason="needs curl and jq")
def test_the_curl_worker_of_the_examples_works(system: System) -> None:
    url = json.loads((system.data / "runtime.json").read_text())["gateway"]["url"]
    env = {**system.env, "AURA_URL": url}
    worker = subprocess.Popen(
        ["sh", "examples/shell_worker.sh", "wordcount"], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        ready(worker, "waiting for jobs")
        prd = {"title": "count", "tasks": [{"role": "Other", "payload": {"text": "to be or not to be"}}]}
        answer = json.loads(system.run("submit", "-", "-o", "json", stdin=json.dumps(prd)).stdout)
        [job_id] = answer["job_ids"]
        assign = ["curl", "-fsS", "-X", "POST", f"{url}/jobs/{job_id}/assign?assigned_model=wordcount"]
        subprocess.run(assign, check=True, capture_output=True)
        assert system.run("jobs", "watch", job_id).stdout == "6 words\n"
    finally:
        worker.kill()
        worker.communicate()


def test_a_data_folder_has_one_aura_up(system: System) -> None:
    done = system.run("up", "--port", "0", expect=2)
    assert "another `aura up` runs" in done.stderr
