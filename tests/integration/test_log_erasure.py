"""Erasing, checked in the bytes on disk: no plaintext ever, and no wrapped data key afterwards (G16)."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path

from aura.log import sealing
from aura.log.content import SealedContent
from aura.log.content_jetstream import WRAPPED_KEY, JetStreamContentBackend
from aura.log.output_jetstream import jetstream_output
from aura.log.ports import InputItem
from tests.support.log_streams import CLOCK, IDS, empty_log
from tests.support.servers import NatsServer

CANARY = b"canary-" + uuid.uuid4().bytes.hex().encode()
KEK = bytes(range(32))


def holding(folder: Path, needles: dict[str, bytes]) -> dict[str, list[str]]:
    """Which files under ``folder`` hold which needle."""
    found: dict[str, list[str]] = {name: [] for name in needles}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for name, needle in needles.items():
                if needle in content:
                    found[name].append(path.name)
    return found


async def test_g16_nothing_of_an_erased_job_can_be_opened_from_disk(fresh_nats: NatsServer, tmp_path: Path) -> None:
    job, neighbour = str(uuid.uuid4()), str(uuid.uuid4())
    async with empty_log(fresh_nats) as connection:
        backend = JetStreamContentBackend(connection, CLOCK, IDS)
        content = SealedContent(backend, KEK, IDS)
        output = jetstream_output(connection, CLOCK, IDS, content)
        for one in (neighbour, job):
            await content.put_inputs([InputItem(1, one, CANARY)])
            await content.put(1, one, "result", 1, CANARY)
            await output.append(1, one, 1, "stream", [{"chunk": CANARY.decode()}])
        stored = await backend.last(f"content.aura.1.{job}.input")
        data_key = await content.data_key(1, job)
        assert stored is not None
        assert stored.wrapped_key is not None
        assert data_key is not None
        needles = {"plaintext": CANARY, "data key": data_key, "wrapped key": stored.wrapped_key.encode()}
        before = holding(tmp_path / "nats", needles)
        assert before["wrapped key"], f"the search finds what is there ({WRAPPED_KEY})"
        assert not before["plaintext"]
        assert not before["data key"]
        await content.erase(1, job)
        await fresh_nats.stop()
    after = holding(tmp_path / "nats", {**needles, "wrapped raw": base64.b64decode(stored.wrapped_key)})
    assert after == {"plaintext": [], "data key": [], "wrapped key": [], "wrapped raw": []}
    assert sealing.KeyRing(KEK, IDS).unwrap(stored.wrapped_key, 1, job) == data_key
