"""Client-facing vocabularies over the same feed: pure translators, one module each. ``docs/reference/live.md`` is what users read."""
