"""What a workflow and its agents are given: the input, what earlier agents found, and the ways to speak while they work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol


class Job(Protocol):
    """The part of the worker's ``JobContext`` that agents need."""

    payload: Any
    job_id: str
    project_id: int
    attempt: int

    async def progress(
        self, percent: float, step: str = "", agent: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Add a progress record to the job's output."""

    async def session(self, event: str, **fields: Any) -> dict[str, Any]:
        """Report a step of the job's session: ``{session_id, status, seq}``. Raises ``Refused``."""

    async def snooze(self, seconds: float) -> NoReturn:
        """Give the job back for later; ends the handler."""


@dataclass(slots=True)
class WorkflowContext:
    """One run. ``input`` is what was asked, ``results`` what each agent returned, by its name. ``session_id`` is ``None`` for a job that
    belongs to no session: it runs the same, and only its output tells of it."""

    job: Job
    session_id: str | None
    input: Mapping[str, Any]
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


class AgentContext:
    """One agent's turn. ``input`` and ``results`` are the workflow's."""

    __slots__ = ("_run", "agent")

    def __init__(self, run: WorkflowContext, agent: str) -> None:
        self._run = run
        self.agent = agent

    @property
    def input(self) -> Mapping[str, Any]:
        """What was asked."""
        return self._run.input

    @property
    def results(self) -> Mapping[str, dict[str, Any]]:
        """What the agents before returned, by name."""
        return self._run.results

    @property
    def session_id(self) -> str | None:
        """Which session."""
        return self._run.session_id

    @property
    def job(self) -> Job:
        """The job that runs the workflow."""
        return self._run.job

    async def progress(self, percent: float, step: str, data: Mapping[str, Any] | None = None) -> None:
        """How far this agent is, for everybody who watches: ``percent`` 0–100, ``data`` a JSON object of at most 4 KiB."""
        await self._run.job.progress(percent, step, agent=self.agent, data=data)
