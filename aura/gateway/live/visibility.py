"""What one client may follow (G13), in the words of the live feeds."""

from __future__ import annotations

from aura.errors import Forbidden
from aura.events.subjects import EVERYTHING, LOG_SUBJECTS, job_guard, session_guard
from aura.gateway.access.principal import Principal
from aura.gateway.access.subjects import Within
from aura.gateway.ports import LiveAccess


class Visibility:
    """A principal's view. It does not change: when the principal's rights do, the connection is ended."""

    def __init__(self, access: LiveAccess, principal: Principal) -> None:
        self._access = access
        self._visible = access.visible(principal)
        self._within = Within(self._visible)
        self.principal = principal

    def everything(self) -> tuple[str, ...]:
        """All that it may follow: ``subjects.EVERYTHING``, or less."""
        return self._visible

    def of_log(self) -> tuple[str, ...]:
        """Of that, the log."""
        visible = self._visible
        return LOG_SUBJECTS if visible == EVERYTHING else tuple(pattern for pattern in visible if _is_log(pattern))

    def may(self, pattern: str) -> bool:
        """Whether a pattern lies within it."""
        return self._within(pattern)

    def refused(self, target: str) -> None:
        """It asked for what it may not follow: that is recorded."""
        self._access.denied(self.principal, "log.follow", target)

    def check(self, pattern: str) -> None:
        """Raises ``Forbidden``."""
        if not self.may(pattern):
            self.refused(pattern)
            raise Forbidden("this subject is not yours to follow")

    def job(self, project: int, job_id: str) -> bool:
        """Whether a job's events and output are."""
        return self.may(job_guard(project, job_id)) and self.output(project, job_id)

    def output(self, project: int, job_id: str) -> bool:
        """Whether a job's output is."""
        return self.may(f"aura.output.{project}.{job_id}.>")

    def session(self, project: int, session_id: str) -> bool:
        """Whether a session's events are."""
        return self.may(session_guard(project, session_id))


def _is_log(pattern: str) -> bool:
    return pattern.startswith(("aura.job.", "aura.model.", "aura.session.", "aura.system."))
