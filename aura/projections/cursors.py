"""Opaque page cursors: where the next page begins, for which question.

``base64url(version ‖ u64 place ‖ 4 bytes hash of the question ‖ 4 bytes check)``. A cursor that was altered, cut, made up, or is
used with other filters is refused. It grants nothing: who may see what is decided again for every page.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

import orjson

from aura.errors import InvalidRequest

_FORM = struct.Struct(">BQ4s")
_VERSION = 1


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(b"aura cursor\0" + data).digest()[:4]


def encode(place: int, question: object) -> str:
    """A cursor for rows before ``place``; ``question`` is everything else the pages share (JSON)."""
    return _text(_FORM.pack(_VERSION, place, _hash(orjson.dumps(question))))


def _text(packed: bytes) -> str:
    """The one spelling of a cursor (base64 has several: unused bits)."""
    return base64.urlsafe_b64encode(packed + _hash(packed)).rstrip(b"=").decode()


def decode(cursor: str, question: object) -> int:
    """The place. Raises ``InvalidRequest``."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        packed, check = data[: _FORM.size], data[_FORM.size :]
        version, place, asked = _FORM.unpack(packed)
    except (ValueError, binascii.Error, struct.error) as error:
        raise InvalidRequest("the cursor is not one of ours", field="cursor") from error
    if version != _VERSION or check != _hash(packed) or _text(packed) != cursor:
        raise InvalidRequest("the cursor is not one of ours", field="cursor")
    if asked != _hash(orjson.dumps(question)):
        raise InvalidRequest("the cursor belongs to another question", field="cursor")
    return int(place)
