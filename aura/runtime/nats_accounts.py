"""NATS decentralised authentication: operator → accounts → users, and the minting of users offline.

The server is told only public things: the operator's JWT and the accounts' (in its configuration, "memory resolver"). A user
is a JWT signed with the account's *signing key*, so a credential for a new worker is made without touching the server.

Files, all in ``<data_dir>/nats`` (0700) and 0600: ``keys.json`` (every seed: whoever has it can mint any user),
``accounts.conf`` (what the server includes). Credentials go to ``<data_dir>/credentials/<component>.creds``.

Invariants: keys are made once and never change (else every credential given out dies); files are written beside and renamed,
so a crash leaves the old one or the new one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aura.clock import Clock, SystemClock
from aura.ids import IdSource, SystemIds
from aura.log.credentials import Credentials, Kind, decode_seed, encode_public, encode_seed, read_creds
from aura.runtime import permissions
from aura.runtime.files import private_folder, read_json, write_private
from aura.runtime.permissions import CORE, EDGE, SHARED, Permissions

_SYSTEM = "SYS"
_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}


def _public(kind: Kind, seed: str) -> str:
    key = Ed25519PrivateKey.from_private_bytes(decode_seed(seed)).public_key()
    return encode_public(kind, key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class NatsAccounts:
    """The keys of one installation. Make it with :meth:`open`."""

    def __init__(self, keys: dict[str, Any], clock: Clock) -> None:
        self._operator: str = keys["operator"]
        self._accounts: dict[str, dict[str, str]] = keys["accounts"]
        self._clock = clock

    @classmethod
    def open(cls, folder: Path, *, clock: Clock | None = None, ids: IdSource | None = None) -> NatsAccounts:
        """The keys in ``folder``, made now if there are none. Raises :class:`ConfigError` for an unreadable file."""
        private_folder(folder)
        path = folder / "keys.json"
        if not path.exists():
            write_private(path, json.dumps(_new_keys(ids or SystemIds())))
        return cls(read_json(path), clock or SystemClock())

    def server_config(self) -> str:
        """The part of nats-server's configuration that says who is trusted. Holds no secret."""
        operator = _public("operator", self._operator)
        system = self._account_key(_SYSTEM)
        nats: dict[str, Any] = {"type": "operator", "version": 2, "system_account": system}
        lines = [f"operator: {self._signed(self._operator, 'operator', 'aura', operator, nats)}"]
        lines += [f"system_account: {system}", "resolver: MEMORY", "resolver_preload: {"]
        lines += [f"  {self._account_key(name)}: {self._account_jwt(name)}" for name in self._accounts]
        return "\n".join([*lines, "}", ""])

    def user(self, name: str, granted: Permissions, account: str, *, expires_s: int | None = None) -> Credentials:
        """A new user of ``account``; ``name`` is for people. Nothing is stored: each call makes another key.

        ``expires_s``: seconds after which the server refuses it and ends its connections.
        """
        seed = encode_seed("user", SystemIds().random_bytes(32))
        nats = {
            "type": "user",
            "version": 2,
            "issuer_account": self._account_key(account),
            "pub": {"allow": list(granted.publish)},
            "sub": {"allow": list(granted.subscribe)},
            **_UNLIMITED,
        }
        signing = self._accounts[account]["signing"]
        return Credentials(self._signed(signing, "account", name, _public("user", seed), nats, expires_s), seed)

    def worker(self, worker_id: str, models: Iterable[str]) -> Credentials:
        """A credential for one worker id and its pools. Raises :class:`InvalidRequest` for bad names."""
        return self.user(f"worker.{worker_id}", permissions.worker(worker_id, models), EDGE)

    def write_component_creds(self, folder: Path) -> None:
        """Mint the users of an ``aura up`` into ``folder/<component>.creds``."""
        private_folder(folder)
        for name in permissions.COMPONENTS:
            creds = self.user(name, permissions.of_component(name), permissions.account_of(name))
            write_private(folder / f"{name}.creds", creds.text())

    def _account_key(self, name: str) -> str:
        return _public("account", self._accounts[name]["seed"])

    def _account_jwt(self, name: str) -> str:
        limits: dict[str, Any] = {**_UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": 0}
        if name == CORE:
            limits |= {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        nats = {
            "type": "account",
            "version": 2,
            "limits": limits,
            "signing_keys": [_public("account", self._accounts[name]["signing"])],
            "default_permissions": {"pub": {}, "sub": {}},
        }
        if name == CORE:
            nats["exports"] = [
                {
                    "name": item.subject,
                    "subject": item.subject,
                    "type": "service" if item.service else "stream",
                    **({"response_type": "Stream" if item.many else "Singleton"} if item.service else {}),
                }
                for item in SHARED
            ]
        if name == EDGE:
            nats["imports"] = [
                {
                    "name": item.subject,
                    "subject": item.subject,
                    "local_subject": item.subject,
                    "account": self._account_key(CORE),
                    "type": "service" if item.service else "stream",
                }
                for item in SHARED
            ]
        return self._signed(self._operator, "operator", name, self._account_key(name), nats)

    def _signed(
        self, seed: str, kind: Kind, name: str, subject: str, nats: dict[str, Any], expires_s: int | None = None
    ) -> str:
        claims: dict[str, Any] = {
            "iat": int(self._clock.now().timestamp()),
            "iss": _public(kind, seed),
            "name": name,
            "sub": subject,
            "nats": nats,
        }
        if expires_s is not None:
            claims["exp"] = claims["iat"] + expires_s
        claims["jti"] = _b64(hashlib.sha256(json.dumps(claims).encode()).digest())
        header = _b64(b'{"typ":"JWT","alg":"ed25519-nkey"}')
        signed = f"{header}.{_b64(json.dumps(claims).encode())}"
        return f"{signed}.{_b64(Ed25519PrivateKey.from_private_bytes(decode_seed(seed)).sign(signed.encode()))}"


def _new_keys(ids: IdSource) -> dict[str, Any]:
    def seed(kind: Kind) -> str:
        return encode_seed(kind, ids.random_bytes(32))

    return {
        "operator": seed("operator"),
        "accounts": {name: {"seed": seed("account"), "signing": seed("account")} for name in (CORE, EDGE, _SYSTEM)},
    }


def worker_credentials(data_dir: Path, worker_id: str, models: Iterable[str]) -> Path:
    """The file with the credential of a worker, minted now unless it is there and good for exactly these pools.

    Works while the server runs and without telling it. Raises :class:`InvalidRequest` for bad names.
    """
    granted = permissions.worker(worker_id, sorted(models))
    path = data_dir / "credentials" / f"worker-{worker_id}.creds"
    if path.exists() and read_creds(path).claims()["nats"]["pub"]["allow"] == list(granted.publish):
        return path
    accounts = NatsAccounts.open(data_dir / "nats")
    private_folder(path.parent)
    write_private(path, accounts.user(f"worker.{worker_id}", granted, EDGE).text())
    return path
