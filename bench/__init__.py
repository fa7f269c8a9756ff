"""Measurements: each figure of the issue next to a baseline of the same run. ``python -m bench --help``.

Nothing here is imported by the product, and nothing here fails because of time: a figure that misses its target is a line in a
table, not an exit status. ``docs/benchmarks.md`` says how to read them.
"""
