"""Which part of the log a principal may follow, as subject patterns. Pure."""

from __future__ import annotations

from aura.events.subjects import LOG_SUBJECTS, OUTPUT_SUBJECT
from aura.gateway.access.principal import Principal

#: Everything a gateway relays; the same as ``live.hub.EVERYTHING``.
EVERYTHING = (*LOG_SUBJECTS, OUTPUT_SUBJECT, "health.aura.>")
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
    outer, inner = wide.split("."), narrow.split(".")
    for index, token in enumerate(outer):
        if token == ">":  # noqa: S105 - a token of a subject
            return len(inner) > index
        if index >= len(inner) or inner[index] == ">" or (token != "*" and token != inner[index]):  # noqa: S105
            return False
    return len(outer) == len(inner)


def may_follow(principal: Principal, pattern: str) -> bool:
    """Whether a client's pattern lies within what is visible."""
    allowed = visible(principal)
    return allowed == EVERYTHING or any(covers(one, pattern) for one in allowed)
