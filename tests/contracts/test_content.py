"""What content and output promise (``aura/log/ports.py``), proved for both adapters: G2, G16 (the key part)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from aura.clock import ManualClock, SystemClock
from aura.errors import NotFound, TooLarge, WrongExpectedSequence
from aura.ids import SystemIds
from aura.log.content import ContentBackend, MemoryContentBackend, SealedContent, Sweeper
from aura.log.content_jetstream import JetStreamContentBackend
from aura.log.jetstream import JetStreamEventStore
from aura.log.memory import MemoryEventStore
from aura.log.output import MAX_MESSAGE_BYTES, OutputBackend, OutputWriter, SealedOutput
from aura.log.output_jetstream import JetStreamOutputBackend
from aura.log.output_memory import MemoryOutputBackend
from aura.log.ports import InputItem
from aura.log.sealing import BrokenSeal
from aura.log.store import Append, EventStore
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


@pytest.fixture(params=["memory", "jetstream"])
async def stores(request: pytest.FixtureRequest, log_server: NatsServer) -> AsyncIterator[Stores]:
    clock = ManualClock(datetime.now(UTC))
    if request.param == "memory":
        backend = MemoryContentBackend(clock)
        output_backend = MemoryOutputBackend(clock)
        backend.also_erase.append(output_backend)
        content = SealedContent(backend, KEK, IDS)
        output = SealedOutput(output_backend, content, IDS)
        yield Stores(content, backend, output, output_backend, MemoryEventStore(clock), clock)
        return
    async with empty_log(log_server) as connection:
        on_server = JetStreamContentBackend(connection, clock, IDS)
        output_on_server = JetStreamOutputBackend(connection, SystemClock(), IDS)
        content = SealedContent(on_server, KEK, IDS)
        output = SealedOutput(output_on_server, content, IDS)
        events = JetStreamEventStore(connection, SystemClock(), IDS)
        yield Stores(content, on_server, output, output_on_server, events, clock)


# --- content


@pytest.mark.parametrize("plaintext", [b"", b"{}", "日本語 \u202e".encode(), bytes(range(256)), b"x" * 500_000])
async def test_what_was_put_is_got(stores: Stores, plaintext: bytes) -> None:
    job = new_job()
    (ref,) = await stores.content.put_inputs([InputItem(1, job, plaintext)])
    assert ref.bytes == len(plaintext)
    assert ref.digest.startswith("sha256:")
    for content in (stores.content, stores.other_process()):
        found = await content.get(1, job, "input")
        assert found is not None
        assert found.plaintext == plaintext
        assert found.data_key == await content.data_key(1, job)


async def test_digests_are_salted_and_keys_are_the_jobs_own(stores: Stores) -> None:
    one, two = new_job(), new_job()
    refs = await stores.content.put_inputs([InputItem(1, one, b"same"), InputItem(1, two, b"same")])
    assert refs[0].digest != refs[1].digest
    assert await stores.content.data_key(1, one) != await stores.content.data_key(1, two)


@pytest.mark.parametrize("count", [1, 3, 200])
async def test_g2_an_input_written_again_keeps_the_first_key_and_content(stores: Stores, count: int) -> None:
    items = [InputItem(7, new_job(), f"payload {n}".encode()) for n in range(count)]
    first = await stores.content.put_inputs(items)
    keys = [await stores.content.data_key(7, item.job_id) for item in items]
    again = [InputItem(7, item.job_id, item.plaintext + b" other") for item in items]
    mixed = [*again, InputItem(7, new_job(), b"new")]
    refs = await stores.other_process().put_inputs(mixed)
    assert refs[:count] == first
    assert [await stores.other_process().data_key(7, item.job_id) for item in items] == keys


async def test_racing_inputs_of_one_job_agree(stores: Stores) -> None:
    job = new_job()
    refs = await asyncio.gather(*(stores.other_process().put_inputs([InputItem(1, job, b"%d" % n)]) for n in range(20)))
    assert len({ref[0].digest for ref in refs}) == 1


async def test_parts_are_overwritten_and_read_back(stores: Stores) -> None:
    job = new_job()
    await stores.content.put_inputs([InputItem(1, job, b"in")])
    assert await stores.content.get(1, job, "result") is None
    await stores.content.put(1, job, "result", b"first")
    ref = await stores.content.put(1, job, "result", b"second")
    await stores.content.put(1, job, "error", b"trace")
    assert ref.bytes == 6
    found = await stores.other_process().get(1, job, "result")
    assert found is not None
    assert found.plaintext == b"second"


async def test_nothing_can_be_written_for_a_job_without_a_key(stores: Stores) -> None:
    with pytest.raises(NotFound):
        await stores.content.put(1, new_job(), "result", b"x")
    with pytest.raises(NotFound):
        await stores.output.append(1, new_job(), 1, "stream", [{"chunk": "x"}])


async def test_another_key_encryption_key_opens_nothing(stores: Stores) -> None:
    job = new_job()
    await stores.content.put_inputs([InputItem(1, job, b"secret")])
    with pytest.raises(BrokenSeal):
        await stores.other_process(bytes(32)).get(1, job, "input")


async def test_g16_erase_removes_key_content_and_output_and_can_be_repeated(stores: Stores) -> None:
    job, neighbour = new_job(), new_job()
    await stores.content.put_inputs([InputItem(1, job, b"secret"), InputItem(1, neighbour, b"stays")])
    await stores.content.put(1, job, "result", b"also secret")
    await stores.output.append(1, job, 1, "stream", [{"chunk": "secret"}])
    await stores.output.append(1, neighbour, 1, "stream", [{"chunk": "stays"}])
    erased = await stores.content.erase(1, job)
    assert erased.bytes > len(b"secret" + b"also secret")
    assert erased.stores == ("AURA_CONTENT", "AURA_OUTPUT")
    for content in (stores.content, stores.other_process()):
        assert await content.get(1, job, "input") is None
        assert await content.get(1, job, "result") is None
        assert await content.data_key(1, job) is None
    assert await stores.output.count(1, job, 1) == 0
    assert (await stores.output.read(1, job, [1])).messages == []
    assert (await stores.content.erase(1, job)).bytes == 0
    kept = await stores.other_process().get(1, neighbour, "input")
    assert kept is not None
    assert kept.plaintext == b"stays"
    assert await stores.output.count(1, neighbour, 1) == 1


async def test_too_large_content_is_refused(stores: Stores) -> None:
    if isinstance(stores.backend, MemoryContentBackend):
        pytest.skip("the limit is the server's largest message")
    with pytest.raises(TooLarge):
        await stores.content.put_inputs([InputItem(1, new_job(), b"x" * 20_000_000)])


async def test_fingerprints_are_stable_and_keyed(stores: Stores) -> None:
    one = stores.content.fingerprint(b"data")
    assert one == stores.other_process().fingerprint(b"data")
    assert one != stores.content.fingerprint(b"Data")
    assert one != stores.other_process(bytes(32)).fingerprint(b"data")
    assert len(one) == 11


async def test_inputs_whose_job_was_never_created_are_swept(stores: Stores) -> None:
    orphan, created = new_job(), new_job()
    await stores.content.put_inputs([InputItem(1, orphan, b"lost"), InputItem(1, created, b"kept")])
    await stores.events.append(Append(f"aura.job.1.{created}.created", f"aura.job.1.{created}.>", 0, new_job(), b"{}"))
    sweeper = Sweeper(stores.content, stores.backend, stores.events, stores.clock)
    assert await sweeper.sweep() == 0, "ten minutes have not passed"
    stores.clock.advance(timedelta(minutes=11).total_seconds())
    assert await sweeper.sweep() == 1
    assert await stores.other_process().get(1, orphan, "input") is None
    assert await stores.other_process().get(1, created, "input") is not None
    assert await sweeper.sweep() == 0


# --- output


async def job_with_key(stores: Stores) -> tuple[str, bytes]:
    job = new_job()
    await stores.content.put_inputs([InputItem(1, job, b"in")])
    key = await stores.content.data_key(1, job)
    assert key is not None
    return job, key


async def test_output_is_numbered_over_all_kinds_and_read_back_in_order(stores: Stores) -> None:
    job, key = await job_with_key(stores)
    writer = OutputWriter(stores.output_backend, IDS, 1, job, 1, key)
    assert await writer.write("stream", [{"chunk": "a"}, {"chunk": "b"}]) == 2
    assert await writer.write("log", [{"line": "l"}]) == 3
    assert await writer.write("stream", [{"chunk": "c", "final": True}]) == 4
    assert await writer.write("progress", []) == 4
    page = await stores.output.read(1, job, [1])
    assert not page.more
    assert [(m.attempt, m.kind, m.first, m.count) for m in page.messages] == [
        (1, "stream", 0, 2),
        (1, "log", 2, 1),
        (1, "stream", 3, 1),
    ]
    records = [record for message in page.messages for record in message.records(key)]
    assert [record["i"] for record in records] == [0, 1, 2, 3]
    assert records[0] == {"i": 0, "chunk": "a"}
    assert await stores.output.count(1, job, 1) == 4
    with pytest.raises(BrokenSeal):
        page.messages[0].records(bytes(32))


async def test_output_pages_have_no_hole(stores: Stores) -> None:
    job, key = await job_with_key(stores)
    for attempt in (1, 2):
        writer = OutputWriter(stores.output_backend, IDS, 1, job, attempt, key)
        for n in range(20):
            await writer.write(("stream", "log", "progress")[n % 3], [{"n": n}])  # type: ignore[arg-type]
    for limit in (1, 3, 7, 100):
        seen: list[int] = []
        after = 0
        while True:
            page = await stores.output.read(1, job, [1, 2], after_seq=after, limit=limit)
            assert len(page.messages) <= limit
            seen += [message.seq for message in page.messages]
            if not page.more:
                break
            after = seen[-1]
        assert seen == sorted(set(seen))
        assert len(seen) == 40
    assert len((await stores.output.read(1, job, [2])).messages) == 20
    assert (await stores.output.read(1, job, [3])).messages == []


async def test_g6_a_second_writer_of_an_attempt_is_refused(stores: Stores) -> None:
    job, key = await job_with_key(stores)
    first = OutputWriter(stores.output_backend, IDS, 1, job, 1, key)
    second = OutputWriter(stores.output_backend, IDS, 1, job, 1, key)
    await first.write("stream", [{"chunk": "a"}])
    with pytest.raises(WrongExpectedSequence):
        await second.write("stream", [{"chunk": "x"}])
    await second.resume()
    assert await second.write("stream", [{"chunk": "b"}]) == 2
    with pytest.raises(WrongExpectedSequence):
        await first.write("stream", [{"chunk": "c"}])


async def test_appenders_without_a_connection_of_their_own_take_turns(stores: Stores) -> None:
    job, key = await job_with_key(stores)
    counts = await asyncio.gather(*(stores.output.append(1, job, 1, "stream", [{"n": n}]) for n in range(12)))
    assert sorted(counts) == list(range(1, 13))
    records = [r for m in (await stores.output.read(1, job, [1])).messages for r in m.records(key)]
    assert [record["i"] for record in records] == list(range(12))


async def test_large_output_is_split_and_too_large_records_refused(stores: Stores) -> None:
    job, key = await job_with_key(stores)
    writer = OutputWriter(stores.output_backend, IDS, 1, job, 1, key)
    assert await writer.write("stream", [{"chunk": "x" * 200_000} for _ in range(6)]) == 6
    page = await stores.output.read(1, job, [1])
    assert len(page.messages) == 3
    assert all(len(message.sealed) <= MAX_MESSAGE_BYTES for message in page.messages)
    with pytest.raises(TooLarge):
        await writer.write("stream", [{"chunk": "x" * MAX_MESSAGE_BYTES}])
