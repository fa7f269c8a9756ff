"""Upcasters: an old version of an event type in today's shape, one version at a time, on read. Stored bytes never change.

To change a type: raise its ``V``, register ``(type, old v) → function`` here, add a golden file for the new version under
``tests/golden/events`` and keep the old ones. An additive optional field needs no new version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aura.events.catalogue import Event

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

#: (type, version it reads) → a function that returns the object at version + 1.
UPCASTERS: dict[tuple[str, int], Upcaster] = {}


def upcast(
    flat: dict[str, Any], model: type[Event], *, upcasters: Mapping[tuple[str, int], Upcaster] | None = None
) -> dict[str, Any]:
    """``flat`` at version ``model.V``. Raises ``ValueError`` for a version this code does not know."""
    version = flat.get("v")
    if version == model.V:
        return flat
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < model.V:
        raise ValueError(f"{model.TYPE} version {version!r} is not known to this code (today's is {model.V})")
    table = UPCASTERS if upcasters is None else upcasters
    for step in range(version, model.V):
        flat = {**table[(model.TYPE, step)](flat), "v": step + 1}
    return flat
