"""SQL lives in ``.sql`` files; this finds it by name and fills in the schema of a projection version."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_SCHEMA = re.compile(r"p_[a-z]+_v[0-9]{1,6}\Z")


@cache
def text(name: str) -> str:
    """The SQL file ``aura/projections/sql/<name>.sql``."""
    return files("aura.projections").joinpath(f"sql/{name}.sql").read_text("utf-8")


@cache
def for_schema(name: str, schema: str) -> str:
    """The SQL file with ``{schema}`` replaced. Schema names are made by ``versions.py`` only, never from outside."""
    if not _SCHEMA.match(schema):
        raise ValueError(f"not a projection schema: {schema!r}")
    return text(name).replace("{schema}", schema)


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, SQL) of every migration, in order."""
    found = []
    for entry in files("aura.projections").joinpath("sql/migrations").iterdir():
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append((int(number), name, entry.read_text("utf-8")))
    return sorted(found)
