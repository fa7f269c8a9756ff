"""Which part of the log a principal may follow, as subject patterns. Pure."""

from __future__ import annotations

from aura.events.subjects import EVERYTHING, OUTPUT_SUBJECT
from aura.gateway.access.principal import Principal

_OF_ALL = ("aura.job.>", "aura.model.>", "aura.session.>", OUTPUT_SUBJECT, "health.aura.>")


def visible(principal: Principal) -> tuple[str, ...]:
    """The patterns that together are all it may follow. Heartbeats name jobs of any project, and system events speak of the whole
    installation, so whoever is limited to projects gets neither."""
    if not principal.may("log.follow"):
        return ()
    if principal.projects is None:
        return EVERYTHING if principal.may("log.system") else _OF_ALL
    own = sorted(principal.projects)
    return (
        *(f"aura.{kind}.{project}.>" for project in own for kind in ("job", "session", "output")),
        "aura.model.>",
    )


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject that ``narrow`` selects is selected by ``wide`` too."""
    return _covers(wide.split("."), narrow.split("."))


def _covers(outer: list[str], inner: list[str]) -> bool:
    for index, token in enumerate(outer):
        if token == ">":  # noqa: S105 - a token of a subject
            return len(inner) > index
        if index >= len(inner) or inner[index] == ">" or (token != "*" and token != inner[index]):  # noqa: S105
            return False
    return len(outer) == len(inner)


class Within:
    """Whether patterns lie within a set of them, which is taken apart once: a client may ask often."""

    __slots__ = ("_allowed", "_everything")

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._everything = allowed == EVERYTHING
        self._allowed = [] if self._everything else [pattern.split(".") for pattern in allowed]

    def __call__(self, pattern: str) -> bool:
        if self._everything:
            return True
        inner = pattern.split(".")
        return any(_covers(outer, inner) for outer in self._allowed)


def may_follow(principal: Principal, pattern: str) -> bool:
    """Whether a client's pattern lies within what is visible."""
    return Within(visible(principal))(pattern)
