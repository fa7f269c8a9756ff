"""What ``aura doctor`` says of settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from aura.cli.checkup import _Checkup
from aura.config import MIN_DIRECTOR_KEY, Settings


@pytest.mark.parametrize(
    ("key", "state"), [("x" * (MIN_DIRECTOR_KEY - 1), "warn"), ("x" * MIN_DIRECTOR_KEY, "ok"), (None, "ok")]
)
async def test_a_short_directors_key_is_a_warning_that_does_not_show_it(
    tmp_path: Path, key: str | None, state: str
) -> None:
    settings = Settings(data_dir=tmp_path, director_api_key=key)
    found = await _Checkup(settings, "http://127.0.0.1:1")._discover()
    assert found.state == state
    if key is not None:
        assert key not in found.found + found.mend
