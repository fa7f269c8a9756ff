"""``aura submit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from aura.cli.main import tell
from aura.cli.options import client_options
from aura.cli.output import Format, show_one

MAX_FILE = 8 * 1024 * 1024


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--title", help="Replace the title.")
@click.option("--project", "project_id", type=int, help="Replace the project id.")
@click.option("--key", help="Idempotency key: submitting the same file again with it makes nothing new.")
@click.option("--watch", is_flag=True, help="Follow the jobs to their end; exit code 1 unless all are COMPLETED.")
@client_options
def submit(
    file: Path,
    title: str | None,
    project_id: int | None,
    key: str | None,
    watch: bool,
    url: str | None,
    data: Path | None,
    output: Format,
) -> int:
    """Submit a PRD from FILE: JSON or TOML, - for stdin (JSON).

    \b
    {"title": "…", "tasks": [{"role": "Employee", "payload": {…}, "name": "a"},
                             {"role": "Validator", "payload": {…}, "depends_on": ["a"]}]}
    """
    body = read_prd(file)
    body |= {name: value for name, value in (("title", title), ("project_id", project_id)) if value is not None}
    names = check_prd(body)
    from aura.cli.api import Api

    with Api(url, data) as api:
        answer = api.post("/prds", body, key=key)
        target = api.url
    tell(answer["message"])
    if not watch:
        show_one(answer, output)
        return 0
    import asyncio

    from aura.cli.watch import watch_prd

    tasks = dict(zip(answer["job_ids"], names, strict=True))
    try:
        return asyncio.run(watch_prd(target, body["title"], tasks, answer["seq"] - len(tasks), output))
    except KeyboardInterrupt:
        tell("no longer watching; the jobs go on")
        raise


def read_prd(file: Path) -> dict[str, Any]:
    """The file's object. Raises ``InvalidRequest``."""
    import orjson

    from aura.errors import InvalidRequest

    try:
        raw = sys.stdin.buffer.read(MAX_FILE + 1) if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}") from None
    if len(raw) > MAX_FILE:
        raise InvalidRequest(f"{file} is larger than {MAX_FILE} bytes")
    try:
        if file.suffix == ".toml":
            import tomllib

            found: Any = tomllib.loads(raw.decode())
        else:
            found = orjson.loads(raw)
    except ValueError as error:
        raise InvalidRequest(f"{file}: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRequest(f"{file}: a PRD is an object with title and tasks")
    return found


def check_prd(body: dict[str, Any]) -> list[str]:
    """Validate as the gateway will, before anything is sent; returns what to call each task. Raises ``InvalidRequest``."""
    from aura.commands import requests
    from aura.commands.prd import resolve_dependencies

    request = requests.parse(requests.Submit, body)
    resolve_dependencies(request.tasks)
    return [task.title or task.name or f"{task.type} {index}" for index, task in enumerate(request.tasks)]
