"""What a scenario gets: a folder, how thorough to be, and where to report."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figure
from bench.machine import say
from bench.samples import median


@dataclass
class Bench:
    """One run. ``quick`` shrinks sizes and repeats so that everything fits in a few minutes."""

    quick: bool
    folder: Path
    figures: list[Figure] = field(default_factory=list)

    def report(self, figure: Figure) -> None:
        """Add a figure to the scenario's table."""
        self.figures.append(figure)
        say(f"    {figure.name}: {figure.value:.4g} {figure.unit} {figure.verdict}")

    def pick(self, full: int, quick: int) -> int:
        """A size or a number of repeats."""
        return quick if self.quick else full

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """An empty folder that goes when the block ends."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One measurement. ``about`` is one line for ``--help``."""

    name: str
    about: str
    run: Callable[[Bench], Awaitable[None]]


async def interleaved(
    rounds: int, *parts: Callable[[], Awaitable[float]], warm_up: bool = True
) -> list[tuple[float, list[float]]]:
    """Run the parts in turn, ``rounds`` times: a slow minute of the machine meets all of them. Returns median and samples
    of each part. One round before counts for nothing."""
    samples: list[list[float]] = [[] for _ in parts]
    for number in range(rounds + warm_up):
        for part, kept in zip(parts, samples, strict=True):
            value = await part()
            if number or not warm_up:
                kept.append(value)
    return [(median(kept), kept) for kept in samples]
