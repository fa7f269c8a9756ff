"""The authorisation matrix, read once from ``matrix.toml`` beside this file. An action that it does not name is a programme's fault and
found when the routes are made, never at a request."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

from aura.domain.access_key import ROLES

#: Everybody, in mode ``open``.
ANONYMOUS_ROLE = "anonymous"


def _load() -> tuple[frozenset[str], Mapping[str, frozenset[str]]]:
    table = tomllib.loads(files(__package__).joinpath("matrix.toml").read_text("utf-8"))
    known = {*ROLES, ANONYMOUS_ROLE}
    for action, roles in table["actions"].items():
        if unknown := set(roles) - known:
            raise ValueError(f"matrix.toml: {action} names {', '.join(sorted(unknown))}")
    actions = {action: frozenset(roles) for action, roles in table["actions"].items()}
    return frozenset(table["public"]), MappingProxyType(actions)


#: Actions without credentials; every other action → the roles that may.
PUBLIC, ALLOWED = _load()


def check_action(action: str) -> str:
    """``action`` if the matrix knows it. Raises ``ValueError``."""
    if action not in PUBLIC and action not in ALLOWED:
        raise ValueError(f"{action!r} is not in matrix.toml")
    return action
