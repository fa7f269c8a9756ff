"""The command line without a server: help, exit codes, what is checked before anything is sent."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from aura import errors
from aura.cli.main import COMMANDS, aura, exit_code, main
from aura.cli.options import DEFAULT_URL, gateway_url
from aura.cli.output import safe, show_one, show_rows
from aura.commands.wire import problem
from aura.errors import AuraError
from aura.problems import error_of

JOB = "0199c000-0000-7000-8000-000000000001"


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = aura.get_command(click.Context(aura), name)
    assert isinstance(command, click.Command)
    assert run(name, "--help") == 0
    assert command.get_short_help_str(200)
    assert "Usage: aura" in capsys.readouterr().out


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys\nfrom aura.cli.main import aura\n"
        "try: aura(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'pydantic', 'nats', 'httpx', 'rich', 'starlette', 'psycopg', 'structlog', 'orjson', 'asyncio'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AuraError("x"), 1),
        (errors.InvalidRequest("x"), 2),
        (errors.ConfigError("x"), 2),
        (errors.NotFound("job", "x"), 3),
        (errors.Conflict("x"), 4),
        (errors.Fenced("x"), 4),
        (errors.KeyReused("x"), 4),
        (errors.Forbidden("x"), 5),
        (errors.Unauthenticated("x"), 5),
        (errors.Unavailable("x"), 6),
        (errors.Overloaded("x"), 6),
    ],
)
def test_exit_codes_survive_the_way_over_http(error: AuraError, code: int) -> None:
    assert exit_code(error) == code
    status, body = problem(error)
    if status != 500:
        there = error_of(status, body)
        assert type(there) is type(error)
        assert there.detail == error.detail


def test_an_answer_that_is_no_problem_document_is_judged_by_its_status() -> None:
    assert isinstance(error_of(404, b"<html>"), errors.NotFound)
    assert isinstance(error_of(502, b""), errors.Unavailable)
    assert isinstance(error_of(400, b"{}"), errors.InvalidRequest)
    assert isinstance(error_of(403, b"[]"), errors.Forbidden)


def test_usage_errors_exit_2_and_suggest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submitt") == 2
    assert "Did you mean 'submit'?" in capsys.readouterr().err
    assert run("jobs", "ls", "--status", "DONE") == 2
    assert run("worker", "command", "--allow", "python") == 2  # which pool?


def test_no_gateway_exits_6_and_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("jobs", "ls", "--url", "http://127.0.0.1:1") == 6
    assert "aura up" in capsys.readouterr().err


def test_the_gateway_is_found_by_flag_environment_then_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AURA_URL", raising=False)
    monkeypatch.setenv("AURA_DATA_DIR", str(tmp_path))
    assert gateway_url(None, None) == DEFAULT_URL
    with pytest.raises(errors.Unavailable, match="no `aura up` runs on"):
        gateway_url(None, tmp_path)  # a named folder never talks to somebody else's system
    monkeypatch.setenv("AURA_URL", "http://there:1/")
    assert gateway_url(None, tmp_path) == "http://there:1"
    assert gateway_url("http://flag:2", tmp_path) == "http://flag:2"


@pytest.mark.parametrize(
    ("prd", "complaint"),
    [
        ({"tasks": [{}]}, "title"),
        ({"title": "t", "tasks": []}, "tasks"),
        ({"title": "t", "tasks": [{"depends_on": ["nobody"]}]}, "not in this PRD"),
        ({"title": "t", "tasks": [{"name": "a", "depends_on": ["a"]}]}, "cycle"),
        ({"title": "t", "tasks": [{"payload": 1, "colour": "red"}]}, "colour"),
        ([], "object"),
    ],
)
def test_a_prd_is_checked_before_it_is_sent(
    prd: Any, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prd.json").write_text(json.dumps(prd))
    assert run("submit", str(tmp_path / "prd.json"), "--url", "http://127.0.0.1:1") == 2
    assert complaint in capsys.readouterr().err


def test_a_prd_may_be_toml_or_stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from aura.cli.submit import check_prd, read_prd

    (tmp_path / "prd.toml").write_text('title = "t"\n[[tasks]]\nname = "one"\npayload = {a = 1}\n')
    assert check_prd(read_prd(tmp_path / "prd.toml")) == ["one"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"title": "t", "tasks": [{}]}')))
    assert check_prd(read_prd(Path("-"))) == ["task 0"]
    with pytest.raises(errors.InvalidRequest):
        read_prd(tmp_path / "none.json")


@pytest.mark.parametrize("example", sorted(Path("examples").glob("*_prd.*")), ids=lambda path: path.name)
def test_the_examples_are_valid(example: Path) -> None:
    from aura.cli.submit import check_prd, read_prd

    assert check_prd(read_prd(example))


def test_nothing_from_outside_steers_the_terminal() -> None:
    assert safe("a\x1b[31mred\x1b[0m\x1b]0;title\x07b\rc\u202ed\ne\tf") == "aredbcd\ne\tf"


def test_tables_are_whole_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([{"id": JOB, "title": "long " * 60, "held": True, "x": {"a": 1}}], ("id", "title", "held", "x"), "table")
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith(JOB)
    assert line.rstrip().endswith('yes   {"a":1}')
    show_rows([{"id": 1}, {"id": 2}], ("id",), "jsonl")
    assert capsys.readouterr().out == '{"id":1}\n{"id":2}\n'
    show_one({"id": JOB, "none": None}, "table")
    assert capsys.readouterr().out == f"id  {JOB}\n"


def test_lazy_modules_exist() -> None:
    for module, _ in COMMANDS.values():
        importlib.import_module(module)
