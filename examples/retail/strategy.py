"""The parameters of a strategy: what they may be, and how they are read from plain words without a language model.

Every parameter has a default and remembers where it came from (``text``, ``model`` or ``default``), so that the answer can say what was
assumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

#: Stores behind the sales, by region: asking for fewer stores scales the forecast.
STORES = {"north": 42, "south": 33, "west": 25}
MAX_HORIZON, MAX_DISCOUNT = 52, 70
_DEFAULT_HORIZON = 12
_WORDS: Mapping[str, tuple[str, ...]] = {
    "beverages": ("beverage", "drink", "soda", "juice", "lemonade", "cola", "water", "coffee", "tea", "beer"),
    "snacks": ("snack", "crisp", "chips", "chocolate", "candy", "sweets", "cookie", "biscuit", "nuts"),
    "dairy": ("dairy", "milk", "cheese", "yogurt", "yoghurt", "butter", "cream cheese"),
    "bakery": ("bakery", "bread", "pastry", "pastries", "cake", "croissant", "baked"),
    "produce": ("produce", "fruit", "vegetable", "salad", "berries", "strawberr", "apple", "tomato"),
    "frozen": ("frozen", "ice cream", "ice-cream", "gelato", "popsicle", "pizza"),
    "household": ("household", "cleaning", "detergent", "laundry", "kitchen roll", "toilet paper"),
    "personal_care": ("personal care", "shampoo", "cosmetic", "soap", "skincare", "sunscreen", "toothpaste", "beauty"),
    "toys": ("toy", "game", "puzzle", "doll", "lego"),
    "apparel": ("apparel", "clothing", "clothes", "jacket", "coat", "shirt", "shoes", "fashion", "sweater", "swimwear"),
}
CATEGORIES = tuple(_WORDS)
#: First ISO week and length of each season.
SEASONS: Mapping[str, tuple[int, int]] = {
    "spring": (9, 13),
    "summer": (22, 13),
    "autumn": (35, 13),
    "winter": (49, 12),
    "easter": (13, 3),
    "back_to_school": (33, 4),
    "halloween": (42, 3),
    "black_friday": (47, 2),
    "christmas": (48, 5),
}
_SEASON_WORDS = {
    "fall season": "autumn",
    "this fall": "autumn",
    "next fall": "autumn",
    "back to school": "back_to_school",
    "back-to-school": "back_to_school",
    "black friday": "black_friday",
    "cyber monday": "black_friday",
    "xmas": "christmas",
    "holiday season": "christmas",
    **{name: name for name in SEASONS if "_" not in name},
}
_NUMBERS = dict(
    zip(
        "one two three four five six seven eight nine ten eleven twelve".split(),  # noqa: SIM905 - reads better
        range(1, 13),
        strict=True,
    )
) | {"a": 1, "an": 1}
_COUNT = rf"(\d{{1,3}}|{'|'.join(_NUMBERS)})"
_SPAN = re.compile(rf"\b{_COUNT}[\s-]*(day|week|month|quarter|year)s?\b")
_PER = {"day": 1 / 7, "week": 1.0, "month": 52 / 12, "quarter": 13.0, "year": 52.0}
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*(?:%|percent|per cent)")
_PRICE = re.compile(
    r"(?:[$€£]\s*(\d{1,5}(?:[.,]\d{1,2})?))|(?:(\d{1,5}(?:[.,]\d{1,2})?)\s*(?:[$€£]|dollars?|euros?|usd|eur)\b)"
)
_STORES = re.compile(rf"\b{_COUNT}\s+(?:\w+\s+)?(?:stores?|shops?|outlets?|branches)\b")
_PROMOTION = ("discount", "promotion", "promo", "sale", " off", "campaign", "deal", "offer")


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the forecast is made for. ``price`` ``None``: the list price stays. ``sources`` says where each came from."""

    category: str = "beverages"
    horizon_weeks: int = _DEFAULT_HORIZON
    discount_pct: float = 0.0
    promotion_weeks: int = 0
    season: str | None = None
    price: float | None = None
    regions: tuple[str, ...] = tuple(STORES)
    stores: int = sum(STORES.values())
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Flat JSON, with ``sources``."""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        known = {name: self.sources.get(name, "default") for name in named if name != "sources"}
        return named | {"regions": list(self.regions), "sources": known}


def parameters(found: Mapping[str, Any], source: str, base: Parameters | None = None) -> Parameters:
    """``found`` checked and put over ``base`` (else the defaults); what is not usable is left out. Never raises."""
    start = base or Parameters()
    taken: dict[str, Any] = {}
    if found.get("category") in CATEGORIES:
        taken["category"] = found["category"]
    if found.get("season") in tuple(SEASONS):  # it may be anything, also what cannot be a key
        taken["season"] = found["season"]
    for name, least, most in (("horizon_weeks", 1, MAX_HORIZON), ("promotion_weeks", 1, MAX_HORIZON)):
        if (number := _number(found.get(name))) is not None and round(number) >= least:
            taken[name] = min(most, round(number))
    if (discount := _number(found.get("discount_pct"))) is not None and 0 <= discount <= 100:
        taken["discount_pct"] = min(float(MAX_DISCOUNT), float(discount))
    if (price := _number(found.get("price"))) is not None and 0 < price < 100_000:
        taken["price"] = float(price)
    wanted = found.get("regions")
    if isinstance(wanted, list | tuple) and (regions := tuple(name for name in STORES if name in wanted)):
        taken["regions"] = regions
    regions = taken.get("regions", start.regions)
    there = sum(STORES[name] for name in regions)
    if (stores := _number(found.get("stores"))) is not None and stores >= 1:
        taken["stores"] = min(there, round(stores))
    sources = {**start.sources, **dict.fromkeys(taken, source)}
    made = replace(start, **({"stores": min(start.stores, there)} | taken), sources=sources)
    if made.discount_pct and not made.promotion_weeks:
        return replace(made, promotion_weeks=made.horizon_weeks)
    return replace(made, promotion_weeks=min(made.promotion_weeks, made.horizon_weeks))


def extract(text: str) -> Parameters:
    """Read a strategy by rules. The same text gives the same parameters."""
    words = text.lower()
    found: dict[str, Any] = {
        "category": _category(words),
        "season": next((season for said, season in _SEASON_WORDS.items() if re.search(rf"\b{said}\b", words)), None),
        "discount_pct": _discount(words),
        "price": _price(words),
        "regions": [name for name in STORES if re.search(rf"\b{name}(?:ern)?\b", words)] or None,
        **_spans(words),
    }
    if stores := _STORES.search(words):
        found["stores"] = _count(stores.group(1))
    return parameters(found, "text")


def _category(words: str) -> str | None:
    places = {
        category: min((at.start() for said in synonyms if (at := re.search(rf"\b{said}", words))), default=-1)
        for category, synonyms in _WORDS.items()
    }
    named = {category: at for category, at in places.items() if at >= 0}
    return min(named, key=named.__getitem__) if named else None


def _discount(words: str) -> float | None:
    if re.search(r"\bhalf[\s-]price\b|buy one,? get one|\bbogo\b|\b2 for 1\b|\btwo for one\b", words):
        return 50.0
    percents = [(at.start(), float(at.group(1))) for at in _PERCENT.finditer(words)]
    if not percents:
        return None if not re.search(r"\bno discount|without (?:a )?(?:discount|promotion)", words) else 0.0
    near = [value for at, value in percents if any(said in words[max(0, at - 30) : at + 30] for said in _PROMOTION)]
    return near[0] if near else None


def _price(words: str) -> float | None:
    at = _PRICE.search(words)
    return float((at.group(1) or at.group(2)).replace(",", ".")) if at else None


def _spans(words: str) -> dict[str, int]:
    """Stretches of time: one that stands before a word for a promotion is its length, the longest other one the horizon."""
    found: dict[str, int] = {}
    for at in _SPAN.finditer(words):
        weeks = max(1, round(_count(at.group(1)) * _PER[at.group(2)]))
        after = words[at.end() : at.end() + 25]
        name = (
            "promotion_weeks"
            if re.match(r"[\s-]*(?:long\s+)?(?:promo|discount|sale\b|campaign|deal|offer)", after)
            else "horizon_weeks"
        )
        found[name] = max(found.get(name, 0), weeks)
    if "horizon_weeks" not in found:
        for said, weeks in (
            ("half a year", 26),
            ("half year", 26),
            ("next quarter", 13),
            ("next month", 4),
            ("next year", 52),
        ):
            if said in words:
                found["horizon_weeks"] = weeks
    return found


def _count(text: str) -> int:
    return int(text) if text.isdigit() else _NUMBERS[text]


def _number(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12  # no NaN either
    return float(value) if usable else None  # type: ignore[arg-type]
