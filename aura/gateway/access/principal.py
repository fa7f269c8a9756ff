"""Who asks: what a key, a token or nobody in particular may do, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from aura.gateway.access.matrix import ALLOWED, ANONYMOUS_ROLE, PUBLIC


@dataclass(frozen=True, slots=True)
class Principal:
    """``actor`` is what events name. ``projects``: ``None`` = all. ``expires_at``: Unix seconds. ``key_id``: of an API key."""

    actor: str
    roles: frozenset[str]
    projects: frozenset[int] | None = None
    expires_at: float | None = None
    key_id: str | None = None

    def may(self, action: str, project: int | None = None) -> bool:
        """Whether the matrix allows ``action``, and (if one is named) the project is one of the principal's."""
        if action not in PUBLIC and not (self.roles & ALLOWED[action]):
            return False
        return project is None or self.sees(project)

    def sees(self, project: int) -> bool:
        """Whether the project is one of the principal's."""
        return self.projects is None or project in self.projects

    def actions(self) -> list[str]:
        """Everything it may do, for a client that wants to know beforehand."""
        return sorted(action for action, roles in ALLOWED.items() if roles & self.roles)


#: Everybody in mode ``open``.
ANONYMOUS = Principal("anonymous", frozenset({ANONYMOUS_ROLE}))
#: Somebody without credentials where they are needed: may only what is public.
NOBODY = Principal("anonymous", frozenset(), frozenset())
#: Whoever sent the configured ``x-director-key``.
DIRECTOR = Principal("director:configured", frozenset({"director"}))
