"""The retail example: what is read from a text, and that the numbers depend on it."""

from __future__ import annotations

import asyncio
import csv
import json
from typing import Any

import pytest

from aura.agents import AgentContext, AgentError, WorkflowContext
from examples.retail import analyst, forecaster, make_data, planner
from examples.retail.strategy import CATEGORIES, MAX_DISCOUNT, MAX_HORIZON, STORES, Parameters, extract, parameters


class Job:
    """A job that keeps its progress."""

    job_id, project_id, attempt, payload = "j", 1, 1, None

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def progress(self, percent: float, step: str = "", agent: str | None = None, data: Any = None) -> None:
        self.steps.append(step)

    async def session(self, event: str, **fields: Any) -> dict[str, Any]:
        return {}


def context(text: object = "", **results: Any) -> AgentContext:
    return AgentContext(WorkflowContext(Job(), "s", {"strategy_description": text}, results), "agent")


async def forecast(text: str) -> dict[str, Any]:
    chosen = extract(text).to_json()
    return await forecaster.forecast(context(strategy_analyst={"parameters": chosen, "understood": True}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Push ice cream in summer, 20% off for 8 weeks", ("frozen", 8, 20.0, 8, "summer", None)),
        ("Half price on winter jackets next quarter", ("apparel", 13, 50.0, 13, "winter", None)),
        ("soda at $2.99 for 3 months with a 2-week promotion of 15 percent", ("beverages", 13, 15.0, 2, None, 2.99)),
        ("Sell milk without a discount for ten weeks", ("dairy", 10, 0.0, 0, None, None)),
        ("Black Friday: toys 30 % discount", ("toys", 12, 30.0, 12, "black_friday", None)),
        ("Grow revenue by 10% somehow", ("beverages", 12, 0.0, 0, None, None)),
        ("bread for 9 years at 99% off", ("bakery", MAX_HORIZON, float(MAX_DISCOUNT), MAX_HORIZON, None, None)),
    ],
)
def test_a_text_is_read_by_rules(text: str, expected: tuple[Any, ...]) -> None:
    found = extract(text)
    assert (
        found.category, found.horizon_weeks, found.discount_pct, found.promotion_weeks, found.season, found.price
    ) == expected  # fmt: skip


def test_it_says_where_each_parameter_came_from() -> None:
    found = extract("shampoo in 20 stores in the northern region").to_json()
    assert (found["regions"], found["stores"]) == (["north"], 20)
    said = {name for name, source in found["sources"].items() if source == "text"}
    assert said == {"category", "regions", "stores"}
    assert extract("500 stores in the south").stores == STORES["south"]


def test_values_of_a_model_are_checked_one_by_one() -> None:
    nonsense = {
        "category": "weapons", "horizon_weeks": -4, "discount_pct": float("nan"), "season": ["summer"], "price": True,
        "regions": "north; drop table", "stores": None, "extra": 1,
    }  # fmt: skip
    assert parameters(nonsense, "model") == Parameters()
    assert parameters({"horizon_weeks": 10**9, "category": "toys"}, "model").horizon_weeks == MAX_HORIZON


def test_the_shipped_sales_are_what_the_script_makes() -> None:
    assert make_data.DATA.stat().st_size < 200_000
    with make_data.DATA.open(encoding="utf-8", newline="") as file:
        shipped = list(csv.reader(file))[1:]
    made = make_data.rows()
    assert len(shipped) == len(made) == len(CATEGORIES) * make_data.WEEKS
    for old, new in zip(shipped, made, strict=True):
        assert old[:4] == new[:4]
        assert all(abs(int(a) - int(b)) <= 1 for a, b in zip(old[4:], new[4:], strict=True))  # another libm may round


@pytest.mark.slow
async def test_the_forecast_depends_on_the_strategy() -> None:
    plain = await forecast("toys for 6 weeks")
    cheaper = await forecast("toys for 6 weeks, 30% discount")
    costly = await forecast("toys for 6 weeks at $29")
    northern = await forecast("toys for 6 weeks in the north")
    christmas = await forecast("toys for 6 weeks at christmas")
    summer = await forecast("toys for 6 weeks in summer")
    dairy = await forecast("milk for 6 weeks")

    def units(found: dict[str, Any]) -> int:
        return int(found["totals"]["units"])

    assert units(plain) == sum(row["units"] for row in plain["forecast"])
    assert len(plain["forecast"]) == 6
    assert plain["uplift"]["units"] == 0
    assert cheaper["uplift"]["units"] == units(cheaper) - units(plain) > 0
    assert units(costly) < units(plain)
    assert units(northern) < 0.6 * units(plain)
    assert units(christmas) > units(plain) > 2 * units(summer)
    assert units(dairy) > 2 * units(plain)
    for found in (plain, cheaper, costly, northern, christmas, dairy):
        assert all(row["lower"] < row["units"] < row["upper"] for row in found["forecast"])
        assert 0 < found["backtest"]["mape_pct"] < 15
        assert found["elasticity"]["price"] < 0 < found["elasticity"]["discount"]
        json.dumps(found)


@pytest.mark.slow
async def test_every_category_and_the_extremes_can_be_forecast() -> None:
    for category in CATEGORIES:
        found = await forecast(f"{category.replace('_', ' ')} for 52 weeks, 70% off at $1, starting in summer")
        assert len(found["forecast"]) == 52
        assert found["totals"]["units"] > 0


@pytest.mark.slow
async def test_the_plan_orders_more_than_is_expected() -> None:
    found = await forecast("snacks for 4 weeks, 10% off")
    chosen = extract("snacks for 4 weeks, 10% off").to_json()
    plan = await planner.recommend(
        context(strategy_analyst={"parameters": chosen, "understood": True}, demand_forecaster=found)
    )
    assert plan["order_units"] == found["totals"]["units"] + plan["safety_stock"] > found["totals"]["units"]
    assert plan["peak_week"] in {row["week"] for row in found["forecast"]}
    assert any("10 % discount" in line for line in plan["actions"])
    guessed = await planner.recommend(
        context(strategy_analyst={"parameters": chosen, "understood": False}, demand_forecaster=found)
    )
    assert (
        guessed["summary"] == f"Nothing in the text could be read as a strategy; with the defaults: {plan['summary']}"
    )


async def test_nothing_to_read_is_said_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AURA_LLM_URL", raising=False)
    for text in ("", "   ", None, 7):
        with pytest.raises(AgentError, match="no strategy"):
            await analyst.analyse(context(text))
    found = await analyst.analyse(context("Sell bread"))
    assert found["extractor"] == "rules"
    assert "discount pct: 0 (not in the text)" in found["assumptions"]
    assert found["understood"]
    assert not (await analyst.analyse(context("Make us proud")))["understood"]


@pytest.mark.parametrize(
    ("says", "extractor", "category"),
    [
        ('Sure: {"category": "toys", "discount_pct": 25}', "language model", "toys"),
        ('{"category": "weapons"}', "language model", "bakery"),
        ("I would rather not.", "rules", "bakery"),
        (None, "rules", "bakery"),
    ],
)
async def test_a_language_model_reads_it_where_there_is_one(
    says: str | None, extractor: str, category: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if says is None:
            writer.write(b"HTTP/1.1 500 Oh no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        else:
            chunk = json.dumps({"choices": [{"delta": {"content": says}, "finish_reason": "stop"}]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            writer.write(b"data: " + chunk + b"\n\ndata: [DONE]\n\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        monkeypatch.setenv("AURA_LLM_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        monkeypatch.setenv("AURA_LLM_MODEL", "tiny")
        found = await analyst.analyse(context("Sell bread"))
    assert (found["extractor"], found["parameters"]["category"]) == (extractor, category)
