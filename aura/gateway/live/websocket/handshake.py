"""The opening handshake of RFC 6455 §4.2 on a request that llhttp has taken apart already. Pure: values in, bytes out.

What makes a handshake (§4.2.1) is decided as ``websockets`` decides it, with the same statuses; ``tests/unit/gateway/test_handshake.py``
holds it against the library. GET, or 405; HTTP/1.1, or 505; ``Connection`` with ``upgrade`` and one ``Upgrade`` that is ``websocket``,
or 426; one key of 16 bytes in base64, version 13, at most one ``Origin``, subprotocols that are tokens, and no body (which uvicorn with
the library leaves unanswered), or 400. How many bytes a head may have is bounded where it is read (``http.py``).

``Host`` and ``Origin`` are whose they are allowed to be: that is the edge's to say (``security.py``). Extensions are never agreed on, so
nothing is compressed.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from http import HTTPStatus

from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_connection, parse_subprotocol, parse_upgrade

#: §1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: 16 bytes in base64 (§4.1): 22 digits and the padding.
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch
#: Most bytes of a value whose meaning is kept. Clients say the same few, and whoever says something else is not to fill our memory.
_KEPT_BYTES = 64
_READ = frozenset({b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol", b"origin",
                   b"content-length", b"transfer-encoding"})  # fmt: skip

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A valid handshake: the key, and the subprotocols that the client offers."""

    key: bytes
    subprotocols: list[str]


@dataclass(frozen=True, slots=True)
class Refused:
    """None: the status, and the fields that go with it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()


_BAD = Refused(400)
_NOT_GET = Refused(405, ((b"Allow", b"GET"),))
_NOT_1_1 = Refused(505)
NO_UPGRADE = Refused(426, ((b"Upgrade", b"websocket"),))


def trimmed(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Values without the white space after them, which llhttp leaves (RFC 9112 §5)."""
    return [(name, value.rstrip(b" \t")) for name, value in headers]


def wanted(headers: Headers) -> bool:
    """Whether a request wants to be a WebSocket, well or badly, so that it is :func:`asked`: one ``Upgrade`` of it names
    ``websocket``. Names in lower case, values as llhttp leaves them."""
    for name, value in headers:
        if name == b"upgrade":
            try:
                if "websocket" in _protocols(value.rstrip(b" \t")):
                    return True
            except InvalidHeaderFormat:
                continue
    return False


def asked(method: str, version: str, headers: Headers) -> Asked | Refused:
    """What a request is. Names in lower case, values :func:`trimmed`."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _READ:
            found.setdefault(name, []).append(value)
    if b"transfer-encoding" in found or any(size != b"0" for size in found.get(b"content-length", ())):
        return _BAD
    if method != "GET":
        return _NOT_GET
    if version != "1.1":
        return _NOT_1_1
    try:
        options = [option for value in found.get(b"connection", ()) for option in _options(value)]
        if "upgrade" not in options:
            return NO_UPGRADE
        protocols = [protocol for value in found.get(b"upgrade", ()) for protocol in _protocols(value)]
        if protocols != ["websocket"]:
            return NO_UPGRADE
        subprotocols = [token for value in found.get(b"sec-websocket-protocol", ()) for token in _tokens(value)]
    except InvalidHeaderFormat:
        return _BAD
    match found.get(b"sec-websocket-key"), found.get(b"sec-websocket-version"), found.get(b"origin"):
        case [key], [b"13"], None | [_] if _KEY(key):
            return Asked(key, subprotocols)
        case _:
            return _BAD


def _options(value: bytes) -> tuple[str, ...]:
    return _options_kept(value) if len(value) <= _KEPT_BYTES else _options_of(value)


def _protocols(value: bytes) -> tuple[str, ...]:
    return _protocols_kept(value) if len(value) <= _KEPT_BYTES else _protocols_of(value)


def _options_of(value: bytes) -> tuple[str, ...]:
    return tuple(option.lower() for option in parse_connection(value.decode("latin-1")))


def _protocols_of(value: bytes) -> tuple[str, ...]:
    return tuple(protocol.lower() for protocol in parse_upgrade(value.decode("latin-1")))


_options_kept = lru_cache(64)(_options_of)
_protocols_kept = lru_cache(64)(_protocols_of)


def _tokens(value: bytes) -> list[str]:
    """Never kept: some clients say who they are here."""
    return list(parse_subprotocol(value.decode("latin-1")))


def accept_of(key: bytes) -> bytes:
    """``Sec-WebSocket-Accept`` (§4.2.2, item 5.4)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def switching(key: bytes, headers: Headers, subprotocol: str | None) -> bytes:
    """The answer to a valid handshake. ``headers`` come from us, not from the client."""
    more = b"".join([b"%b: %b\r\n" % pair for pair in headers])
    if subprotocol:
        more += b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode("latin-1")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n%b\r\n"
        % (accept_of(key), more)
    )


def response(status: int, headers: Headers, body: bytes) -> bytes:
    """An HTTP answer instead, after which the connection ends. Fields that are not there and should be are added."""
    found = {name.lower() for name, _ in headers}
    pairs = list(headers)
    for name, value in (
        (b"Connection", b"close"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Content-Type", b"text/plain; charset=utf-8"),
    ):
        if name.lower() not in found:
            pairs.append((name, value))
    lines = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, _phrase(status), lines, body)


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
