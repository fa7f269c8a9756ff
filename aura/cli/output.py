"""How answers look: ``-o table|json|jsonl`` on stdout. Nothing that came from outside can steer the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import click

Format = Literal["table", "json", "jsonl"]
#: Controls except newline and tab, and Unicode's bidi overrides: they move cursors, set titles and disguise text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
STATUS_STYLES = {
    "QUEUED": "cyan",
    "ASSIGNED": "blue",
    "IN_PROGRESS": "yellow",
    "COMPLETED": "green",
    "SUBMITTED": "magenta",
    "FAILED": "red",
    "CANCELLED": "bright_black",
}


def safe(value: object) -> str:
    """Text that a terminal shows and does not obey."""
    return _UNSAFE.sub("", _ESCAPE.sub("", str(value)))


def cell(value: object) -> str:
    """One table cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping | list | tuple):
        return safe(_compact(value))
    return safe(value).replace("\n", " ")


def _compact(value: object) -> str:
    import orjson

    return orjson.dumps(value, default=str).decode()


def write_json(value: object) -> None:
    """Indented JSON."""
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str))


def write_line(value: object) -> None:
    """One line of JSON."""
    click.echo(_compact(value))


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: Format) -> None:
    """A list. JSON shows everything, the table its ``columns`` (headers are the names)."""
    if output == "json":
        write_json(rows)
    elif output == "jsonl":
        for row in rows:
            write_line(row)
    else:
        _table(rows, columns)


def show_one(item: Mapping[str, Any], output: Format) -> None:
    """One object; the table is a line per field that has a value."""
    if output != "table":
        (write_json if output == "json" else write_line)(item)
        return
    shown = {key: cell(value) for key, value in item.items() if value not in (None, [], {}, "")}
    width = max(map(len, shown), default=0)
    for key, text in shown.items():
        click.echo(f"{click.style(key.ljust(width), dim=True) if _colours() else key.ljust(width)}  {text}")


def _colours() -> bool:
    import os

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 4_096)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name.upper(), overflow="fold", no_wrap=name in ("id", "job_id", "status", "seq"))
    count = 0
    for row in rows:
        cells = [cell(row.get(name)) for name in columns]
        table.add_row(*(Text(text, STATUS_STYLES.get(text, "")) for text in cells))
        count += 1
    if count:
        console.print(table)
    else:
        click.echo("nothing found", err=True)
