"""The projection ``models``: the logged facts of each model. Heartbeats are in ``health``."""

from __future__ import annotations

from typing import Any

from aura.projections.decoding import LogEvent
from aura.projections.projection import Projection, Table, Write


class ModelsFold:
    """One batch of model events."""

    def __init__(self, some_seq: int) -> None:
        del some_seq  # nothing here is kept per block
        self._rows: dict[str, dict[str, Any]] = {}

    def add(self, event: LogEvent) -> None:
        state, flat = event.state, event.flat
        patch: dict[str, Any] = {
            "model": event.entity,
            "status": state["status"],
            "slots": state["slots"],
            "roles": state["roles"],
            "paused": state["paused"],
            "reason": flat.get("reason") or "",
            "updated_at": event.body.ts,
            "seq": event.seq,
            "state": state,
        }
        row = self._rows.setdefault(event.entity, {})
        if event.type == "model.registered":
            patch["labels"] = flat.get("labels") or {}
            patch["registered_at"] = row.get("registered_at") or event.body.ts
        if flat.get("last_seen"):
            patch["last_seen"] = flat["last_seen"]
        row.update(patch)

    def writes(self) -> list[Write]:
        return [Write("projections/models/write_models", list(self._rows.values()))] if self._rows else []


MODELS = Projection(name="models", tables=(Table("models", ("model",)),), fold=ModelsFold, kinds=frozenset({"model"}))
