"""Figures: what a scenario reports, against which baseline, for which target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["meets", "misses", ""]


@dataclass(frozen=True, slots=True)
class Target:
    """What the issue asks for: bounds of the value itself, or of its ratio to the baseline."""

    at_most: float | None = None
    at_least: float | None = None
    ratio_at_least: float | None = None
    ratio_at_most: float | None = None

    def text(self, unit: str) -> str:
        """For the table."""
        parts = []
        if self.at_most is not None:
            parts.append(f"≤ {number(self.at_most)} {unit}")
        if self.at_least is not None:
            parts.append(f"≥ {number(self.at_least)} {unit}")
        if self.ratio_at_least is not None:
            parts.append(f"≥ {self.ratio_at_least:g} ×")
        if self.ratio_at_most is not None:
            parts.append(f"≤ {self.ratio_at_most:g} ×")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. ``note`` says what the reader must know to believe it; ``samples`` are the repeats."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    baseline_name: str = ""
    target: Target | None = None
    note: str = ""
    samples: Sequence[float] = field(default_factory=tuple)

    @property
    def ratio(self) -> float | None:
        """Value ÷ baseline."""
        return self.value / self.baseline if self.baseline else None

    @property
    def verdict(self) -> Verdict:
        """Whether the target is met; empty without one, or without the baseline that it needs."""
        target, ratio = self.target, self.ratio
        if target is None:
            return ""
        checks = [
            target.at_most is None or self.value <= target.at_most,
            target.at_least is None or self.value >= target.at_least,
        ]
        if target.ratio_at_least is not None or target.ratio_at_most is not None:
            if ratio is None:
                return ""
            checks.append(target.ratio_at_least is None or ratio >= target.ratio_at_least)
            checks.append(target.ratio_at_most is None or ratio <= target.ratio_at_most)
        return "meets" if all(checks) else "misses"

    def to_json(self) -> dict[str, Any]:
        """Everything, with ratio and verdict."""
        return asdict(self) | {"ratio": self.ratio, "verdict": self.verdict, "samples": list(self.samples)}


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def table(title: str, figures: Sequence[Figure]) -> str:
    """The figures of one scenario as aligned text."""
    rows = [("figure", "measured", "baseline", "ratio", "target", "verdict")]
    for one in figures:
        baseline = f"{number(one.baseline)} {one.unit}" if one.baseline is not None else ""
        if baseline and one.baseline_name:
            baseline += f" ({one.baseline_name})"
        rows.append(
            (
                one.name,
                f"{number(one.value)} {one.unit}",
                baseline,
                f"{one.ratio:.2f}" if one.ratio is not None else "",
                one.target.text(one.unit) if one.target else "",
                one.verdict,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"\n{title}"]
    for index, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
        if index == 0:
            lines.append("  " + "  ".join("─" * width for width in widths))
    notes = [f"  · {one.name}: {one.note}" for one in figures if one.note]
    return "\n".join(lines + notes)
