"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from aura import config
from aura.errors import Unavailable
from aura.running import running

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "http://127.0.0.1:8000"

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="Format on stdout.",
)
data_option = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder (AURA_DATA_DIR, default ./.aura)."
)
url_option = click.option("--url", help="The gateway (AURA_URL; default: the `aura up` of the data folder).")


def client_options(command: F) -> F:
    """``--url``, ``--data`` and ``-o``, for commands that speak HTTP."""
    return url_option(data_option(output_option(command)))


def bearer() -> dict[str, str]:
    """The header that says who we are, from ``AURA_API_KEY`` (or ``…_FILE``, or the configuration file); empty without one."""
    key = config.load().api_key
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def gateway_url(url: str | None, data: Path | None) -> str:
    """Flag > ``AURA_URL`` > the ``aura up`` that runs on the data folder > ``http://127.0.0.1:8000``.

    Raises ``Unavailable`` when a data folder was named on which nothing runs: another system would answer for it.
    """
    named = url or os.environ.get("AURA_URL", "").strip()
    if named:
        return named.rstrip("/")
    settings = config.load({"data_dir": data})
    state = running(settings.data_dir) or {}
    found = (state.get("gateway") or {}).get("url")
    if found is None and data is not None:
        raise Unavailable(f"no `aura up` runs on {data}: start one, or name a gateway with --url")
    return str(found or DEFAULT_URL).rstrip("/")
