"""Calls agents by name and tells the session's story: who started, how far they are, how they ended.

::

    called ─▶ agent_started ─▶ progress … ─▶ agent_completed          returned
                                         └▶ agent_failed              raised, or took too long

Invariants: every agent that started in an attempt completes or fails in it, unless the job itself ends first (cancelled, lease lost,
worker drained: then the session ends, or is told anew, by the job). What an agent raises reaches users only if it is an
:class:`~aura.errors.AgentError`, whose text is meant for them; anything else becomes a generic sentence and its details go to the
worker's log. An agent's result is a JSON object, kept with the job as content.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from aura.agents.context import AgentContext, WorkflowContext
from aura.clock import Clock, SystemClock
from aura.errors import AgentError, AgentTimeout, ConfigError, JobError, Retryable, UnknownAgent
from aura.events.subjects import check_name

log = structlog.get_logger("aura.agents")

Agent = Callable[[AgentContext], Awaitable[Mapping[str, Any] | None]]
#: Most characters of a sentence for users (it is kept in the log).
MAX_MESSAGE = 200
DEFAULT_TIMEOUT_S = 120.0
_NOT_A_CODE = re.compile(r"[^A-Za-z0-9_.-]")


class AgentHandoff:
    """See the module docstring."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._agents: dict[str, Agent] = {}
        self._clock = clock or SystemClock()

    @property
    def names(self) -> list[str]:
        """Every registered agent."""
        return sorted(self._agents)

    def register(self, name: str, agent: Agent) -> None:
        """Make ``agent`` known. Raises ``InvalidRequest`` for a bad name, ``ConfigError`` for one that is taken."""
        if check_name(name, "agent") in self._agents:
            raise ConfigError(f"two agents are called {name}")
        self._agents[name] = agent

    def agent(self, name: str) -> Callable[[Agent], Agent]:
        """The same as a decorator: ``@handoff.agent("forecast")``."""

        def remember(agent: Agent) -> Agent:
            self.register(name, agent)
            return agent

        return remember

    async def call(
        self,
        agent: str,
        context: WorkflowContext,
        timeout: float = DEFAULT_TIMEOUT_S,
        session_id: str | None = None,
    ) -> dict[str, Any]:
        """Run one agent and return what it found, which is in ``context.results`` from then on.

        ``timeout`` is in seconds; ``session_id`` is the context's unless it is given. Raises ``UnknownAgent`` (nothing was started),
        ``AgentTimeout``, ``AgentError``, ``Retryable`` when the agent raised that; ``Refused`` when the session cannot be told.
        """
        found = self._agents.get(agent)
        if found is None:
            known = ", ".join(self.names) or "none"
            raise UnknownAgent(_cut(f"There is no agent {agent!r}; known agents: {known}."))
        telling = _Telling(context, agent, session_id or context.session_id)
        started_s = self._clock.monotonic_s()
        await telling.say("agent_started")
        try:
            result = await self._run(found, agent, context, timeout)
        except AgentError as error:
            await telling.say("agent_failed", error_code=_code(error), message=_cut(error.detail) or _generic(agent))
            raise
        except Retryable as error:
            log.warning(
                "agent.retryable", agent=agent, job_id=context.job.job_id, code=error.error_code, why=error.detail
            )
            await telling.say("agent_failed", error_code=_code(error), message=_generic(agent))
            raise
        duration_ms = round((self._clock.monotonic_s() - started_s) * 1000)
        await telling.say("agent_completed", duration_ms=duration_ms, output=result)
        context.results[agent] = result
        return result

    async def _run(self, found: Agent, agent: str, context: WorkflowContext, timeout: float) -> dict[str, Any]:
        """The agent's result. Raises ``AgentError``, ``Retryable`` and what cancels the job."""
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                result = await found(AgentContext(context, agent))
            return dict(result or {})
        except (AgentError, Retryable):
            raise
        except Exception as error:  # an agent may raise anything; users read none of it
            if isinstance(error, TimeoutError) and limit.expired():
                log.warning("agent.timed_out", agent=agent, job_id=context.job.job_id, timeout_s=timeout)
                raise AgentTimeout(f"The agent {agent} took longer than {timeout:g} seconds.") from None
            log.error("agent.failed", agent=agent, job_id=context.job.job_id, exc_info=error)
            raise AgentError(_generic(agent)) from error


class _Telling:
    """Tells the session of one agent; nothing for a job without a session."""

    def __init__(self, context: WorkflowContext, agent: str, session_id: str | None) -> None:
        self._job = context.job
        self._agent = agent
        self._session_id = session_id

    async def say(self, event: str, **fields: Any) -> None:
        if self._session_id is not None:
            await self._job.session(event, session_id=self._session_id, agent=self._agent, **fields)


def _code(error: JobError) -> str:
    return _NOT_A_CODE.sub("_", error.error_code)[:64] or AgentError.code


def _generic(agent: str) -> str:
    return f"The agent {agent} could not finish its work."


def _cut(text: str) -> str:
    """One line that a person can read, short enough for the log."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if len(plain) <= MAX_MESSAGE else plain[: MAX_MESSAGE - 1] + "…"
