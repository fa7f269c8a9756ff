"""``aura access``: the keys that open the gateway.

With ``AURA_API_KEY`` set it speaks to the gateway as that key. Without, it sends admin commands over NATS with the credential of the data
folder: that is how the first director's key is made, and how one gets in again after the last one is lost.
"""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from aura.cli.main import tell
from aura.cli.options import client_options
from aura.cli.output import Format, show_one, show_rows
from aura.errors import InvalidRequest

ROLES = ("viewer", "worker", "operator", "auditor", "director")
_LIFETIME = re.compile(r"([1-9][0-9]{0,5})([hdwy])\Z")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}


@click.group()
def access() -> None:
    """API keys: issue, list, revoke."""


@access.command("issue")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may do; see the guide to security.")
@click.option(
    "--project", "projects", type=int, multiple=True, help="Only this project; repeat for several. Default: all."
)
@click.option("--label", default="", help="Whose it is, for the list; kept in the log for ever.")
@click.option("--expires", help="How long it is good for: 12h, 30d, 8w, 1y. Default: until it is revoked.")
@client_options
def issue(
    role: str,
    projects: tuple[int, ...],
    label: str,
    expires: str | None,
    url: str | None,
    data: Path | None,
    output: Format,
) -> None:
    """Make a key and print it, once: only its SHA-256 is kept."""
    body: dict[str, Any] = {"role": role, "label": label}
    if projects:
        body["projects"] = list(projects)
    if expires is not None:
        body["expires_at"] = _until(expires)
    made = _call("issue_key", "/auth/keys", body, url, data)
    if output == "table":
        tell(f"{made['role']} key {made['key_id']}: keep it safe, it is not shown again")
        click.echo(made["key"])
    else:
        show_one(made, output)


@access.command("ls")
@client_options
def ls(url: str | None, data: Path | None, output: Format) -> None:
    """All keys, newest first; never the keys themselves."""
    found = _call("list_keys", "/auth/keys", None, url, data)
    rows = found["keys"] if isinstance(found, dict) else found
    show_rows(rows, ("key_id", "role", "projects", "label", "status", "issued_at", "expires_at", "issued_by"), output)


@access.command("revoke")
@click.argument("key_id")
@click.option("--reason", default="", help="Why; kept in the log for ever.")
@client_options
def revoke(key_id: str, reason: str, url: str | None, data: Path | None, output: Format) -> None:
    """Let a key open nothing any more; what it has open is closed."""
    from aura.cli.api import segment

    body = {"reason": reason}
    show_one(_call("revoke_key", f"/auth/keys/{segment(key_id)}/revoke", body, url, data, key_id=key_id), output)


def _until(lifetime: str) -> str:
    from aura.clock import SystemClock, rfc3339

    match = _LIFETIME.match(lifetime)
    if match is None:
        raise InvalidRequest("--expires is a number and h, d, w or y, for example 30d", field="expires")
    try:
        return rfc3339(SystemClock().now() + timedelta(hours=int(match[1]) * _HOURS[match[2]]))
    except OverflowError:
        raise InvalidRequest("--expires is too far away", field="expires") from None


def _call(
    operation: str, path: str, body: dict[str, Any] | None, url: str | None, data: Path | None, **named: Any
) -> Any:
    """Over HTTP as the key in ``AURA_API_KEY``, else over NATS as the data folder's admin."""
    from aura import config

    settings = config.load({"data_dir": data})
    if settings.api_key is None and url is None:
        return asyncio.run(_command(config.discover(settings, "admin"), operation, {**(body or {}), **named}))
    from aura.cli.api import Api

    with Api(url, data) as api:
        return api.get(path) if body is None else api.post(path, body)


async def _command(settings: Any, operation: str, params: dict[str, Any]) -> Any:
    import orjson

    from aura.cli.compose import connected, world
    from aura.cli.logs import configure_logging
    from aura.commands.endpoints import KEY_HEADER
    from aura.events import subjects
    from aura.log.rpc import RpcClient
    from aura.problems import error_of

    configure_logging(level="warning")
    at = world(settings)
    connection = await connected(at, "admin")
    try:
        client = RpcClient(connection, at.clock, at.ids)
        headers = {KEY_HEADER: at.ids.uuid7()}
        answer = await client.call(subjects.admin_command(operation), orjson.dumps(params), headers)
    finally:
        await connection.close()
    if answer.status >= 400:
        raise error_of(answer.status, answer.body)
    return orjson.loads(answer.body)
