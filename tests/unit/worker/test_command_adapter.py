"""The command adapter runs real programs: this Python, mostly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aura.errors import ConfigError, Fatal
from aura.worker import Worker
from aura.worker.adapters.command import CommandAdapter, CommandRules
from tests.support.worker_link import MemoryLink, MemoryOutput

JOB = "0199c000-0000-7000-8000-000000000001"


@asynccontextmanager
async def command_worker(root: Path, **rules: Any) -> AsyncIterator[tuple[MemoryLink, Worker]]:
    link = MemoryLink()
    adapter = CommandAdapter(CommandRules(allow=rules.pop("allow", ["python"]), root=root, **rules))
    async with asyncio.timeout(60), Worker("m", adapter, link=link, worker_id="w", grace_s=0) as worker:
        yield link, worker


async def run(link: MemoryLink, payload: dict[str, Any]) -> tuple[str, dict[str, Any], MemoryOutput]:
    """How a payload ended: the command that reported it, its body, the output."""
    link.offer(JOB, payload)
    while not (link.sent("complete") or link.sent("fail")):
        async with link._changed:
            await link._changed.wait()
    name = "complete" if link.sent("complete") else "fail"
    return name, link.sent(name)[0], link.outputs[JOB, 1]


def python(code: str, **more: Any) -> dict[str, Any]:
    return {"argv": ["python", "-c", code], **more}


async def test_output_streams_and_exit_zero_completes(tmp_path: Path) -> None:
    code = "import sys; print('häl'); print('warn\\rlast', end='', file=sys.stderr)"
    async with command_worker(tmp_path) as (link, _):
        name, body, output = await run(link, python(code))
    assert name == "complete"
    assert body["details"]["exit_code"] == 0
    assert body["details"]["output_bytes"] == 14
    assert output.text() == "häl\n"
    assert output.lines() == ["warn", "last"]


async def test_characters_split_between_reads_arrive_whole(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "for byte in '→é'.encode() + b'\\xff':\n"
        "    sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush(); time.sleep(0.01)"
    )
    async with command_worker(tmp_path) as (link, _):
        _, _, output = await run(link, python(code))
    assert output.text() == "→é\ufffd"


async def test_another_status_fails_with_its_code_and_the_tail_of_stderr(tmp_path: Path) -> None:
    async with command_worker(tmp_path) as (link, _):
        name, body, _ = await run(link, python("import sys; sys.exit('it broke')", retry=False))
    assert (name, body["error_code"], body["retryable"]) == ("fail", "exit_1", False)
    assert "it broke" in body["reason"]


async def test_death_by_signal_is_named(tmp_path: Path) -> None:
    async with command_worker(tmp_path) as (link, _):
        _, body, _ = await run(link, python("import os; os.kill(os.getpid(), 9)"))
    assert (body["error_code"], body["retryable"]) == ("signal_9", True)


async def test_cancelling_kills_the_whole_group_even_if_it_ignores_term(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal,time; signal.signal(15, 1); time.sleep(600)'])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    async with command_worker(tmp_path, kill_after_s=0.2) as (link, worker):
        link.offer(JOB, python(code))
        await link.wait_for("claim")
        while (JOB, 1) not in link.outputs or "\n" not in link.outputs[JOB, 1].text():
            await asyncio.sleep(0.01)
        pids = [int(pid) for pid in link.outputs[JOB, 1].text().split()]
        link.end(JOB)
        while worker.in_flight:
            await asyncio.wait(set(worker._tasks))
    for pid in pids:
        await gone(pid)


async def gone(pid: int) -> None:
    """Until the kernel has ended a killed process (a corpse that its new parent has not buried yet counts)."""
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}").exists():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                    return
            await asyncio.sleep(0.01)


async def test_what_a_program_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    async with command_worker(tmp_path) as (link, _):
        name, _, output = await run(link, python(code))
    assert name == "complete"
    await gone(int(output.text()))


async def test_a_timeout_fails_the_job(tmp_path: Path) -> None:
    async with command_worker(tmp_path) as (link, _):
        _, body, _ = await run(link, python("import time; time.sleep(600)", timeout_s=0.2))
    assert (body["error_code"], body["retryable"]) == ("timeout", True)


async def test_output_is_bounded_and_the_program_is_not_blocked(tmp_path: Path) -> None:
    async with command_worker(tmp_path, max_output=100_000) as (link, _):
        _, body, output = await run(link, python("print('x' * 3_000_000)"))
    assert body["details"]["truncated"] is True
    assert body["details"]["output_bytes"] == 3_000_001
    assert len(output.text()) == 100_000


async def test_stdin_cwd_and_a_bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_DIRECTOR_API_KEY", "secret")
    (tmp_path / "inside").mkdir()
    code = "import os, sys; print(os.getcwd()); print(sys.stdin.read()); print(sorted(os.environ))"
    async with command_worker(tmp_path, env={"AURA_URL": "http://there"}) as (link, _):
        _, _, output = await run(link, python(code, cwd="inside", stdin="hello"))
    folder, said, environment = output.text().splitlines()
    assert (folder, said) == (str(tmp_path / "inside"), "hello")
    assert "AURA_URL" in environment
    assert "AURA_JOB_ID" in environment
    assert "TRACEPARENT" in environment
    assert "DIRECTOR" not in environment


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"argv": ["sh", "-c", "true"]}, "not_allowed"),
        ({"argv": [sys.executable]}, "not_allowed"),
        ({"argv": ["/usr/bin/../bin/python"]}, "not_allowed"),
        ({"shell": "true"}, "not_allowed"),
        ({"argv": ["python"], "cwd": ".."}, "not_allowed"),
        ({"argv": ["python"], "cwd": "link"}, "not_allowed"),
        ({"argv": ["python"], "cwd": "/"}, "not_allowed"),
        ({"argv": ["python"], "cwd": "none"}, "invalid_payload"),
        ({"argv": ["python", "a\0b"]}, "invalid_payload"),
        ({"argv": []}, "invalid_payload"),
        ({"argv": "python"}, "invalid_payload"),
        ({"argv": ["python"], "env": {"LD_PRELOAD": "x"}}, "invalid_payload"),
        ({"argv": ["python"], "shell": "true"}, "invalid_payload"),
        ({"argv": ["python"], "timeout_s": -1}, "invalid_payload"),
        ({"argv": ["python"], "timeout_s": True}, "invalid_payload"),
        ("python", "invalid_payload"),
        (None, "invalid_payload"),
    ],
)
def test_what_is_not_allowed_or_malformed_is_refused_for_good(tmp_path: Path, payload: Any, code: str) -> None:
    (tmp_path / "link").symlink_to("/")
    adapter = CommandAdapter(CommandRules(allow=["python"], root=tmp_path))
    with pytest.raises(Fatal) as refused:
        adapter.check(payload)
    assert refused.value.error_code == code


async def test_a_shell_only_when_asked_for(tmp_path: Path) -> None:
    async with command_worker(tmp_path, allow=[], allow_shell=True) as (link, _):
        name, _, output = await run(link, {"shell": "echo one | tr a-z A-Z"})
    assert (name, output.text()) == ("complete", "ONE\n")


def test_rules_that_cannot_work_are_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is allowed"):
        CommandAdapter(CommandRules())
    with pytest.raises(ConfigError, match="no such program"):
        CommandAdapter(CommandRules(allow=["no-such-program"], root=tmp_path))
    with pytest.raises(ConfigError, match="not a folder"):
        CommandAdapter(CommandRules(allow=["python"], root=tmp_path / os.devnull[1:]))
