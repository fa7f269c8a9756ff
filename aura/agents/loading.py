"""Workflows by name: ``name=module:attribute``, found beside the package (a checkout) or in the working folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from aura.agents.workflow import Workflow
from aura.errors import ConfigError


def load_workflows(specs: Iterable[str]) -> list[Workflow]:
    """Import each. Raises ``ConfigError`` for one that is not there or not a workflow."""
    found = []
    for place in (str(Path(__file__).resolve().parents[2]), ""):
        if place not in sys.path:
            sys.path.insert(0, place)
    for spec in specs:
        name, equals, where = spec.partition("=")
        module, colon, attribute = where.partition(":")
        if not (name and equals and module and colon and attribute):
            raise ConfigError(f"{spec!r} is not name=module:attribute")
        try:
            workflow = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{spec}: {error}") from None
        if not isinstance(workflow, Workflow):
            raise ConfigError(f"{spec}: {attribute} is not a Workflow")
        found.append(Workflow(name, workflow.handoff, workflow.run))
    return found
