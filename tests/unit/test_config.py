"""Settings: precedence, refusals that name the culprit, secrets that stay secret, discovery of a running ``aura up``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from aura import config, running
from aura.config import Settings
from aura.domain.roles import RoleModels
from aura.errors import ConfigError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``aura.toml`` but a test's own."""
    monkeypatch.chdir(tmp_path)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    assert config.load(env={}).port == 8000
    (tmp_path / "aura.toml").write_text("port = 1000\nlog_level = 'debug'")
    found = config.load(env={})
    assert (found.port, found.log_level, found.sources["port"]) == (1000, "debug", "file")
    assert config.load(env={"AURA_PORT": "2000"}).port == 2000
    found = config.load({"port": 3000, "host": None}, env={"AURA_PORT": "2000"})
    assert (found.port, found.sources["port"], found.host) == (3000, "flag", "127.0.0.1")
    assert config.load(env={"AURA_PORT": " "}).sources["port"] == "file"


def test_a_named_file_replaces_the_one_in_the_folder_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "aura.toml").write_text("port = 1000")
    (tmp_path / "other.toml").write_text("host = '::1'")
    found = config.load(env={}, config_file=tmp_path / "other.toml")
    assert (found.port, found.host) == (8000, "::1")
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(env={}, config_file=tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"AURA_PORT": "many"}, "AURA_PORT.*whole number"),
        ({"AURA_PORT": "65536"}, "AURA_PORT.*between 0 and 65535"),
        ({"AURA_AUTH": "password"}, "AURA_AUTH.*must be open, keys, oidc, or keys,oidc"),
        ({"AURA_AUTH": "none"}, "AURA_AUTH.*not accepted any more: say open"),
        ({"AURA_AUTH": "open,keys"}, "AURA_AUTH.*cannot be combined"),
        ({"AURA_LEASE_TTL": "1"}, "AURA_LEASE_TTL.*between 5 and 3600"),
        ({"AURA_ROLE_MODELS": "Employee"}, "AURA_ROLE_MODELS.*Role=model"),
        ({"AURA_ROLE_MODELS": "Employee=a.b"}, "AURA_ROLE_MODELS.*model name"),
        ({"AURA_ROLE_MODELS": "Employee=>"}, "AURA_ROLE_MODELS.*model name"),
        ({"AURA_DIRECTOR_API_KEY": "k", "AURA_DIRECTOR_API_KEY_FILE": "/x"}, "both set"),
        ({"AURA_DIRECTOR_API_KEY_FILE": "/does/not/exist"}, "cannot read"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_without_its_value(env: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config.load(env=env)


def test_an_unknown_setting_in_the_file_is_refused_with_a_guess(tmp_path: Path) -> None:
    (tmp_path / "aura.toml").write_text("prot = 1")
    with pytest.raises(ConfigError, match="did you mean 'port'"):
        config.load(env={})


def test_secrets_may_come_from_files_and_are_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("tops3cret\nsecond line\n")
    env = {
        "AURA_DIRECTOR_API_KEY_FILE": str(tmp_path / "key"),
        "AURA_DATABASE_URL": "postgresql://u:tops3cret@h:5432/d?password=tops3cret",
        "AURA_NATS_URL": "nats://u:tops3cret@one:4222,nats://u:tops3cret@two:4222",
    }
    found = config.load(env=env)
    assert found.director_api_key == "tops3cret"
    shown = repr(found) + repr(config.rows(found)) + repr(config.to_env(found))
    assert "tops3cret" not in shown
    assert {row.value for row in config.rows(found) if row.secret and row.value} == {
        "********",
        "postgresql://u:********@h:5432/d",
        "nats://u:********@one:4222,nats://u:********@two:4222",
    }
    assert config.secrets(found)["AURA_DIRECTOR_API_KEY"] == "tops3cret"


def test_the_environment_for_children_makes_the_same_settings() -> None:
    found = config.load(
        {"port": 9, "allowed_origins": "https://a,https://b", "role_models": "Writer=pen,*=any", "data_dir": "x"},
        env={},
    )
    assert config.load(env=config.to_env(found)) == found


def test_roles_map_to_models() -> None:
    plain = RoleModels.configured(config.load(env={}).role_models)
    roles = ("Employee", "Validator", "Auditor", "Somebody")
    wanted = ["employee_ollama", "validator_service", "auditor_service", "employee_ollama"]
    assert [plain.model(role) for role in roles] == wanted
    mine = RoleModels.configured(config.load(env={"AURA_ROLE_MODELS": "Validator=strict, *=any"}).role_models)
    assert [mine.model(role) for role in roles] == ["employee_ollama", "strict", "auditor_service", "any"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_may_be_bound_without_authentication(host: str) -> None:
    config.refuse_open_bind(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org", ""])
def test_anything_else_may_not(host: str) -> None:
    with pytest.raises(ConfigError, match="without authentication"):
        config.refuse_open_bind(Settings(host=host))


def _state(data: Path, pid: int, start: int | None) -> None:
    (data / "credentials").mkdir(parents=True)
    (data / "credentials" / "postgres-owner.url").write_text("postgresql://aura_owner:x@127.0.0.1:1/aura\n")
    (data / "credentials" / "postgres-reader.url").write_text("postgresql://aura_reader:x@127.0.0.1:1/aura\n")
    (data / "credentials" / "gateway.creds").write_text("")
    nats, supervisor = {"url": "nats://127.0.0.1:2"}, {"pid": pid, "start": start}
    (data / "runtime.json").write_text(json.dumps({"supervisor": supervisor, "nats": nats, "postgres": {"port": 1}}))


def test_what_a_running_supervisor_says_fills_what_is_unset(tmp_path: Path) -> None:
    data = tmp_path / "data"
    _state(data, os.getpid(), running.process_start(os.getpid()))
    plain = config.load({"data_dir": str(data)}, env={})
    gateway = config.discover(plain, "gateway")
    assert gateway.require_nats() == "nats://127.0.0.1:2"
    assert "aura_reader" in gateway.require_database()
    assert gateway.nats_creds == data / "credentials" / "gateway.creds"
    assert gateway.sources["nats_url"] == "runtime"
    assert "aura_owner" in config.discover(plain, "projector").require_database()
    set_by_hand = config.load({"data_dir": str(data), "nats_url": "nats://elsewhere"}, env={})
    found = config.discover(set_by_hand, "gateway")
    assert (found.nats_url, found.nats_creds) == ("nats://elsewhere", None)


@pytest.mark.parametrize("what", ["another process", "no process", "rubbish", "nothing"])
def test_a_state_file_that_a_crash_left_is_not_believed(tmp_path: Path, what: str) -> None:
    data = tmp_path / "data"
    if what == "another process":
        _state(data, os.getpid(), (running.process_start(os.getpid()) or 0) + 1)
    elif what == "no process":
        _state(data, 2**22 + 1, 5)
    elif what == "rubbish":
        data.mkdir()
        (data / "runtime.json").write_text("[")
    plain = config.load({"data_dir": str(data)}, env={})
    assert config.discover(plain) == plain
    with pytest.raises(ConfigError, match="start `aura up`"):
        config.discover(plain).require_nats()


def test_a_credentials_folder_holds_one_file_per_component(tmp_path: Path) -> None:
    env = {"AURA_NATS_URL": "nats://h", "AURA_DATABASE_URL": "postgresql://h/d", "AURA_NATS_CREDS": str(tmp_path)}
    assert config.discover(config.load(env=env), "projector").nats_creds == tmp_path / "projector.creds"
