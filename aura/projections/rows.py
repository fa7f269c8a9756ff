"""A row of a table, on its way to Postgres: a line for ``COPY``, or an object for ``json_to_recordset``.

What a batch of a log that is far ahead copies costs the server a third of what the same rows cost it as JSON. A row is a dictionary
of scalars, in the order of the columns in ``copy_*.sql``. Its line is what orjson, in C, makes of its values, without the brackets;
PostgreSQL reads that as CSV: texts are quoted, ``\\"`` and ``\\\\`` are what they are in JSON, an unquoted ``null`` is NULL. What JSON
writes in another way (ends of lines and other control characters) is rare: a batch with such a thing in it is written again without JSON.

Invariant: no value is an object or an array (``decoding.scalar``); a column of JSON gets its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

#: From so many new rows of a table on they are copied; below, a ``COPY`` costs more round trips than it saves.
COPY_FROM = 500
_CONTROL = re.compile(rb"\\[bfnrtu]").search
Row = dict[str, Any]


def lines(rows: Sequence[Row]) -> bytes:
    """All rows of a ``COPY``."""
    dumps = orjson.dumps
    found = b"\n".join([dumps(tuple(row.values()))[1:-1] for row in rows]) + b"\n"
    if _CONTROL(found) is None:
        return found
    return "".join([",".join(map(_quoted, row.values())) + "\n" for row in rows]).encode()


def record(row: Row, *json: str) -> Row:
    """The object: the same dictionary, with the texts in columns of JSON (``json`` names them) as what they are."""
    for name in json:
        if row[name] is not None:
            row[name] = orjson.Fragment(row[name])
    return row


def json_text(value: Any) -> str | None:
    """A value for a column of JSON; nothing for an empty one."""
    return orjson.dumps(value).decode() if value else None


def _quoted(value: Any) -> str:
    if not isinstance(value, str):
        return orjson.dumps(value).decode()
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
