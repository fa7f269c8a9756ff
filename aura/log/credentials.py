"""NATS credentials: nkeys, ``.creds`` files and the callbacks that nats-py signs in with.

An **nkey** is an Ed25519 key in text: base32 (no padding) of ``prefix ‖ 32 bytes ‖ CRC-16/XMODEM little-endian``; a seed
carries two prefix bytes, "seed" and the kind, packed as 5 + 8 bits (github.com/nats-io/nkeys). A **creds file** holds the
user's JWT and its seed between dashed lines and is what the ``nats`` CLI takes with ``--creds``. nats-py's own support for it
needs one more package for what is twenty lines on ``cryptography``, which Aura has anyway.

The user's JWT also says which inbox it may listen on (``_INBOX_<user>``): a connection must be opened with that prefix, or
every request it makes is refused. :func:`inbox_prefix` reads it from the file, so nobody has to be told.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aura.errors import ConfigError

Kind = Literal["operator", "account", "user"]

_SEED = 18 << 3
_PREFIX: dict[Kind, int] = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_JWT_BEGIN, _JWT_END = "-----BEGIN NATS USER JWT-----", "------END NATS USER JWT------"
_SEED_BEGIN, _SEED_END = "-----BEGIN USER NKEY SEED-----", "------END USER NKEY SEED------"
INBOX = "_INBOX_"


def _crc16(data: bytes) -> bytes:
    """CRC-16/XMODEM, little-endian."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc.to_bytes(2, "little")


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw + _crc16(raw)).decode().rstrip("=")


def encode_public(kind: Kind, raw: bytes) -> str:
    """The nkey of a 32-byte public key: ``O…``, ``A…`` or ``U…``."""
    return _base32(bytes([_PREFIX[kind]]) + raw)


def encode_seed(kind: Kind, raw: bytes) -> str:
    """The nkey of a 32-byte Ed25519 seed: ``SO…``, ``SA…`` or ``SU…``. A secret."""
    prefix = _PREFIX[kind]
    return _base32(bytes([_SEED | (prefix >> 5), (prefix & 31) << 3]) + raw)


def decode_seed(text: str) -> bytes:
    """The 32-byte Ed25519 seed in ``S…``. Raises ``ValueError`` (without the text) when it is not one."""
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raise ValueError("not an nkey seed: bad base32") from None
    body, crc = raw[:-2], raw[-2:]
    if len(body) != 34 or body[0] & 0xF8 != _SEED or _crc16(body) != crc:
        raise ValueError("not an nkey seed: bad length, prefix or checksum")
    return body[2:]


@dataclass(frozen=True, slots=True)
class Credentials:
    """One user's JWT and seed. ``repr`` shows neither."""

    jwt: str = field(repr=False)
    seed: str = field(repr=False)

    def text(self) -> str:
        """The creds file."""
        return f"{_JWT_BEGIN}\n{self.jwt}\n{_JWT_END}\n\n{_SEED_BEGIN}\n{self.seed}\n{_SEED_END}\n"

    def claims(self) -> dict[str, Any]:
        """The JWT's claims (JSON object), unverified: the server verifies them. Raises ``ValueError``."""
        body = self.jwt.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return claims


def parse_creds(text: str) -> Credentials:
    """Inverse of :meth:`Credentials.text`, lenient about dashes. Raises ``ValueError``, which never quotes the text."""
    blocks: list[str] = []
    inside = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("---"):
            inside = "BEGIN" in line
        elif inside and line:
            blocks.append(line)
    if len(blocks) != 2 or blocks[0].count(".") != 2:
        raise ValueError("not a NATS credentials file")
    decode_seed(blocks[1])
    return Credentials(jwt=blocks[0], seed=blocks[1])


def read_creds(path: Path) -> Credentials:
    """The credentials in a file. Raises :class:`ConfigError`."""
    try:
        return parse_creds(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"NATS credentials {path}: {type(error).__name__}: {error}") from None


def sign_nonce(seed: str, nonce: bytes) -> bytes:
    """The base64url signature (RFC 8032 Ed25519) of a server's nonce."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # 8 MB: only who connects pays

    signature = Ed25519PrivateKey.from_private_bytes(decode_seed(seed)).sign(nonce)
    return base64.urlsafe_b64encode(signature).rstrip(b"=")


def credentials_callbacks(path: Path) -> tuple[Callable[[], bytes], Callable[[str], bytes]]:
    """``(user_jwt_cb, signature_cb)`` for ``nats.connect``.

    The file is read at each sign-in, so a renewed credential is used from the next reconnect on. Raises :class:`ConfigError`
    now when the file cannot be used, and inside the callbacks later.
    """
    read_creds(path)
    return lambda: read_creds(path).jwt.encode(), lambda nonce: sign_nonce(read_creds(path).seed, nonce.encode())


def inbox_prefix(path: Path) -> str:
    """The inbox prefix (no trailing dot) that the user in ``path`` may subscribe to; nats-py's default when it is free to."""
    try:
        permissions = read_creds(path).claims().get("nats", {}).get("sub", {})
    except (ValueError, IndexError) as error:
        raise ConfigError(f"NATS credentials {path}: {type(error).__name__}") from None
    for subject in permissions.get("allow", []):
        if subject.startswith(INBOX) and subject.endswith(".>"):
            return str(subject.removesuffix(".>"))
    return "_INBOX"


def connect_options(path: Path) -> dict[str, Any]:
    """Keyword arguments for ``nats.connect`` that sign in as the user in ``path``, its inbox prefix included."""
    user_jwt_cb, signature_cb = credentials_callbacks(path)
    return {"user_jwt_cb": user_jwt_cb, "signature_cb": signature_cb, "inbox_prefix": inbox_prefix(path)}
