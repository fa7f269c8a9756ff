"""What every event store promises (``aura/log/store.py``), proved for each adapter: G1 (as far as one process can), G2, G3."""

from __future__ import annotations

import asyncio
import random
import uuid
from datetime import UTC, datetime

import orjson
import pytest

from aura.errors import InvalidRequest, LogRegression, TooLarge, WrongExpectedSequence
from aura.log.identity import Checkpoint, checkpoint, verify
from aura.log.store import MAX_BATCH, MAX_EVENT_BYTES, Append, EventStore, Recorded


def job(number: int) -> str:
    return str(uuid.UUID(int=number))


def event(
    number: int, kind: str = "created", expected: int = 0, *, body: bytes | None = None, event_id: str | None = None
) -> Append:
    """An append for job ``number``."""
    event_id = event_id or str(uuid.uuid4())
    return Append(
        subject=f"aura.job.1.{job(number)}.{kind}",
        guard=f"aura.job.1.{job(number)}.>",
        expected_seq=expected,
        event_id=event_id,
        body=body if body is not None else orjson.dumps({"id": event_id, "type": f"job.{kind}"}),
    )


def system(kind: str) -> Append:
    return Append(f"aura.system.{kind}", None, 0, str(uuid.uuid4()), b"{}")


async def everything(store: EventStore, **options: object) -> list[Recorded]:
    return [recorded async for batch in store.read(**options) for recorded in batch]  # type: ignore[arg-type]


# --- append


async def test_g3_sequences_rise_by_one_and_readers_get_the_same_bytes(store: EventStore) -> None:
    appends = [event(n, body=orjson.dumps({"n": n, "text": "naïve – 日本語 \u202e"})) for n in range(1, 6)]
    seqs = [await store.append(append) for append in appends]
    assert seqs == [1, 2, 3, 4, 5]
    found = await everything(store)
    assert [(r.seq, r.subject, r.body) for r in found] == [
        (seq, append.subject, append.body) for seq, append in zip(seqs, appends, strict=True)
    ]
    assert found == [await store.get(seq) for seq in seqs]


async def test_guard_holds_only_at_the_expected_sequence(store: EventStore) -> None:
    first = await store.append(event(1))
    await store.append(event(2))
    second = await store.append(event(1, "claimed", first))
    for stale in (0, first, second + 7):
        with pytest.raises(WrongExpectedSequence) as refused:
            await store.append(event(1, "completed", stale))
        assert refused.value.expected == stale
        assert refused.value.actual == second
    assert await store.append(event(1, "completed", second)) == 4


async def test_guard_covers_every_event_of_the_entity_and_no_other(store: EventStore) -> None:
    seq = await store.append(event(1))
    seq = await store.append(event(1, "archive.held", seq))
    seq = await store.append(event(1, "assigned.employee_ollama", seq))
    assert await store.append(event(11)) == seq + 1
    assert await store.append(event(1, "claimed", seq)) == seq + 2


async def test_a_refused_append_is_never_seen(store: EventStore) -> None:
    seen: list[Recorded] = []
    following = store.follow(1)
    await store.append(event(1))
    refused = event(1, "claimed", 99)
    with pytest.raises(WrongExpectedSequence):
        await store.append(refused)
    with pytest.raises(WrongExpectedSequence):
        await store.append_batch([event(2), refused])
    await store.append(event(3))
    async with asyncio.timeout(20):
        async for batch in following:
            seen.extend(batch)
            if seen[-1].seq == 2:
                break
    await following.aclose()  # type: ignore[attr-defined]
    assert [r.subject for r in seen] == [event(1).subject, event(3).subject]
    assert await everything(store) == seen
    assert await store.last(event(2).guard or "") is None


async def test_of_concurrent_writers_with_one_expectation_exactly_one_wins(store: EventStore) -> None:
    first = await store.append(event(1))
    outcomes = await asyncio.gather(
        *(store.append(event(1, "claimed", first)) for _ in range(40)), return_exceptions=True
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(won) == 1
    assert all(isinstance(o, WrongExpectedSequence) for o in outcomes if o not in won)
    assert len(await everything(store)) == 2


async def test_many_concurrent_appends_each_get_their_own_answer(store: EventStore) -> None:
    """Group commit included: refused ones in the middle do not disturb the others."""
    taken = await store.append(event(0))
    appends = [event(n % 250, "claimed" if n >= 250 else "created", 0) for n in range(500)]
    outcomes = await asyncio.gather(*(store.append(append) for append in appends), return_exceptions=True)
    stored = {r.seq: r for r in await everything(store)}
    assert len(stored) == 250
    for append, outcome in zip(appends, outcomes, strict=True):
        if isinstance(outcome, int):
            assert stored[outcome].subject == append.subject
            assert stored[outcome].body == append.body
        else:
            assert isinstance(outcome, WrongExpectedSequence)
    assert sum(isinstance(outcome, int) for outcome in outcomes) == 249
    assert stored[taken].subject == event(0).subject


async def test_g2_the_same_event_again_is_the_same_sequence(store: EventStore) -> None:
    created = event(1)
    seq = await store.append(created)
    assert await store.append(created) == seq
    await store.append(event(2))
    claimed = event(1, "claimed", seq)
    claimed_seq = await store.append(claimed)
    assert await store.append(created) == seq
    assert await store.append(claimed) == claimed_seq
    again = event(1, "claimed", claimed_seq)
    await store.append(again)
    assert await store.append(claimed) == claimed_seq, "a later event of the same type must not hide ours"
    assert len(await everything(store)) == 4


async def test_system_events_need_no_guard_and_are_stored_once_per_id(store: EventStore) -> None:
    elected = system("leader_elected")
    assert await store.append(elected) == 1
    assert await store.append(elected) == 1
    assert await store.append(system("leader_elected")) == 2


async def test_sizes(store: EventStore) -> None:
    assert await store.append(event(1, body=b"")) == 1
    assert await store.append(event(2, body=b"x" * MAX_EVENT_BYTES)) == 2
    with pytest.raises(TooLarge) as refused:
        await store.append(event(3, body=b"x" * (MAX_EVENT_BYTES + 1)))
    assert refused.value.limit == MAX_EVENT_BYTES
    found = await store.get(2)
    assert found is not None
    assert found.body == b"x" * MAX_EVENT_BYTES
    assert (await store.identity()).last_seq == 2


@pytest.mark.parametrize(
    "token", ["*", ">", "a b", "a\r\nPUB x 0\r\n", "a\tb", "a\x00b", "", "x" * 5_000, "a..b", "\u2028"]
)
async def test_subjects_that_could_break_out_are_refused(store: EventStore, token: str) -> None:
    with pytest.raises(InvalidRequest):
        await store.append(Append(f"aura.model.{token}", "aura.model.m.>", 0, str(uuid.uuid4()), b"{}"))
    with pytest.raises(InvalidRequest):
        await store.append(Append(f"aura.model.m.{token}", "aura.model.m.>", 0, str(uuid.uuid4()), b"{}"))
    assert (await store.identity()).last_seq == 0


async def test_what_is_not_the_logs_is_refused(store: EventStore) -> None:
    for bad in (
        Append("$JS.API.STREAM.PURGE.AURA_LOG", None, 0, "i", b""),
        Append("aura.output.1.j.1.stream", "aura.output.1.j.1.>", 0, "i", b""),
        Append("aura.job.1.a.created", None, 0, "i", b""),
        Append("aura.job.1.a.created", "aura.job.1.b.>", 0, "i", b""),
        Append("aura.job.1.a.created", "aura.job.1.a", 0, "i", b""),
        Append("aura.job.1.a.created", "aura.job.1.a.>", 0, "i\r\nNats-Rollup: all", b""),
    ):
        with pytest.raises(InvalidRequest):
            await store.append(bad)
    assert (await store.identity()).last_seq == 0


# --- batches


async def test_batch_is_stored_in_order_with_contiguous_sequences(store: EventStore) -> None:
    await store.append(event(0))
    appends = [event(n) for n in range(1, 51)]
    assert await store.append_batch(appends) == list(range(2, 52))
    assert [r.subject for r in await everything(store, from_seq=2)] == [append.subject for append in appends]


async def test_batch_is_all_or_none(store: EventStore) -> None:
    await store.append(event(7))
    for place in (0, 5, 9):
        appends = [event(n) for n in range(10, 20)]
        appends[place] = event(7, "claimed", 0)
        with pytest.raises(WrongExpectedSequence):
            await store.append_batch(appends)
    assert len(await everything(store)) == 1


async def test_batch_mixes_entities_at_different_sequences(store: EventStore) -> None:
    a, b = await store.append_batch([event(1), event(2)])
    seqs = await store.append_batch([event(2, "claimed", b), event(3), event(1, "claimed", a), system("alert_raised")])
    assert seqs == [3, 4, 5, 6]


async def test_largest_batch(store: EventStore) -> None:
    assert await store.append_batch([event(n) for n in range(MAX_BATCH)]) == list(range(1, MAX_BATCH + 1))


async def test_batches_that_cannot_be_are_refused(store: EventStore) -> None:
    with pytest.raises(InvalidRequest):
        await store.append_batch([])
    with pytest.raises(InvalidRequest):
        await store.append_batch([event(n) for n in range(MAX_BATCH + 1)])
    with pytest.raises(InvalidRequest):
        await store.append_batch([event(1), event(1, "claimed", 1)])
    with pytest.raises(TooLarge):
        await store.append_batch([event(1), event(2, body=b"x" * (MAX_EVENT_BYTES + 1))])
    assert (await store.identity()).last_seq == 0


async def test_g2_the_same_batch_again_is_the_same_sequences(store: EventStore) -> None:
    appends = [event(n) for n in range(20)]
    seqs = await store.append_batch(appends)
    assert await store.append_batch(appends) == seqs
    await store.append(event(3, "claimed", seqs[3]))
    assert await store.append_batch(appends) == seqs
    single = [event(100)]
    assert await store.append_batch(single) == await store.append_batch(single)


async def test_concurrent_batches_over_the_same_jobs_one_wins(store: EventStore) -> None:
    outcomes = await asyncio.gather(
        *(store.append_batch([event(n) for n in range(30)]) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, list) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, WrongExpectedSequence) for outcome in outcomes) == 7
    assert len(await everything(store)) == 30


# --- reading


@pytest.mark.parametrize("consistent", [False, True])
async def test_last(store: EventStore, consistent: bool) -> None:
    assert await store.last(f"aura.job.1.{job(1)}.>", consistent=consistent) is None
    seq = await store.append(event(1))
    await store.append(event(2))
    last = await store.append(event(1, "claimed", seq, body="{“é”}".encode()))
    await store.append(event(2, "claimed", 2))
    for guard in (f"aura.job.1.{job(1)}.>", f"aura.job.*.{job(1)}.>"):
        found = await store.last(guard, consistent=consistent)
        assert found is not None
        assert (found.seq, found.subject, found.body) == (last, event(1, "claimed").subject, "{“é”}".encode())
        assert found == await store.get(last)
    exact = await store.last(event(1).subject, consistent=consistent)
    assert exact is not None
    assert exact.seq == seq


async def test_get_outside_the_log_is_none(store: EventStore) -> None:
    await store.append(event(1))
    assert [await store.get(seq) for seq in (-1, 0, 2, 2**40)] == [None] * 4


async def test_read_ranges(store: EventStore) -> None:
    assert await everything(store) == []
    await store.append_batch([event(n) for n in range(25)])
    assert [r.seq for r in await everything(store, batch=4)] == list(range(1, 26))
    assert [r.seq for r in await everything(store, from_seq=24)] == [24, 25]
    assert [r.seq for r in await everything(store, from_seq=3, to_seq=6, batch=3)] == [3, 4, 5, 6]
    assert [r.seq for r in await everything(store, from_seq=0, to_seq=2)] == [1, 2]
    assert await everything(store, from_seq=26) == []
    assert await everything(store, from_seq=5, to_seq=4) == []
    assert [r.seq for r in await everything(store, from_seq=20, to_seq=1_000)] == list(range(20, 26))
    sizes = [len(batch) async for batch in store.read(batch=10)]
    assert sizes == [10, 10, 5]


async def test_read_by_subject(store: EventStore) -> None:
    seqs = await store.append_batch([event(n) for n in range(10)])
    await store.append_batch([event(n, "claimed", seqs[n]) for n in range(10)])
    await store.append(system("alert_raised"))
    assert [r.seq for r in await everything(store, subject=f"aura.job.1.{job(3)}.>")] == [4, 14]
    assert [r.seq for r in await everything(store, subject=f"aura.job.*.{job(3)}.>", from_seq=5)] == [14]
    assert [r.seq for r in await everything(store, subject="aura.job.*.*.claimed", batch=3)] == list(range(11, 21))
    assert [r.seq for r in await everything(store, subject="aura.job.>", to_seq=12, batch=5)] == list(range(1, 13))
    assert [r.seq for r in await everything(store, subject=event(2).subject)] == [3]
    assert await everything(store, subject="aura.model.>") == []


async def test_read_stops_at_the_end_as_of_the_call(store: EventStore) -> None:
    await store.append_batch([event(n) for n in range(10)])
    seen = []
    async for batch in store.read(batch=5):
        seen += [r.seq for r in batch]
        await store.append(event(100 + len(seen)))
    assert seen == list(range(1, 11))


async def test_store_time_is_the_same_for_every_reader(store: EventStore) -> None:
    before = datetime.now(UTC).timestamp()
    following = store.follow(1)
    live: list[Recorded] = []
    async with asyncio.timeout(20):
        for n in range(30):
            await store.append(event(n))
            if n == 0:
                live += await anext(following)
        while len(live) < 30:
            live += await anext(following)
    await following.aclose()  # type: ignore[attr-defined]
    assert live == await everything(store)
    for recorded in live:
        assert await store.last(recorded.subject, consistent=True) == recorded
        assert before - 5 < recorded.stored_at_ns / 1e9 < before + 60
    assert sorted(r.stored_at_ns for r in live) == [r.stored_at_ns for r in live]


# --- follow


@pytest.mark.parametrize("seed", range(5))
async def test_g3_follow_splices_history_and_live_without_gap_or_duplicate(store: EventStore, seed: int) -> None:
    """Followers start at random points while writers run; each sees every sequence once, in order."""
    chance = random.Random(seed)
    total = 400
    written = 0

    async def write(base: int) -> None:
        nonlocal written
        for n in range(total // 4):
            await store.append(event(base + n))
            written += 1
            if chance.random() < 0.2:
                await asyncio.sleep(0)

    async def follow(start_when: int) -> list[Recorded]:
        while written < start_when:
            await asyncio.sleep(0)
        from_seq = chance.randint(1, written + 1)
        seen: list[Recorded] = []
        following = store.follow(from_seq)
        async for batch in following:
            seen.extend(batch)
            if seen[-1].seq == total:
                break
        await following.aclose()  # type: ignore[attr-defined]
        assert [r.seq for r in seen] == list(range(from_seq, total + 1))
        return seen

    async with asyncio.timeout(60):
        results = await asyncio.gather(
            *(follow(chance.randint(0, total - 1)) for _ in range(6)), *(write(base * 1_000) for base in range(4))
        )
    stored = await everything(store)
    for seen in results[:6]:
        assert seen == stored[seen[0].seq - 1 :]


async def test_follow_delivers_what_arrived_together_as_one_list(store: EventStore) -> None:
    await store.append_batch([event(n) for n in range(100)])
    following = store.follow(1)
    async with asyncio.timeout(20):
        first = await anext(following)
    await following.aclose()  # type: ignore[attr-defined]
    assert len(first) == 100


async def test_a_slow_follower_misses_nothing(store: EventStore) -> None:
    following = store.follow(1)
    await store.append(event(0))
    async with asyncio.timeout(60):
        seen = await anext(following)
        for start in range(1, 3_001, MAX_BATCH):
            await store.append_batch([event(n) for n in range(start, start + MAX_BATCH)])
        while len(seen) < 3_001:
            seen += await anext(following)
    await following.aclose()  # type: ignore[attr-defined]
    assert [r.seq for r in seen] == list(range(1, 3_002))


# --- identity


async def test_g5_identity_and_checkpoints(store: EventStore) -> None:
    empty = await store.identity()
    assert empty.epoch
    assert empty.last_seq == 0
    await verify(store, Checkpoint(empty.epoch, 0, b""))
    await store.append_batch([event(n) for n in range(3)])
    identity = await store.identity()
    assert (identity.epoch, identity.first_seq, identity.last_seq) == (empty.epoch, 1, 3)
    second = await store.get(2)
    assert second is not None
    known = checkpoint(identity.epoch, second)
    assert await verify(store, known) == identity
    for other in (
        Checkpoint("another epoch", 2, known.sha256),
        Checkpoint(identity.epoch, 9, known.sha256),
        Checkpoint(identity.epoch, 2, b"\0" * 32),
    ):
        with pytest.raises(LogRegression):
            await verify(store, other)


async def test_g5_following_from_beyond_the_end_is_a_regression(store: EventStore) -> None:
    await store.append(event(1))
    following = store.follow(3)
    with pytest.raises(LogRegression):
        await anext(following)


async def test_close_is_safe_twice(store: EventStore) -> None:
    await store.append(event(1))
    await store.close()
    await store.close()
