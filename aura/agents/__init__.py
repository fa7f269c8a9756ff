"""Agents: small experts that a workflow calls one after another, with progress that everybody can watch.

::

    handoff = AgentHandoff()

    @handoff.agent("forecast")
    async def forecast(context: AgentContext) -> dict:
        await context.progress(50, "fitting")
        return {"units": 7}

    async def run(context: WorkflowContext) -> dict:
        return await handoff.call("forecast", context, timeout=30)

    workflow = Workflow("retail", handoff, run)

A workflow is one ordinary job; its worker is ``aura worker --workflows retail=package.module:workflow``.
"""

from aura.agents.context import AgentContext, WorkflowContext
from aura.agents.handoff import AgentHandoff
from aura.agents.workflow import Workflow, workflow_handler
from aura.errors import AgentError

__all__ = ["AgentContext", "AgentError", "AgentHandoff", "Workflow", "WorkflowContext", "workflow_handler"]
