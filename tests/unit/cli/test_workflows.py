"""``AURA_WORKFLOWS`` and ``aura worker --workflows``: what is accepted, and which workers ``aura up`` runs for it."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from aura.cli.up import workflow_workers
from aura.cli.worker import worker
from aura.config import load
from aura.errors import ConfigError
from aura.setting_values import DEFAULT_WORKFLOWS


def test_the_shipped_workflow_gets_a_worker_and_a_missing_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = set(sys.modules)
    (spec,) = workflow_workers((*DEFAULT_WORKFLOWS, "other=no.such.module:workflow"))
    assert spec.command() == [
        "worker", "--name", "agents", "--model", "agents",
        "--workflows", "retail=examples.retail.workflow:workflow",
    ]  # fmt: skip
    said = capsys.readouterr()
    assert (said.out + said.err).splitlines() == ["  workflows      other is left out: its module is not there"]
    assert not [name for name in set(sys.modules) - loaded if name.startswith("examples")], "nothing is imported"
    assert workflow_workers(()) == ()


def test_the_setting() -> None:
    assert load(env={}).workflows == DEFAULT_WORKFLOWS
    assert load(env={"AURA_WORKFLOWS": "none"}).workflows == ()
    assert load(env={"AURA_WORKFLOWS": "a=b:c, d=e.f:g"}).workflows == ("a=b:c", "d=e.f:g")
    for bad in ("a", "a=b", "a=b:", "=b:c", "a b=c:d", "a=b/c:d", "a=b:c;import os"):
        with pytest.raises(ConfigError, match="AURA_WORKFLOWS"):
            load(env={"AURA_WORKFLOWS": bad})
    assert load(env={}).role_models["Agent"] == "agents"


def test_a_worker_says_what_it_takes() -> None:
    shown = CliRunner().invoke(worker, [])
    assert shown.exit_code == 2
    assert "--workflows" in shown.output
    both = CliRunner().invoke(worker, ["--workflows", "a=b:c", "command"])
    assert both.exit_code == 2
    assert "leave out the command" in both.output
    missing = CliRunner().invoke(worker, ["--workflows", "a=no.such.module:workflow"])
    assert isinstance(missing.exception, ConfigError)
