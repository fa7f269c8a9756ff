"""Full jitter: evenly from 0 to a bound that doubles, and only a try that held starts anew."""

from __future__ import annotations

import pytest

from aura.client.backoff import Backoff
from aura.clock import ManualClock
from aura.ids import SystemIds


class Dice(SystemIds):
    """Draws what the test says: ``share`` of the bound."""

    share = 1.0

    def random_bytes(self, n: int) -> bytes:
        return min(int(self.share * 256**n), 256**n - 1).to_bytes(n)


async def _no_sleep(_pause_s: float) -> None:
    """Time is the test's."""


@pytest.fixture
def dice() -> Dice:
    return Dice()


async def test_the_bound_doubles_up_to_the_most(dice: Dice) -> None:
    backoff = Backoff(ManualClock(), dice, first_s=0.1, most_s=1.0, sleep=_no_sleep)
    assert [round(await backoff.wait(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


async def test_the_whole_range_is_drawn(dice: Dice) -> None:
    backoff = Backoff(ManualClock(), dice, first_s=1.0, most_s=1.0, sleep=_no_sleep)
    dice.share = 0.0
    assert await backoff.wait() == 0.0
    dice.share = 0.25
    assert await backoff.wait() == 0.25
    assert await backoff.wait(at_least_s=3) == 3.25, "what the server asked for comes on top"


async def test_only_what_held_starts_anew(dice: Dice) -> None:
    clock = ManualClock()
    backoff = Backoff(clock, dice, first_s=0.1, most_s=10.0, steady_s=5.0, sleep=_no_sleep)
    for expected in (0.1, 0.2):
        backoff.began()
        clock.advance(1)  # it broke off at once: the pauses go on growing
        assert round(await backoff.wait(), 3) == expected
    backoff.began()
    clock.advance(5)
    assert round(await backoff.wait(), 3) == 0.1


async def test_it_grows_no_further_after_a_year(dice: Dice) -> None:
    backoff = Backoff(ManualClock(), dice, most_s=10.0, sleep=_no_sleep)
    for _ in range(2_000):
        pause = await backoff.wait()
    assert round(pause, 3) == 10.0
