"""Makes ``sales.csv``: three years of weekly sales of ten categories in three regions. All of it is synthetic.

Units of a week = level × trend × season × (list price effect) × (discount effect) × week-to-week noise that fades slowly, and then each
region's share of them with noise of its own. Prices rise a few times; every category is discounted now and then. The seed is fixed, so
the file is always the same: ``python -m examples.retail.make_data`` writes it again.
"""

from __future__ import annotations

import csv
import math
import random
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

DATA = Path(__file__).with_name("sales.csv")
FIRST_WEEK = date(2023, 1, 2)
WEEKS = 156
REGIONS = {"north": 0.42, "south": 0.33, "west": 0.25}
SEED = 20260101


@dataclass(frozen=True)
class Category:
    """How a category sells: units a week at first, growth a year, season (size, week of the peak), price, and what a price or a discount
    changes (elasticities of the logarithm of units)."""

    name: str
    level: float
    growth: float
    season: float
    peak: int
    price: float
    elasticity: float
    discount: float


CATEGORIES = (
    Category("beverages", 5200, 0.04, 0.28, 28, 2.49, -1.1, 2.2),
    Category("snacks", 4100, 0.03, 0.10, 50, 1.99, -1.0, 2.6),
    Category("dairy", 7600, 0.01, 0.05, 16, 1.29, -0.6, 1.2),
    Category("bakery", 6300, 0.02, 0.08, 51, 1.79, -0.7, 1.3),
    Category("produce", 8800, 0.03, 0.16, 30, 2.19, -0.8, 1.5),
    Category("frozen", 2900, 0.05, 0.35, 29, 3.99, -1.3, 2.8),
    Category("household", 2100, 0.00, 0.06, 14, 5.49, -0.9, 2.0),
    Category("personal_care", 1700, 0.02, 0.09, 26, 4.29, -1.0, 2.1),
    Category("toys", 900, 0.06, 0.75, 50, 19.99, -1.5, 3.0),
    Category("apparel", 1300, 0.03, 0.40, 47, 34.99, -1.4, 2.9),
)


def rows() -> list[list[str]]:
    """The lines of the file, without the heading."""
    found = []
    for number, category in enumerate(CATEGORIES):
        draw = random.Random(SEED + number)
        price, lasting, left, depth = category.price, 0.0, 0, 0
        for week in range(WEEKS):
            day = FIRST_WEEK + timedelta(weeks=week)
            if week and week % 26 == 0:
                price = round(category.price * (1 + draw.uniform(-0.06, 0.12)), 2)
            if left == 0 and draw.random() < 0.09:
                left, depth = draw.randint(1, 3), draw.choice((10, 15, 20, 25, 30))
            discount, left = (depth, left - 1) if left else (0, 0)
            lasting = 0.45 * lasting + draw.gauss(0, 0.035)
            swing = category.season * math.cos(2 * math.pi * (day.timetuple().tm_yday / 7 - category.peak) / 52.18)
            logarithm = (
                math.log(category.level)
                + math.log1p(category.growth) * week / 52
                + swing
                + category.elasticity * math.log(price / category.price)
                + category.discount * discount / 100
                + lasting
            )
            shares = [round(math.exp(logarithm) * share * math.exp(draw.gauss(0, 0.015))) for share in REGIONS.values()]
            found.append([day.isoformat(), category.name, f"{price:.2f}", str(discount), *map(str, shares)])
    return found


def main() -> None:
    """Write the file."""
    with DATA.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["week", "category", "price", "discount_pct", *REGIONS])
        writer.writerows(rows())


if __name__ == "__main__":
    main()
