"""Keys and sealing: AES-256-GCM under one data key per job, wrapped by a key-encryption key that no store holds.

Formats (fixed; golden values in ``tests/unit/log/test_sealing.py``):

* sealed = nonce (12) ‖ AES-256-GCM(data key, plaintext, aad = the message's committed subject). The subject as associated data
  means that a sealed message cannot be passed off as another job's, attempt's or part's.
* wrapped key = base64(nonce (12) ‖ AES-256-GCM(KEK, data key (32), aad = ``aura-data-key:<project>:<job>``)).
* content digest = ``"sha256:" + hex(SHA-256(salt (16) ‖ plaintext))``; the salt is sealed with the plaintext, so the digest in
  the log says nothing about content that can be guessed.
* derived secret = HMAC-SHA256 under another key derived from the KEK (HKDF): what was given out for a request can be given again to a
  repeat of that request, and is kept nowhere.
* fingerprint = first 64 bits of HMAC-SHA-256 under a key derived from the KEK (HKDF), base64url: the same for the same data, for
  ever, and useless to who has the log but not the KEK.

Erasing the wrapped key therefore erases the content.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aura.errors import AuraError, ConfigError
from aura.ids import IdSource

KEY_BYTES = 32
SALT_BYTES = 16
_NONCE_BYTES = 12
#: How many bytes sealing adds.
OVERHEAD = _NONCE_BYTES + 16


class BrokenSeal(AuraError):
    """Stored bytes do not open under their key: damaged, or not what their subject says."""

    code = "broken_seal"


class JobCipher:
    """One job's data key, set up once for whoever seals or opens many messages of that job."""

    __slots__ = ("_cipher",)

    def __init__(self, data_key: bytes) -> None:
        self._cipher = AESGCM(data_key)

    def seal(self, subject: str, plaintext: bytes, ids: IdSource) -> bytes:
        """Encrypt for storing under ``subject``."""
        nonce = ids.random_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, subject.encode())

    def unseal(self, subject: str, sealed: bytes) -> bytes:
        """Inverse of :meth:`seal`. Raises ``BrokenSeal``."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], subject.encode())
        except (InvalidTag, ValueError) as error:
            raise BrokenSeal("stored content does not open under its key") from error


def seal(key: bytes, subject: str, plaintext: bytes, ids: IdSource) -> bytes:
    """Encrypt one message for storing under ``subject``."""
    return JobCipher(key).seal(subject, plaintext, ids)


def unseal(key: bytes, subject: str, sealed: bytes) -> bytes:
    """Inverse of :func:`seal`. Raises ``BrokenSeal``."""
    return JobCipher(key).unseal(subject, sealed)


def digest(salt: bytes, plaintext: bytes) -> str:
    """The salted digest that events carry."""
    return "sha256:" + hashlib.sha256(salt + plaintext).hexdigest()


class KeyRing:
    """The key-encryption key (32 bytes) and what is derived from it. Raises ``ConfigError`` for another length."""

    def __init__(self, kek: bytes, ids: IdSource) -> None:
        if len(kek) != KEY_BYTES:
            raise ConfigError(f"the key-encryption key must have {KEY_BYTES} bytes, not {len(kek)}")
        self._kek = AESGCM(kek)
        self._ids = ids
        self._fingerprint_key = _derived(kek, b"aura fingerprint v1")
        self._secret_key = _derived(kek, b"aura secret v1")

    def new_data_key(self) -> bytes:
        """A fresh data key."""
        return self._ids.random_bytes(KEY_BYTES)

    def wrap(self, data_key: bytes, project: int, job_id: str) -> str:
        """The header value that keeps ``data_key``."""
        nonce = self._ids.random_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + self._kek.encrypt(nonce, data_key, _key_name(project, job_id))).decode()

    def unwrap(self, wrapped: str, project: int, job_id: str) -> bytes:
        """Inverse of :meth:`wrap`. Raises ``BrokenSeal``, for example under another installation's KEK."""
        try:
            raw = base64.b64decode(wrapped, validate=True)
            return self._kek.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _key_name(project, job_id))
        except (InvalidTag, ValueError) as error:
            raise BrokenSeal("a job's data key does not open under this key-encryption key") from error

    def fingerprint(self, data: bytes) -> str:
        """11 URL-safe characters; see the module docstring."""
        mac = hmac.digest(self._fingerprint_key, data, "sha256")
        return base64.urlsafe_b64encode(mac[:8]).rstrip(b"=").decode()

    def secret(self, data: bytes) -> bytes:
        """32 bytes; see the module docstring."""
        return hmac.digest(self._secret_key, data, "sha256")


def _derived(kek: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(kek)


def _key_name(project: int, job_id: str) -> bytes:
    return f"aura-data-key:{project}:{job_id}".encode()
