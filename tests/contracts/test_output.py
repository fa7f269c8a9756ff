"""What output promises (``aura/log/ports.py``, ``aura/log/output.py``), proved for both adapters: G2, G6."""

from __future__ import annotations

import asyncio

import pytest

from aura.errors import KeyReused, TooLarge, WrongExpectedSequence
from aura.log.output import KEPT_KEYS, MAX_MESSAGE_BYTES, OutputWriter, SealedOutput
from aura.log.ports import InputItem, WriteKey
from aura.log.sealing import BrokenSeal
from tests.support.content_stores import IDS, Stores, new_job


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


async def test_g2_a_keyed_append_repeated_stores_nothing_and_answers_the_same(stores: Stores) -> None:
    """From any process, with a worker's own writer in between; the exact bound is the attempt's last keyed appends."""
    job, key = await job_with_key(stores)
    elsewhere = SealedOutput(stores.output_backend, stores.content, IDS)
    used = [WriteKey(f"key{n}", f"body{n}") for n in range(KEPT_KEYS + 1)]
    assert await stores.output.append(1, job, 1, "stream", [{"chunk": "a"}], used[0]) == 1
    assert await elsewhere.append(1, job, 1, "stream", [{"chunk": "a"}], used[0]) == 1
    writer = OutputWriter(stores.output_backend, IDS, 1, job, 1, key)
    await writer.resume()
    await writer.write("log", [{"line": "between"}, {"line": "them"}])
    assert await elsewhere.append(1, job, 1, "stream", [{"chunk": "a"}], used[0]) == 1
    with pytest.raises(KeyReused):
        await elsewhere.append(1, job, 1, "stream", [{"chunk": "b"}], WriteKey("key0", "other"))
    assert await stores.output.count(1, job, 1) == 3
    assert await elsewhere.append(1, job, 2, "stream", [{"chunk": "a"}], used[0]) == 1, "keys belong to one attempt"
    for n in range(1, KEPT_KEYS):
        assert await stores.output.append(1, job, 1, "stream", [{"n": n}], used[n]) == n + 3
    assert await elsewhere.answered(1, job, 1, used[0]) == 1
    await stores.output.append(1, job, 1, "stream", [{"n": "last"}], used[KEPT_KEYS])
    assert await elsewhere.answered(1, job, 1, used[0]) is None, "forgotten, as documented"
    assert await elsewhere.answered(1, job, 1, used[1]) == 4


async def test_g2_racing_repeats_of_a_keyed_append_store_it_once(stores: Stores) -> None:
    job, _ = await job_with_key(stores)
    use = WriteKey("key", "body")
    writers = [SealedOutput(stores.output_backend, stores.content, IDS) for _ in range(6)]
    counts = await asyncio.gather(*(w.append(1, job, 1, "stream", [{"chunk": "x"}], use) for w in writers))
    assert counts == [1] * 6
    assert await stores.output.count(1, job, 1) == 1
