"""G18: every version of every event ever written stays readable. The files under tests/golden/events are never edited."""

from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from aura.errors import PoisonEvent
from aura.events import upcasting
from aura.events.catalogue import CATALOGUE, Event
from aura.events.envelope import Stamp, seal, typed, unseal
from aura.events.schema import catalogue_schema

GOLDEN = Path(__file__).parents[2] / "golden" / "events"
FILES = sorted(GOLDEN.glob("*.json"))
SCHEMA = jsonschema.Draft202012Validator(catalogue_schema())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file_is_read_and_matches_the_schema(path: Path) -> None:
    event, flat = unseal(path.read_bytes())
    assert event.TYPE == flat["type"] == path.stem.rpartition(".v")[0]
    if flat["v"] == event.V:
        SCHEMA.validate(flat)
        own = orjson.loads(orjson.dumps(event.model_dump(by_alias=True, exclude_none=True)))
        assert own.items() <= flat.items(), "what is read is what was written"


def test_every_version_of_every_type_has_a_golden_file() -> None:
    names = {path.stem for path in FILES}
    missing = [f"{t}.v{v}" for t, m in CATALOGUE.items() for v in range(1, m.V + 1) if f"{t}.v{v}" not in names]
    assert not missing, f"write a golden file for: {missing}"


def test_the_schema_export_is_pinned() -> None:
    pinned = GOLDEN.parent / "events.schema.json"
    today = orjson.dumps(catalogue_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"
    assert pinned.read_bytes() == today, (
        "the catalogue changed: `python -m aura.events > tests/golden/events.schema.json`"
    )


def test_fields_come_in_the_documented_order() -> None:
    event = CATALOGUE["job.claimed"].model_validate({"worker_id": "w", "attempt": 1, "lease_ttl_s": 10})
    body = seal(
        event,
        event_id="e",
        stamp=Stamp("2026-01-01T00:00:00.000000Z", "anonymous", "c", "d"),
        ids={"project_id": 1, "job_id": "j"},
        state={"v": 1},
    )
    common = ["id", "type", "v", "ts", "actor", "correlation_id", "causation_id", "project_id", "job_id"]
    assert list(orjson.loads(body)) == [*common, "worker_id", "attempt", "lease_ttl_s", "state"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"7", b'{"type":"job.unheard_of","v":1}', b'{"type":"job.claimed","v":99}',
        b'{"type":"job.claimed","v":true}', b'{"type":"job.claimed","v":1}', b"\xff\xfe",
    ],
)  # fmt: skip
def test_rubbish_is_poison_and_nothing_else(body: bytes) -> None:
    """G17: whatever stands in the log, reading it raises PoisonEvent, never anything unforeseen."""
    with pytest.raises(PoisonEvent):
        unseal(body)


def test_an_old_version_is_upcast_step_by_step() -> None:
    model = type("TodayEvent", (CATALOGUE["model.paused"],), {"V": 3, "TYPE": "model.paused"})

    def rename(flat: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in flat.items() if k != "who"}, "by": flat["who"]}

    def prefix(flat: dict[str, Any]) -> dict[str, Any]:
        return {**flat, "by": f"user:{flat['by']}"}

    table = {("model.paused", 1): rename, ("model.paused", 2): prefix}
    old = {"type": "model.paused", "v": 1, "who": "ada"}
    assert upcasting.upcast(old, model, upcasters=table) == {"type": "model.paused", "v": 3, "by": "user:ada"}
    assert old == {"type": "model.paused", "v": 1, "who": "ada"}


def test_a_newer_minor_field_is_ignored() -> None:
    flat = {"type": "model.paused", "v": 1, "by": "user:ada", "added_later": [1]}
    assert typed(flat).TYPE == "model.paused"


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
def test_no_event_has_a_field_that_readers_put_there_themselves(model: type[Event]) -> None:
    """ADR 0008: a relayed frame is ``{"seq":N,`` + body; a second ``seq`` would send clients backwards (G11)."""
    names = {field.serialization_alias or name for name, field in model.model_fields.items()}
    taken = {
        "seq",
        "epoch",
        "id",
        "type",
        "v",
        "ts",
        "actor",
        "correlation_id",
        "causation_id",
        "state",
        "project_id",
        "session_id" if model.TYPE.startswith("session.") else "job_id",
    }
    assert not names & taken
