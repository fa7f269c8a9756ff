"""The worked example: strategy text → parameters → demand forecast → plan.

``aura up`` runs it; by hand: ``aura worker --workflows retail=examples.retail.workflow:workflow``.
"""

from __future__ import annotations

from typing import Any

from aura.agents import AgentHandoff, Workflow, WorkflowContext
from examples.retail import analyst, forecaster, planner

handoff = AgentHandoff()
handoff.register("strategy_analyst", analyst.analyse)
handoff.register("demand_forecaster", forecaster.forecast)
handoff.register("planner", planner.recommend)


async def run(context: WorkflowContext) -> dict[str, Any]:
    """The result of ``POST /run-workflow``."""
    read = await handoff.call("strategy_analyst", context, timeout=60)
    forecast = await handoff.call("demand_forecaster", context, timeout=180)
    plan = await handoff.call("planner", context, timeout=30)
    return {
        "workflow": "retail",
        "summary": plan["summary"],
        "parameters": read["parameters"],
        "extractor": read["extractor"],
        "understood": read["understood"],
        "assumptions": read["assumptions"],
        **forecast,
        "recommendation": plan,
    }


workflow = Workflow("retail", handoff, run)
