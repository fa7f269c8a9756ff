"""The Python processes of ``aura up``: what is run, with which environment.

Settings go by environment, secrets only as files named in it (``AURA_…_FILE``): an environment is readable in ``/proc`` and
inherited by whatever a worker runs. Each component gets its own NATS credential and the database role it needs, a worker neither
database nor director key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aura import config
from aura.config import Settings
from aura.runtime.files import private_folder, write_private
from aura.setting_values import AGENTS_MODEL

#: In the order in which a drain ends them (after the workers).
COMPONENTS = ("gateway", "scheduler", "projector")
#: Seconds that each may take to finish what it has begun.
DRAIN_S = {"worker": 15.0, "gateway": 10.0, "scheduler": 5.0, "projector": 10.0}


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker that ``aura up`` runs itself: ``aura worker --name <name> --model <model> <args>``."""

    name: str
    model: str
    args: Sequence[str] = ()

    def command(self) -> list[str]:
        """Arguments after ``aura``."""
        return ["worker", "--name", self.name, "--model", self.model, *self.args]


#: ``aura up --demo`` without other wishes: a worker for each model that roles map to by default, allowed to run nothing.
DEMO_WORKERS = tuple(
    WorkerSpec(f"demo-{model.partition('_')[0]}", model, ("command",))
    for model in dict.fromkeys(config.DEFAULT_ROLE_MODELS.values())
    if model != AGENTS_MODEL  # those run workflows, not programs
)


class ChildEnvironment:
    """Environments for the children of one data folder. ``nats_url`` is the embedded server's, ``None`` for an external one."""

    def __init__(self, settings: Settings, nats_url: str | None, embedded_database: bool) -> None:
        self._settings = settings
        self._nats_url = nats_url
        self._embedded_database = embedded_database
        self._credentials = private_folder(settings.data_dir / "credentials")
        self._secret_files = self._write_secrets()

    def of_component(self, name: str) -> dict[str, str]:
        """Everything a gateway, scheduler or projector needs."""
        wanted = {"AURA_NATS_URL", "AURA_DATABASE_URL"} | ({"AURA_DIRECTOR_API_KEY"} if name == "gateway" else set())
        env = self._base() | self._files(wanted)
        if self._embedded_database:
            role = "reader" if name in config.READERS else "owner"
            env["AURA_DATABASE_URL_FILE"] = str(self._credentials / f"postgres-{role}.url")
        return env | self._nats(name)

    def of_topology(self) -> dict[str, str]:
        """The step that makes the streams: NATS as ``admin``."""
        return self._base() | self._files({"AURA_NATS_URL"}) | self._nats("admin")

    def of_worker(self, name: str) -> dict[str, str]:
        """A worker's: NATS and nothing else."""
        return self._base() | self._files({"AURA_NATS_URL"}) | self._nats(f"worker-{name}")

    def _nats(self, user: str) -> dict[str, str]:
        if self._nats_url is not None:
            return {"AURA_NATS_URL": self._nats_url, "AURA_NATS_CREDS": str(self._credentials / f"{user}.creds")}
        named = self._settings.creds_of(user)
        return {} if named is None else {"AURA_NATS_CREDS": str(named)}

    def _base(self) -> dict[str, str]:
        known = {row.env for row in config.rows(self._settings)}
        kept = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in known}
        light = {"PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}
        return kept | light | config.to_env(self._settings)

    def _files(self, wanted: set[str]) -> dict[str, str]:
        return {f"{name}_FILE": str(path) for name, path in self._secret_files.items() if name in wanted}

    def _write_secrets(self) -> Mapping[str, Path]:
        files = {}
        for name, value in config.secrets(self._settings).items():
            files[name] = self._credentials / name.removeprefix(config.ENV_PREFIX).lower()
            write_private(files[name], value + "\n")
        return files


#: How the ``aura`` command is run from here. ``-P``: what is in the working folder is not code of ours; whoever runs a
#: user's code (a worker) looks there by itself.
AURA_COMMAND = (sys.executable, "-P", "-m", "aura")
