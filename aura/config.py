"""Settings: one table, resolved flag > environment > file > default.

Every setting is one field of :class:`Settings`; its metadata (parser, description, secret or not) is the table that
``aura config`` prints, so a setting cannot exist without its description. The environment name is ``AURA_`` + the field's
name in capitals. A secret may instead be named by ``AURA_…_FILE``, a path whose first line is the value; both at once is
refused. The file is ``aura.toml`` in the working folder, or the one that ``--config`` names (then it must exist).

:func:`discover` fills in the servers and credentials of an ``aura up`` that runs on the same data folder, so that every other
command works without configuration beside it.

Import cost matters (``aura --help``, idle memory): standard library only.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from aura import setting_values as values
from aura.errors import ConfigError
from aura.running import running

DEFAULT_ROLE_MODELS = values.DEFAULT_ROLE_MODELS
ENV_PREFIX = "AURA_"
CONFIG_FILE = "aura.toml"
#: A director's key that is shorter is warned about.
MIN_DIRECTOR_KEY = 16
_MASK = "********"


def _about(doc: str, parse: Callable[[object], object], *, secret: bool = False) -> dict[str, Any]:
    return {"doc": doc, "parse": parse, "secret": secret}


@dataclass(frozen=True, slots=True)
class Settings:
    """Resolved configuration. Make one with :func:`load`; ``repr`` never shows a secret."""

    nats_url: str | None = field(
        default=None, repr=False, metadata=_about("NATS server; unset: the embedded one", values.optional, secret=True)
    )
    nats_creds: Path | None = field(
        default=None,
        metadata=_about("NATS credentials (.creds), or a folder with one <component>.creds each", values.optional_path),
    )
    database_url: str | None = field(
        default=None, repr=False, metadata=_about("Postgres; unset: the embedded one", values.optional, secret=True)
    )
    host: str = field(default="127.0.0.1", metadata=_about("Address the gateway listens on", values.text))
    port: int = field(default=8000, metadata=_about("Port the gateway listens on", values.whole(0, 65535)))
    data_dir: Path = field(default=Path(".aura"), metadata=_about("Folder of everything Aura stores", values.path))
    content_key_file: Path | None = field(
        default=None,
        metadata=_about("Key of all content, 32 bytes (unset: keys/kek in the data folder)", values.optional_path),
    )
    replicas: int | None = field(
        default=None,
        metadata=_about("Copies of each stream (unset: 3 on a NATS cluster, else 1)", values.optional_whole(1, 5)),
    )
    director_api_key: str | None = field(
        default=None,
        repr=False,
        metadata=_about("Key for purging; unset: purge is refused", values.optional, secret=True),
    )
    allowed_origins: tuple[str, ...] = field(
        default=(), metadata=_about("Web origins allowed to call the API (comma-separated)", values.texts)
    )
    allowed_hosts: tuple[str, ...] = field(
        default=(), metadata=_about("Host headers accepted besides loopback (comma-separated)", values.texts)
    )
    auth: str = field(
        default="open",
        metadata=_about("Who may use the gateway: open (loopback only), keys, oidc, or keys,oidc", values.parse_auth),
    )
    api_key: str | None = field(
        default=None, repr=False, metadata=_about("Key the command line uses", values.optional, secret=True)
    )
    oidc_issuer: str | None = field(
        default=None, metadata=_about("OpenID Connect issuer whose tokens count", values.optional)
    )
    oidc_audience: str | None = field(
        default=None, metadata=_about("Audience that tokens must be for", values.optional)
    )
    oidc_jwks_url: str | None = field(
        default=None, metadata=_about("The issuer's keys (unset: as its discovery document says)", values.optional)
    )
    oidc_role_claim: str = field(default="roles", metadata=_about("Claim with the roles, by its path", values.text))
    oidc_project_claim: str | None = field(
        default=None, metadata=_about("Claim with the project ids (unset: tokens are good for all)", values.optional)
    )
    lease_ttl: int = field(
        default=300, metadata=_about("Seconds of a lease claimed over plain HTTP", values.whole(5, 3600))
    )
    retention_days: int = field(
        default=30, metadata=_about("Days before a finished job may be purged", values.whole(0, 36500))
    )
    role_models: Mapping[str, str] = field(
        default_factory=lambda: values.DEFAULT_ROLE_MODELS,
        metadata=_about("Role=model,… (* = any other role)", values.parse_role_models),
    )
    workflows: tuple[str, ...] = field(
        default=values.DEFAULT_WORKFLOWS,
        metadata=_about("Agent workflows that aura up runs: name=module:attribute,… or none", values.workflows),
    )
    io_uring: str = field(
        default="auto",
        metadata=_about(
            "Write to live clients by io_uring: auto (where Linux has it), or off", values.choice("auto", "off")
        ),
    )
    log_level: str = field(
        default="info", metadata=_about("Least level logged", values.choice("debug", "info", "warning", "error"))
    )
    log_format: str = field(
        default="auto", metadata=_about("console, json, or auto", values.choice("auto", "console", "json"))
    )
    #: Setting name → ``flag``, ``env``, ``file``, ``default`` or ``runtime`` (found by :func:`discover`).
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def auth_modes(self) -> frozenset[str]:
        """``auth`` taken apart."""
        return frozenset(self.auth.split(","))

    def require_nats(self) -> str:
        """The NATS URL; raises :class:`ConfigError` that says how to get one."""
        if self.nats_url is None:
            raise ConfigError(f"no NATS server: start `aura up` on {self.data_dir}, or set AURA_NATS_URL")
        return self.nats_url

    def require_database(self) -> str:
        """The database URL; raises :class:`ConfigError` that says how to get one."""
        if self.database_url is None:
            raise ConfigError(f"no database: start `aura up` on {self.data_dir}, or set AURA_DATABASE_URL")
        return self.database_url

    def creds_of(self, component: str) -> Path | None:
        """The credentials file for ``component``: the named file itself, or ``<component>.creds`` in the named folder."""
        if self.nats_creds is not None and self.nats_creds.is_dir():
            return self.nats_creds / f"{component}.creds"
        return self.nats_creds


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of ``aura config``; ``value`` is masked when it is a secret."""

    name: str
    env: str
    value: str
    source: str
    description: str
    secret: bool


def _table() -> list[Field[Any]]:
    return [item for item in fields(Settings) if "doc" in item.metadata]


def env_name(name: str) -> str:
    """``data_dir`` → ``AURA_DATA_DIR``."""
    return ENV_PREFIX + name.upper()


def load(
    flags: Mapping[str, object] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> Settings:
    """Resolve every setting. ``flags`` maps setting names to raw values; ``None`` means "not given".

    Raises :class:`ConfigError` naming the setting, its source and what would be accepted.
    """
    flags = flags or {}
    env = os.environ if env is None else env
    stored = _read_file(config_file)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for item in _table():
        source, raw = _raw(item, flags, env, stored)
        if source == "default":
            raw = str(item.default) if item.name == "data_dir" else None
        if raw is not None:
            try:
                values[item.name] = item.metadata["parse"](raw)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{env_name(item.name)} (from {source}): {error}") from None
        sources[item.name] = source
    return Settings(**values, sources=MappingProxyType(sources))


def _raw(
    item: Field[Any], flags: Mapping[str, object], env: Mapping[str, str], stored: Mapping[str, object]
) -> tuple[str, object]:
    if flags.get(item.name) is not None:
        return "flag", flags[item.name]
    name = env_name(item.name)
    direct, named_file = env.get(name), env.get(f"{name}_FILE") if item.metadata["secret"] else None
    if direct and named_file:
        raise ConfigError(f"{name} and {name}_FILE are both set: remove one")
    if named_file:
        return "env", _read_secret(name, Path(named_file))
    if direct is not None and direct.strip():
        return "env", direct
    if item.name in stored:
        return "file", stored[item.name]
    return "default", None


def _read_secret(name: str, path: Path) -> str:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}_FILE: cannot read {path}: {type(error).__name__}") from None
    if not lines or not lines[0].strip():
        raise ConfigError(f"{name}_FILE: {path} is empty")
    return lines[0].strip()


def _read_file(named: Path | None) -> Mapping[str, object]:
    path = named or Path(CONFIG_FILE)
    if not path.is_file():
        if named is not None:
            raise ConfigError(f"--config: {path} does not exist")
        return {}
    import tomllib  # only when there is a file: 2 MB and 20 ms

    try:
        stored = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    known = [item.name for item in _table()]
    for key in stored:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(f"{path}: unknown setting {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    return stored


def rows(settings: Settings) -> list[SettingRow]:
    """The whole table with values, secrets masked, in the order of the fields."""
    found = []
    for item in _table():
        value = getattr(settings, item.name)
        secret = bool(item.metadata["secret"])
        found.append(
            SettingRow(
                name=item.name,
                env=env_name(item.name),
                value=_shown(value, secret),
                source=settings.sources.get(item.name, "default"),
                description=item.metadata["doc"],
                secret=secret,
            )
        )
    return found


def _shown(value: object, secret: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ",".join(f"{role}={model}" for role, model in value.items())
    if isinstance(value, tuple):
        return ",".join(value)
    return masked(str(value)) if secret else str(value)


def to_env(settings: Settings) -> dict[str, str]:
    """The environment from which :func:`load` makes the same settings, without the secrets (hand those over in files)."""
    plain = {item.name: _shown(getattr(settings, item.name), False) for item in _table() if not item.metadata["secret"]}
    return {env_name(name): value for name, value in plain.items() if value}


def secrets(settings: Settings) -> dict[str, str]:
    """Environment name → value of every secret that services need and that is set. Not for environments of other processes, nor for
    logs."""
    named = {item.name: getattr(settings, item.name) for item in _table() if item.metadata["secret"]}
    named.pop("api_key")  # the command line's own
    return {env_name(name): value for name, value in named.items() if value}


def masked(text: str) -> str:
    """URLs (one, or several with commas between) without passwords and queries; any other secret as stars."""
    return ",".join(_masked_url(url) for url in re.split(r",(?=\w+://)", text))


def _masked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        return _MASK
    if not parts.scheme or not parts.netloc:
        return _MASK
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    return urlunsplit((parts.scheme, f"{name}{colon and ':' + _MASK}{at}{host}", parts.path, "", ""))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``. A name other than ``localhost`` is not trusted to be."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_open_bind(settings: Settings) -> None:
    """Raise :class:`ConfigError` when the gateway would be open to the network without authentication, or could not authenticate."""
    if settings.auth == "open" and not is_loopback(settings.host):
        raise ConfigError(
            f"AURA_HOST={settings.host} would open the API to the network without authentication: anyone could run "
            "jobs. Set AURA_AUTH=keys (make the first key with `aura access issue --role director`) or AURA_AUTH=oidc, or bind 127.0.0.1."
        )
    if "oidc" in settings.auth_modes and not (settings.oidc_issuer and settings.oidc_audience):
        raise ConfigError(
            "AURA_AUTH=oidc needs AURA_OIDC_ISSUER and AURA_OIDC_AUDIENCE: whose tokens count, and for whom they must be"
        )


#: Components whose database role is the read-only one.
READERS = frozenset({"gateway", "scheduler", "observer"})


def discover(settings: Settings, component: str = "admin") -> Settings:
    """Fill unset servers and credentials from the ``aura up`` that runs on the data folder; unchanged when none does.

    ``component`` names the credential: ``admin`` (the CLI), ``gateway``, ``scheduler``, ``projector`` or ``observer``. The gateway, the
    scheduler and the observer read Postgres read-only, the others as its owner.
    """
    if settings.nats_url and settings.database_url:
        return replace(settings, nats_creds=settings.creds_of(component))
    state = running(settings.data_dir) or {}
    credentials = settings.data_dir / "credentials"
    sources = dict(settings.sources)
    found: dict[str, Any] = {"nats_creds": settings.creds_of(component)}
    nats, postgres = state.get("nats"), state.get("postgres")
    if not settings.nats_url and nats:
        found["nats_url"] = nats["url"]
        sources["nats_url"] = "runtime"
        if settings.nats_creds is None and (credentials / f"{component}.creds").is_file():
            found["nats_creds"] = credentials / f"{component}.creds"
            sources["nats_creds"] = "runtime"
    if not settings.database_url and postgres:
        role = "reader" if component in READERS else "owner"
        found["database_url"] = _read_secret(env_name("database_url"), credentials / f"postgres-{role}.url")
        sources["database_url"] = "runtime"
    return replace(settings, **found, sources=MappingProxyType(sources))
