"""The planner: what the forecast means for ordering, and whether the strategy pays."""

from __future__ import annotations

import math
from typing import Any

from aura.agents import AgentContext

#: What a unit costs, as a part of its list price; the same for every category.
COST = 0.6


async def recommend(context: AgentContext) -> dict[str, Any]:
    """``{summary, actions, order_units, safety_stock, peak_week, margin_change}``."""
    chosen = context.results["strategy_analyst"]["parameters"]
    found = context.results["demand_forecaster"]
    totals, uplift, weeks = found["totals"], found["uplift"], found["forecast"]
    await context.progress(20, "Sizing the order", {"units": totals["units"]})
    safety = math.ceil(sum((row["upper"] - row["units"]) ** 2 for row in weeks) ** 0.5)
    order = totals["units"] + safety
    peak = max(weeks, key=lambda row: row["units"])
    await context.progress(60, "Weighing the promotion", {"uplift_units": uplift["units"]})
    margin = uplift["revenue"] - uplift["units"] * totals["price"] * COST
    actions = [
        f"Order {order} units of {_plain(chosen['category'])}: {totals['units']} expected and {safety} in reserve.",
        f"Have the most on the shelf in the week of {peak['week']} ({peak['units']} units).",
    ]
    if chosen["discount_pct"]:
        verdict = "Run" if margin > 0 else "Reconsider"
        actions.append(
            f"{verdict} the {chosen['discount_pct']:g} % discount: {uplift['units_pct']:g} % more units, "
            f"margin {'up' if margin > 0 else 'down'} by {abs(margin):.0f} if a unit costs {COST:.0%} of its price."
        )
    if found["price_limited"]:
        actions.append(
            f"Check the price: the sales never saw one so far off; the forecast is for {totals['price']:.2f}."
        )
    summary = (
        f"{totals['units']} units of {_plain(chosen['category'])} in {len(weeks)} weeks from {weeks[0]['week']} "
        f"({totals['lower']} to {totals['upper']}), {uplift['units']:+d} through the discount."
    )
    if not context.results["strategy_analyst"]["understood"]:
        summary = f"Nothing in the text could be read as a strategy; with the defaults: {summary}"
    await context.progress(100, "The plan is ready", {"order_units": order})
    return {
        "summary": summary,
        "actions": actions,
        "order_units": order,
        "safety_stock": safety,
        "peak_week": peak["week"],
        "margin_change": round(margin, 2),
    }


def _plain(category: str) -> str:
    return category.replace("_", " ")
