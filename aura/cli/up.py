"""``aura up``: everything on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aura.cli.main import tell
from aura.cli.options import data_option

if TYPE_CHECKING:
    from aura.runtime.children import WorkerSpec
    from aura.runtime.keeper import Notice

#: The demo's PRD, below the folder that its tasks work on.
DEMO_PRD = "examples/demo_prd.json"


@click.command()
@click.option("--demo", is_flag=True, help="Start workers too, and let them look after this checkout.")
@click.option("--host", help="Address to listen on (AURA_HOST, default 127.0.0.1).")
@click.option("--port", type=int, help="Port to listen on (AURA_PORT, default 8000); 0 is any free one.")
@data_option
def up(demo: bool, host: str | None, port: int | None, data: Path | None) -> None:
    """Run everything on this machine: NATS, Postgres, gateway, scheduler, projector, and a worker for agent workflows.

    AURA_NATS_URL and AURA_DATABASE_URL point at real servers instead. Stop with Ctrl-C: it drains and loses nothing.
    """
    from aura import config
    from aura.errors import ConfigError
    from aura.runtime.supervisor import Supervisor

    settings = config.load({"host": host, "port": port, "data_dir": data})
    root = demo_root() if demo else None
    if demo and root is None:
        raise ConfigError(f"--demo works on a checkout of Aura: there is no {DEMO_PRD} beside the package")
    workers = (*(demo_workers(root) if root is not None else ()), *workflow_workers(settings.workflows))
    if demo and settings.auth != "open":
        raise ConfigError(f"--demo works in mode open, not with AURA_AUTH={settings.auth}")
    supervisor = Supervisor(settings, workers=workers, notify=_notice)

    async def main() -> None:
        demos: list[asyncio.Task[None]] = []

        def ready() -> None:
            tell(f"\n  Aura is ready at {supervisor.url}   (Ctrl-C stops it)\n")
            if "keys" in settings.auth_modes:
                tell("  Who asks needs a key: aura access issue --role director makes one\n")
            if root is not None:
                demos.append(asyncio.create_task(_show(root, supervisor.url, settings.data_dir)))

        try:
            await supervisor.run(ready)
        finally:
            for task in demos:
                task.cancel()
            await asyncio.gather(*demos, return_exceptions=True)

    asyncio.run(main())


def workflow_workers(workflows: Sequence[str]) -> tuple[WorkerSpec, ...]:
    """One worker for all agent workflows whose module is there: beside the package, in the working folder, or installed."""
    from aura.runtime.children import WorkerSpec
    from aura.setting_values import AGENTS_MODEL

    there = [spec for spec in workflows if _is_there(spec)]
    for spec in workflows:
        if spec not in there:
            tell(f"  workflows      {spec.partition('=')[0]} is left out: its module is not there")
    options = [word for spec in there for word in ("--workflows", spec)]
    return (WorkerSpec(AGENTS_MODEL, AGENTS_MODEL, options),) if there else ()


def _is_there(workflow: str) -> bool:
    """Whether its module's file can be found, without importing anything."""
    import importlib.machinery

    import aura

    found: list[str] | None = [str(Path(aura.__path__[0]).resolve().parent), str(Path.cwd()), *sys.path]
    for name in workflow.partition("=")[2].partition(":")[0].split("."):
        spec = importlib.machinery.PathFinder.find_spec(name, found) if found is not None else None
        if spec is None:
            return False
        found = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else None
    return True


def demo_root() -> Path | None:
    """The checkout this package runs from."""
    import aura

    root = Path(aura.__path__[0]).resolve().parent
    return root if (root / DEMO_PRD).is_file() else None


def demo_workers(root: Path) -> tuple[WorkerSpec, ...]:
    """A command worker for the employees' work and one for the validator's; both may run this Python, inside the checkout."""
    from aura.runtime.children import WorkerSpec

    def spec(name: str, model: str, role: str, slots: int) -> WorkerSpec:
        options = ("--allow", "python", "--root", str(root), "--slots", str(slots), "--role", role)
        return WorkerSpec(name, model, ("command", *options))

    return (
        spec("demo-employee", "employee_ollama", "Employee", 2),
        spec("demo-validator", "validator_service", "Validator", 1),
    )


async def _show(root: Path, url: str, data_dir: Path) -> None:
    """Submit the demo's PRD and follow it on this terminal, in a process of its own (this one stays small)."""
    from aura.runtime.children import AURA_COMMAND
    from aura.runtime.process import Program, start

    args: list[Any] = [
        *AURA_COMMAND,
        "submit",
        root / DEMO_PRD,
        "--watch",
        "--url",
        url,
        "--data",
        data_dir,
    ]
    # Started like all other children: the supervisor takes any it does not know for an orphan, and ends it.
    child = start(Program("demo", args, log=None))
    try:
        code = await child.wait()
    except asyncio.CancelledError:
        await child.stop((signal.SIGTERM, 5.0))
        raise
    done = "The demo is done." if code == 0 else "The demo did not end well; see above."
    tell(f"\n  {done} Look at it: {url}\n  More: aura jobs ls · aura events tail --last 20 · aura doctor\n")


def _notice(notice: Notice) -> None:
    tell(f"  {notice.part:<14} {notice.state} {notice.detail}".rstrip())
