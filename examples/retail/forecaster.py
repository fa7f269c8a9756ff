"""The demand forecaster: a regression with autoregressive errors (statsmodels' ARIMA) on the shipped weekly sales.

Logarithm of units = trend + two yearly waves + list price + depth of discount + AR(1) errors. The regressors are what the plan can
change, so a discount, a price, a season and a region give other numbers. Every forecast is made twice, with the plan and without its
discount: the difference is the uplift. A backtest holds back the last weeks, forecasts them and gives the error (MAPE).

Heavy: statsmodels (with numpy and pandas) is imported by the first forecast, not before, and everything that computes runs in a thread,
so that the worker's heartbeats go on.
"""

from __future__ import annotations

import asyncio
import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from aura.agents import AgentContext
from examples.retail.strategy import SEASONS, STORES

SALES = Path(__file__).with_name("sales.csv")
BACKTEST_WEEKS = 13
CONFIDENCE = 0.9
#: Prices further than this from the list price are outside what the sales ever saw.
_PRICE_RANGE = (0.6, 1.6)
_WAVES = 2
_YEAR_WEEKS = 52.1775


@dataclass(frozen=True, slots=True)
class History:
    """One category's weeks: units in the chosen regions, list price, discount in percent."""

    weeks: Sequence[date]
    units: Sequence[float]
    prices: Sequence[float]
    discounts: Sequence[float]


@dataclass(frozen=True, slots=True)
class Plan:
    """The weeks that are wanted, ``skip`` weeks after the history's end; price and discounts of each."""

    weeks: Sequence[date]
    skip: int
    price: float
    discounts: Sequence[float]


async def forecast(context: AgentContext) -> dict[str, Any]:
    """The forecast of the analyst's parameters: ``{forecast, totals, uplift, backtest, …}``."""
    chosen: Mapping[str, Any] = context.results["strategy_analyst"]["parameters"]
    await context.progress(
        5, "Loading the sales history", {"category": chosen["category"], "regions": chosen["regions"]}
    )
    history = await asyncio.to_thread(read_history, chosen["category"], chosen["regions"])
    plan = make_plan(history, chosen)
    await context.progress(20, "Loading the statistics library", {"weeks": len(history.weeks)})
    await asyncio.to_thread(_library)
    await context.progress(40, "Testing the model on weeks it has not seen", {"weeks": BACKTEST_WEEKS})
    error = await asyncio.to_thread(backtest, history)
    await context.progress(60, "Fitting the model", {"mape_pct": error})
    fitted = await asyncio.to_thread(_fit, history)
    await context.progress(80, "Forecasting", {"weeks": len(plan.weeks), "from": plan.weeks[0].isoformat()})
    result = await asyncio.to_thread(_told, fitted, history, plan, chosen)
    result["backtest"] = {"mape_pct": error, "weeks": BACKTEST_WEEKS}
    await context.progress(100, "Forecast is ready", {"units": result["totals"]["units"]})
    return result


def read_history(category: str, regions: Sequence[str]) -> History:
    """The shipped sales of one category. Raises ``OSError``."""
    with SALES.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] == category]
    return History(
        weeks=[date.fromisoformat(row["week"]) for row in rows],
        units=[float(sum(int(row[region]) for region in regions)) for row in rows],
        prices=[float(row["price"]) for row in rows],
        discounts=[float(row["discount_pct"]) for row in rows],
    )


def make_plan(history: History, chosen: Mapping[str, Any]) -> Plan:
    """Which weeks: the next ones, or from the start of the season that was named."""
    first = history.weeks[-1] + timedelta(weeks=1)
    skip = 0
    if chosen["season"] is not None:
        start, length = SEASONS[chosen["season"]]
        this_year = date.fromisocalendar(first.year, start, 1)
        if this_year + timedelta(weeks=length) <= first:
            this_year = date.fromisocalendar(first.year + 1, start, 1)
        skip = max(0, (this_year - first).days // 7)
    weeks = [first + timedelta(weeks=skip + index) for index in range(chosen["horizon_weeks"])]
    discounts = [chosen["discount_pct"] if index < chosen["promotion_weeks"] else 0.0 for index in range(len(weeks))]
    return Plan(weeks, skip, chosen["price"] or history.prices[-1], discounts)


def backtest(history: History) -> float:
    """Mean absolute error in percent over the last :data:`BACKTEST_WEEKS` weeks, forecast without knowing their sales."""
    known = len(history.weeks) - BACKTEST_WEEKS
    seen = History(history.weeks[:known], history.units[:known], history.prices[:known], history.discounts[:known])
    future = _regressors(history.weeks[known:], history.prices[known:], history.discounts[known:], history.weeks[0])
    expected = _fit(seen).get_forecast(BACKTEST_WEEKS, exog=future).predicted_mean
    errors = [abs(math.exp(said) - true) / true for said, true in zip(expected, history.units[known:], strict=True)]
    return round(100 * sum(errors) / len(errors), 2)


def _told(fitted: Any, history: History, plan: Plan, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The answer in numbers."""
    listed = history.prices[-1]
    price = min(max(plan.price, listed * _PRICE_RANGE[0]), listed * _PRICE_RANGE[1])
    scale = chosen["stores"] / sum(STORES[region] for region in chosen["regions"])
    planned = _predict(fitted, history, plan, price, plan.discounts)
    plain = _predict(fitted, history, plan, price, [0.0] * len(plan.weeks))
    weeks = []
    for index, week in enumerate(plan.weeks):
        units, lower, upper = (round(value * scale) for value in planned[index])
        weeks.append(
            {
                "week": week.isoformat(),
                "units": units,
                "lower": lower,
                "upper": upper,
                "baseline_units": round(plain[index][0] * scale),
                "discount_pct": plan.discounts[index],
            }
        )
    units, baseline = (sum(row[name] for row in weeks) for name in ("units", "baseline_units"))
    revenue = sum(row["units"] * price * (1 - row["discount_pct"] / 100) for row in weeks)
    usual = baseline * price
    return {
        "forecast": weeks,
        "totals": {
            "units": units,
            "lower": sum(row["lower"] for row in weeks),
            "upper": sum(row["upper"] for row in weeks),
            "price": round(price, 2),
            "revenue": round(revenue, 2),
        },
        "uplift": {
            "units": units - baseline,
            "units_pct": round(100 * (units - baseline) / baseline, 1) if baseline else 0.0,
            "revenue": round(revenue - usual, 2) + 0.0,  # never -0.0
            "baseline_units": baseline,
        },
        "confidence": CONFIDENCE,
        "method": "ARIMA(1,0,0) with regressors on log units: trend, yearly waves, price, discount",
        "elasticity": {
            "price": round(float(fitted.params["price"]), 2),
            "discount": round(float(fitted.params["discount"]), 2),
        },
        "price_limited": price != plan.price,
        "data": "synthetic weekly sales, shipped with the example",
    }


def _predict(
    fitted: Any, history: History, plan: Plan, price: float, discounts: Sequence[float]
) -> list[tuple[float, float, float]]:
    """Expected units and their bounds for the weeks of the plan; nothing special happens in the weeks before them."""
    first = history.weeks[-1] + timedelta(weeks=1)
    steps = plan.skip + len(plan.weeks)
    weeks = [first + timedelta(weeks=index) for index in range(steps)]
    prices = [history.prices[-1]] * plan.skip + [price] * len(plan.weeks)
    future = _regressors(weeks, prices, [0.0] * plan.skip + list(discounts), history.weeks[0])
    said = fitted.get_forecast(steps, exog=future).summary_frame(alpha=1 - CONFIDENCE)
    columns = ("mean", "mean_ci_lower", "mean_ci_upper")
    rows = zip(*(said[name] for name in columns), strict=True)
    return [(math.exp(mean), math.exp(lower), math.exp(upper)) for mean, lower, upper in list(rows)[plan.skip :]]


def _fit(history: History) -> Any:
    """The fitted model."""
    pandas, arima = _library()
    known = _regressors(history.weeks, history.prices, history.discounts, history.weeks[0])
    logarithms = pandas.Series([math.log(units) for units in history.units])
    # Generalised least squares for the regressors, likelihood for the errors: a fifth of a second, and it always converges.
    return arima.ARIMA(logarithms, exog=known, order=(1, 0, 0), trend="c").fit(method="innovations_mle")


def _regressors(weeks: Sequence[date], prices: Sequence[float], discounts: Sequence[float], origin: date) -> Any:
    pandas, _ = _library()
    columns: dict[str, list[float]] = {
        "years": [(week - origin).days / 365.25 for week in weeks],
        "price": [math.log(price) for price in prices],
        "discount": [discount / 100 for discount in discounts],
    }
    for wave in range(1, _WAVES + 1):
        angles = [2 * math.pi * wave * week.timetuple().tm_yday / 7 / _YEAR_WEEKS for week in weeks]
        columns[f"sin{wave}"] = [math.sin(angle) for angle in angles]
        columns[f"cos{wave}"] = [math.cos(angle) for angle in angles]
    return pandas.DataFrame(columns)


def _library() -> tuple[Any, Any]:
    """pandas and statsmodels' ARIMA models, imported by whoever needs them first."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one forecast is small; threads would only cost memory
    import pandas as pd
    from statsmodels.tsa.arima import model

    return pd, model
