"""Limits of what goes into records, for those who send it and those who take it."""

from __future__ import annotations

#: Most bytes of the JSON object that goes with a progress report.
MAX_DATA = 4 * 1024
