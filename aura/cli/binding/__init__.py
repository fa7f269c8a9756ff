"""Adapters between packages that may not know each other: the composition root's own parts, one port each."""
