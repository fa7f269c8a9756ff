"""``python -m aura.events`` prints the JSON Schema of the whole catalogue."""

import sys

import orjson

from aura.events.schema import catalogue_schema

sys.stdout.buffer.write(orjson.dumps(catalogue_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
