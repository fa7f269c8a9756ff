"""A row of a table, on its way to Postgres: a line for ``COPY``, or an object for ``json_to_recordset``.

What a batch of a log that is far ahead copies costs the server a third of what the same rows cost it as JSON. A row is a tuple of scalars
in the order of its table's columns. Its line is what orjson, in C, makes of that, without the brackets; PostgreSQL reads it as CSV
(``copy_*.sql``): texts are quoted, ``\\"`` and ``\\\\`` are what they are in JSON, an unquoted ``null`` is NULL. What JSON writes in
another way (ends of lines and other control characters) is rare: a batch with such a thing in it is written again without JSON.

Invariant: no value is an object or an array (``decoding.scalar``); a column of JSON gets its text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import orjson

#: From so many new rows of a table on they are copied; below, a ``COPY`` costs more round trips than it saves.
COPY_FROM = 500
_CONTROL = re.compile(rb"\\[bfnrtu]").search
Row = tuple[Any, ...]


def lines(rows: Sequence[Row]) -> bytes:
    """All rows of a ``COPY``."""
    dumps = orjson.dumps
    found = b"\n".join([dumps(row)[1:-1] for row in rows]) + b"\n"
    return found if _CONTROL(found) is None else "".join([",".join(map(_quoted, row)) + "\n" for row in rows]).encode()


def record(columns: Sequence[str], row: Row, json: Collection[str] = ()) -> dict[str, Any]:
    """The object. Absent values are left out (Postgres reads a missing key as NULL, and reads less); ``json`` names columns of JSON."""
    return {
        name: orjson.Fragment(value) if name in json else value
        for name, value in zip(columns, row, strict=True)
        if value is not None
    }


def json_text(value: Any) -> str | None:
    """A value for a column of JSON; nothing for an empty one."""
    return orjson.dumps(value).decode() if value else None


def _quoted(value: Any) -> str:
    if not isinstance(value, str):
        return orjson.dumps(value).decode()
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
