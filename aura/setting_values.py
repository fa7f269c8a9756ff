"""What a setting may be: parsers from raw values (flags, environment, file) to what :mod:`aura.config` holds.

Each raises ``ValueError`` that says what would be accepted, never the value itself if that could be a secret. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

#: How callers of the gateway prove who they are. ``open`` stands alone; the others may be combined.
AUTH_MODES = ("open", "keys", "oidc")
#: Model of every role that is not mapped; ``*=model`` in ``AURA_ROLE_MODELS`` replaces it.
ANY_ROLE = "*"
#: The pool of agent workflows, and the one that ``aura up`` runs from a checkout.
AGENTS_MODEL = "agents"
DEFAULT_WORKFLOWS = ("retail=examples.retail.workflow:workflow",)
DEFAULT_ROLE_MODELS: Mapping[str, str] = MappingProxyType(
    {
        "Employee": "employee_ollama",
        "Validator": "validator_service",
        "Auditor": "auditor_service",
        "Agent": AGENTS_MODEL,
        ANY_ROLE: "employee_ollama",
    }
)
_NAME_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def text(raw: object) -> str:
    """Text without NUL, trimmed."""
    if not isinstance(raw, str) or "\0" in raw:
        raise ValueError("must be text")
    return raw.strip()


def optional(raw: object) -> str | None:
    """The same; nothing is ``None``."""
    return text(raw) or None


def path(raw: object) -> Path:
    """An absolute path."""
    return Path(text(str(raw))).expanduser().absolute()


def optional_path(raw: object) -> Path | None:
    """The same; nothing is ``None``."""
    return path(raw) if str(raw).strip() else None


def whole(least: int, most: int) -> Callable[[object], int]:
    """A whole number between two, both included."""

    def parse(raw: object) -> int:
        try:
            value = int(str(raw))
        except ValueError:
            raise ValueError("must be a whole number") from None
        if not least <= value <= most:
            raise ValueError(f"must be between {least} and {most}")
        return value

    return parse


def optional_whole(least: int, most: int) -> Callable[[object], int | None]:
    """The same; nothing is ``None``."""
    parse = whole(least, most)
    return lambda raw: parse(raw) if str(raw).strip() else None


def choice(*allowed: str) -> Callable[[object], str]:
    """One of some words, in any case."""

    def parse(raw: object) -> str:
        value = text(raw).lower()
        if value not in allowed:
            raise ValueError("must be one of " + ", ".join(allowed))
        return value

    return parse


def parse_auth(raw: object) -> str:
    """``open``, ``keys``, ``oidc`` or ``keys,oidc``."""
    parts = raw if isinstance(raw, list | tuple) else text(raw).split(",")
    modes = {text(part).lower() for part in parts if text(part)}
    if "none" in modes:
        raise ValueError("none is not accepted any more: say open (this machine only), or keys, oidc, or keys,oidc")
    if not modes or not modes.issubset(AUTH_MODES):
        raise ValueError("must be open, keys, oidc, or keys,oidc")
    if "open" in modes and len(modes) > 1:
        raise ValueError("open asks nobody for anything, so it cannot be combined with keys or oidc")
    return ",".join(mode for mode in AUTH_MODES if mode in modes)


def texts(raw: object) -> tuple[str, ...]:
    """A list, or text with commas."""
    parts = raw if isinstance(raw, list | tuple) else text(raw).split(",")
    return tuple(stripped for part in parts if (stripped := text(part)))


def workflows(raw: object) -> tuple[str, ...]:
    """``name=module:attribute,…``, or ``none``."""
    found = texts(raw)
    if tuple(part.lower() for part in found) == ("none",):
        return ()
    for part in found:
        name, equals, where = part.partition("=")
        module, colon, attribute = where.partition(":")
        words = (*module.split("."), attribute)
        if not (equals and colon and 1 <= len(name) <= 64 and _NAME_CHARS.issuperset(name)) or not all(
            word.isidentifier() for word in words
        ):
            raise ValueError(f"{part!r} is not name=module:attribute")
    return found


def parse_role_models(raw: object) -> Mapping[str, str]:
    """``Employee=employee_ollama,Validator=…`` (or a TOML table) over the defaults; ``*`` is every other role."""
    if isinstance(raw, Mapping):
        pairs = [(str(role), str(model)) for role, model in raw.items()]
    else:
        pairs = []
        for part in texts(raw):
            role, equals, model = part.partition("=")
            if not equals:
                raise ValueError(f"{part!r} is not Role=model")
            pairs.append((role.strip(), model.strip()))
    merged = dict(DEFAULT_ROLE_MODELS)
    for role, model in pairs:
        if not role or not 1 <= len(model) <= 64 or not _NAME_CHARS.issuperset(model):
            raise ValueError(f"{role!r}: {model!r} is not a model name (1 to 64 of A-Z a-z 0-9 _ -)")
        merged[role] = model
    return MappingProxyType(merged)
