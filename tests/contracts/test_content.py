"""What content promises (``aura/log/ports.py``), proved for both adapters: G2, G6, G10, G16 (the key part)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aura.errors import KeyReused, NotFound, TooLarge
from aura.log.content import MAX_RECENT_BYTES, RecentInputs
from aura.log.content_memory import MemoryContentBackend
from aura.log.content_sweep import Sweeper
from aura.log.ports import InputItem, Part
from aura.log.sealing import BrokenSeal
from aura.log.store import Append
from tests.support.content_stores import Stores, new_job


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
    mixed = [*items, InputItem(7, new_job(), b"new")]
    refs = await stores.other_process().put_inputs(mixed)
    assert refs[:count] == first
    assert [await stores.other_process().data_key(7, item.job_id) for item in items] == keys


@pytest.mark.parametrize("request_", [None, "fingerprint"])
async def test_g2_another_input_of_the_same_job_is_refused(stores: Stores, request_: str | None) -> None:
    items = [InputItem(7, new_job(), f"payload {n}".encode()) for n in range(3)]
    await stores.content.put_inputs(items, request=request_)
    other = [items[0], InputItem(7, items[1].job_id, b"other"), items[2]]
    with pytest.raises(KeyReused):
        await stores.other_process().put_inputs(other, request=request_)
    for item in items:
        found = await stores.other_process().get(7, item.job_id, "input")
        assert found is not None
        assert found.plaintext == item.plaintext


async def test_racing_equal_inputs_of_one_job_agree(stores: Stores) -> None:
    item = InputItem(1, new_job(), b"same")
    refs = await asyncio.gather(*(stores.other_process().put_inputs([item], request="r") for _ in range(20)))
    assert len({ref[0].digest for ref in refs}) == 1


async def test_g2_of_racing_requests_with_one_key_exactly_one_goes_on(stores: Stores) -> None:
    """Two tasks each: whoever stores the first input owns the key, so never do both lose, or both win a half."""
    jobs = [new_job(), new_job()]
    asked = [[InputItem(1, job, b"%d-%d" % (n, place)) for place, job in enumerate(jobs)] for n in range(8)]
    outcomes = await asyncio.gather(
        *(stores.other_process().put_inputs(items, request=str(n)) for n, items in enumerate(asked)),
        return_exceptions=True,
    )
    (winner,) = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, list)]
    assert sum(isinstance(outcome, KeyReused) for outcome in outcomes) == 7
    for item in asked[winner]:
        found = await stores.other_process().get(1, item.job_id, "input")
        assert found is not None
        assert found.plaintext == item.plaintext


async def test_g6_results_are_never_overwritten_and_are_what_their_reference_says(stores: Stores) -> None:
    job = new_job()
    await stores.content.put_inputs([InputItem(1, job, b"in")])
    accepted = await stores.content.put(1, job, "result", 2, b"accepted")
    late = await stores.content.put(1, job, "result", 1, b"of a straggler")
    again = await stores.content.put(1, job, "result", 2, b"of the same attempt, later")
    error = await stores.content.put(1, job, "error", 2, b"trace")
    assert accepted.bytes == 8
    assert len({accepted.part, late.part, again.part, error.part}) == 4
    for content in (stores.content, stores.other_process()):
        found = await content.get(1, job, "result", accepted)
        assert found is not None
        assert found.plaintext == b"accepted"
        with pytest.raises(BrokenSeal):
            await content.get(1, job, "result", accepted.model_copy(update={"part": late.part}))
        with pytest.raises(BrokenSeal):
            await content.get(1, job, "result", error)
        assert await content.get(1, job, "result") is None


async def test_an_input_is_taken_from_memory_once_and_read_otherwise(stores: Stores) -> None:
    small, large, dropped = new_job(), new_job(), new_job()
    items = [InputItem(1, small, b"in"), InputItem(1, large, b"x" * 100_000), InputItem(1, dropped, b"in")]
    await stores.content.put_inputs(items)
    reads = 0
    last = stores.backend.last

    async def counted(subject: str, *, consistent: bool = False) -> Any:
        nonlocal reads
        reads += 1
        return await last(subject, consistent=consistent)

    stores.backend.last = counted  # type: ignore[method-assign]
    stores.content.forget_inputs([dropped])
    for job, plaintext, expected in (
        (small, b"in", 0),
        (small, b"in", 1),
        (large, b"x" * 100_000, 1),
        (dropped, b"in", 1),
    ):
        reads = 0
        part = await stores.content.take_input(1, job)
        assert part is not None
        assert (part.plaintext, reads) == (plaintext, expected)
        assert part.data_key == await stores.other_process().data_key(1, job)
    await stores.content.put_inputs([InputItem(1, erased := new_job(), b"secret")])
    await stores.content.erase(1, erased)
    assert await stores.content.take_input(1, erased) is None


def test_g12_inputs_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    recent = RecentInputs()
    for n in range(600):
        recent.add(str(n), Part(b"x" * 60_000, b"k"))
    assert recent.take("599") is not None
    kept = sum(recent.take(str(n)) is not None for n in range(599))
    assert kept == MAX_RECENT_BYTES // 60_000 - 1
    monkeypatch.setattr("aura.log.content.MAX_RECENT", 10)
    for n in range(100):
        recent.add(str(n), Part(b"", b"k"))
    assert sum(recent.take(str(n)) is not None for n in range(100)) == 10


async def test_nothing_can_be_written_for_a_job_without_a_key(stores: Stores) -> None:
    with pytest.raises(NotFound):
        await stores.content.put(1, new_job(), "result", 1, b"x")
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
    results = [await stores.content.put(1, job, "result", attempt, b"also secret") for attempt in (1, 1, 2)]
    await stores.output.append(1, job, 1, "stream", [{"chunk": "secret"}])
    await stores.output.append(1, neighbour, 1, "stream", [{"chunk": "stays"}])
    erased = await stores.content.erase(1, job)
    assert erased.bytes > len(b"secret" + b"also secret")
    assert erased.stores == ("AURA_CONTENT", "AURA_OUTPUT")
    for content in (stores.content, stores.other_process()):
        assert await content.get(1, job, "input") is None
        for ref in results:
            assert ref.part is not None
            assert await stores.backend.last(f"content.aura.1.{job}.{ref.part}", consistent=True) is None
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


async def create_job(stores: Stores, job: str) -> None:
    await stores.events.append(Append(f"aura.job.1.{job}.created", f"aura.job.1.{job}.>", 0, new_job(), b"{}"))


def sweeper_of(stores: Stores) -> Sweeper:
    return Sweeper(stores.content, stores.backend, stores.events, stores.clock)


async def test_inputs_whose_job_was_never_created_are_swept(stores: Stores) -> None:
    orphan, created = new_job(), new_job()
    await stores.content.put_inputs([InputItem(1, orphan, b"lost"), InputItem(1, created, b"kept")])
    await create_job(stores, created)
    sweeper = sweeper_of(stores)
    assert await sweeper.sweep() == 0, "seen for the first time"
    stores.clock.advance(599)
    assert await sweeper.sweep() == 0, "ten minutes have not passed"
    stores.clock.advance(1)
    assert await sweeper.sweep() == 1
    assert await stores.other_process().get(1, orphan, "input") is None
    assert await stores.content.take_input(1, orphan) is None
    assert await stores.other_process().get(1, created, "input") is not None
    assert await sweeper.sweep() == 0


async def test_g10_no_wall_clock_decides_what_is_swept(stores: Stores) -> None:
    """This machine's clock is an hour (or a year) ahead of everybody's, or behind; the job is created a moment later."""
    job = new_job()
    await stores.content.put_inputs([InputItem(1, job, b"in flight")])
    sweeper = sweeper_of(stores)
    for seconds in (3_600.0, 365 * 86_400.0, -700 * 86_400.0):
        stores.clock.jump(seconds)
        assert await sweeper.sweep() == 0
        assert await sweeper_of(stores).sweep() == 0
    await create_job(stores, job)
    stores.clock.advance(601)
    assert await sweeper.sweep() == 0
    assert await stores.other_process().get(1, job, "input") is not None


@pytest.mark.parametrize("moment", ["before the sweep", "before the last look", "while erasing"])
async def test_an_old_input_that_is_used_again_is_not_swept(stores: Stores, moment: str) -> None:
    """The keyed repeat of a submission that crashed ten minutes ago, at every moment of the sweep that wants its input."""
    job = new_job()
    first = await stores.content.put_inputs([InputItem(1, job, b"in")], request="r")
    sweeper = sweeper_of(stores)
    await sweeper.sweep()
    stores.clock.advance(601)
    repeats = 0

    async def again() -> None:
        nonlocal repeats
        if not repeats:
            repeats += 1
            assert await stores.other_process().put_inputs([InputItem(1, job, b"in")], request="r") == first

    last, drop = stores.events.last, stores.backend.drop

    async def looked(guard: str, *, consistent: bool = False) -> Any:
        found = await last(guard, consistent=consistent)
        if consistent and moment == "before the last look":
            await again()
        return found

    async def dropped(subject: str, upto_seq: int) -> None:
        if moment == "while erasing":
            await again()
        await drop(subject, upto_seq)

    stores.events.last = looked  # type: ignore[method-assign]
    stores.backend.drop = dropped  # type: ignore[method-assign]
    if moment == "before the sweep":
        await again()
    await sweeper.sweep()
    assert repeats == 1
    found = await stores.other_process().get(1, job, "input")
    assert found is not None
    assert found.plaintext == b"in"
    await create_job(stores, job)
    stores.clock.advance(601)
    await sweeper.sweep()
    assert await stores.other_process().get(1, job, "input") is not None
    await stores.content.erase(1, job)
    assert await stores.other_process().get(1, job, "input") is None, "no copy of it stays"


async def test_a_swept_key_may_be_used_for_another_request(stores: Stores) -> None:
    job = new_job()
    await stores.content.put_inputs([InputItem(1, job, b"old")], request="a")
    sweeper = sweeper_of(stores)
    await sweeper.sweep()
    stores.clock.advance(601)
    assert await sweeper.sweep() == 1
    await stores.content.put_inputs([InputItem(1, job, b"new")], request="b")
    found = await stores.content.take_input(1, job)
    assert found is not None
    assert found.plaintext == b"new"
