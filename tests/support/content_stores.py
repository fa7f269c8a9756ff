"""Content and output over either adapter, with an event store beside them: what ``tests/contracts`` proves things about."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from aura.clock import ManualClock, SystemClock
from aura.ids import SystemIds
from aura.log.content import ContentBackend, SealedContent
from aura.log.content_jetstream import JetStreamContentBackend
from aura.log.content_memory import MemoryContentBackend
from aura.log.jetstream import JetStreamEventStore
from aura.log.memory import MemoryEventStore
from aura.log.output import OutputBackend, SealedOutput
from aura.log.output_jetstream import JetStreamOutputBackend
from aura.log.output_memory import MemoryOutputBackend
from aura.log.store import EventStore
from tests.support.log_streams import empty_log
from tests.support.servers import NatsServer

KEK = bytes(range(32))
IDS = SystemIds()


def new_job() -> str:
    return str(uuid.uuid4())


@dataclass
class Stores:
    content: SealedContent
    backend: ContentBackend
    output: SealedOutput
    output_backend: OutputBackend
    events: EventStore
    clock: ManualClock

    def other_process(self, kek: bytes = KEK) -> SealedContent:
        """The same stored bytes, without our cache."""
        return SealedContent(self.backend, kek, IDS)


@asynccontextmanager
async def content_stores(adapter: str, server: NatsServer) -> AsyncIterator[Stores]:
    """Empty stores; ``adapter`` is ``memory`` or ``jetstream``."""
    clock = ManualClock(datetime.now(UTC))
    if adapter == "memory":
        backend = MemoryContentBackend()
        output_backend = MemoryOutputBackend(clock)
        backend.also_erase.append(output_backend)
        content = SealedContent(backend, KEK, IDS)
        output = SealedOutput(output_backend, content, IDS)
        yield Stores(content, backend, output, output_backend, MemoryEventStore(clock), clock)
        return
    async with empty_log(server) as connection:
        on_server = JetStreamContentBackend(connection, clock, IDS)
        output_on_server = JetStreamOutputBackend(connection, SystemClock(), IDS)
        content = SealedContent(on_server, KEK, IDS)
        output = SealedOutput(output_on_server, content, IDS)
        events = JetStreamEventStore(connection, SystemClock(), IDS)
        yield Stores(content, on_server, output, output_on_server, events, clock)
