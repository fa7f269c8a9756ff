"""When appends share a flush, and that each still gets its own answer whatever happens to the batch."""

from __future__ import annotations

import asyncio

import pytest

from aura.errors import Overloaded, Unavailable, WrongExpectedSequence
from aura.log import group
from aura.log.group import MAX_PLAIN, FlushCosts, GroupCommit
from aura.log.guarded import Verdict, Write


def write(entity: int, number: int = 0) -> Write:
    subject = f"aura.job.1.{entity}.e{number}"
    return Write(f"append.{subject}", subject, f"aura.job.1.{entity}.>", number, f"{entity}.{number}", b"{}")


class Disk:
    """Stands in for both writers: answers only when told to."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.plain: list[tuple[Write, asyncio.Future[int]]] = []
        self.batches: list[tuple[list[Write], asyncio.Future[Verdict | None]]] = []
        self.in_flight = 0

    def now(self) -> float:
        return self.clock

    def submit(self, one: Write) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.in_flight += 1
        future.add_done_callback(self._landed)
        self.plain.append((one, future))
        return future

    def _landed(self, _future: asyncio.Future[int]) -> None:
        self.in_flight -= 1

    async def attempt(self, writes: list[Write], final: float) -> Verdict | None:
        future: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        self.batches.append((list(writes), future))
        return await future


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.fixture
async def disk() -> Disk:
    return Disk()


@pytest.fixture
async def commit(disk: Disk) -> GroupCommit:
    made = GroupCommit(disk, disk)  # type: ignore[arg-type]
    made.costs = FlushCosts(plain_s=0.001, fixed_s=0.010)
    return made


async def test_a_lone_append_goes_out_at_once(disk: Disk, commit: GroupCommit) -> None:
    future = commit.submit(write(1))
    assert len(disk.plain) == 1
    disk.plain[0][1].set_result(7)
    assert await future == 7


async def test_what_piles_up_behind_a_flush_becomes_one_batch(disk: Disk, commit: GroupCommit) -> None:
    futures = [commit.submit(write(n)) for n in range(MAX_PLAIN + 100)]
    assert len(disk.plain) == MAX_PLAIN
    disk.plain[0][1].set_result(1)
    await settle()
    ((members, answer),) = disk.batches
    assert [w.message_id for w in members] == [f"{n}.0" for n in range(MAX_PLAIN, MAX_PLAIN + 100)]
    answer.set_result(Verdict(200, 0, ""))
    await settle()
    assert [f.result() for f in futures[MAX_PLAIN:]] == list(range(101, 201))


async def test_a_few_waiting_are_not_worth_a_batch(disk: Disk, commit: GroupCommit) -> None:
    for n in range(MAX_PLAIN + 5):
        commit.submit(write(n))
    disk.plain[0][1].set_result(1)
    await settle()
    assert not disk.batches
    assert len(disk.plain) == MAX_PLAIN + 1


@pytest.mark.parametrize(
    "answer", [Verdict(0, 10071, "wrong last sequence: 3"), Verdict(0, 10176, ""), Verdict(0, 10201, ""), None]
)
async def test_g2_a_batch_that_was_not_stored_is_sent_one_by_one(
    disk: Disk, commit: GroupCommit, answer: Verdict | None
) -> None:
    futures = [commit.submit(write(n)) for n in range(MAX_PLAIN + 60)]
    disk.plain[0][1].set_result(1)
    await settle()
    disk.batches[0][1].set_result(answer)
    await settle()
    resent = disk.plain[MAX_PLAIN:]
    assert [w.message_id for w, _ in resent] == [f"{n}.0" for n in range(MAX_PLAIN, MAX_PLAIN + 60)]
    for index, (one, future) in enumerate(resent):
        if index % 3:
            future.set_result(1_000 + index)
        else:
            future.set_exception(WrongExpectedSequence(one.guard or "", 0, 3))
    await settle()
    for index, future in enumerate(futures[MAX_PLAIN:]):
        if index % 3:
            assert future.result() == 1_000 + index
        else:
            assert isinstance(future.exception(), WrongExpectedSequence)


async def test_a_batch_holds_one_append_per_entity(disk: Disk, commit: GroupCommit) -> None:
    for n in range(MAX_PLAIN):
        commit.submit(write(n))
    for n in range(100):
        commit.submit(write(1_000 + n % 60, n))
    disk.plain[0][1].set_result(1)
    await settle()
    members = disk.batches[0][0]
    assert len({w.guard for w in members}) == len(members) == 60
    disk.batches[0][1].set_result(Verdict(500, 0, ""))
    await settle()
    later = [w for batch, _ in disk.batches[1:] for w in batch] + [w for w, _ in disk.plain[MAX_PLAIN:]]
    assert [w.message_id for w in later] == [f"{1_000 + n % 60}.{n}" for n in range(60, 100)]


async def test_g12_the_queue_is_bounded_and_nothing_waits_for_ever(
    disk: Disk, commit: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "MAX_QUEUED", 10)
    commit.costs = FlushCosts(plain_s=0.0, fixed_s=1.0)
    futures = [commit.submit(write(n)) for n in range(MAX_PLAIN + 10)]
    with pytest.raises(Overloaded):
        commit.submit(write(9_999))
    disk.clock = 1_000.0
    disk.plain[0][1].set_exception(Unavailable("deadline"))
    await settle()
    assert all(isinstance(future.exception(), Unavailable) for future in futures[MAX_PLAIN:])
    assert isinstance(futures[0].exception(), Unavailable)


async def test_a_caller_that_gave_up_is_not_sent(disk: Disk, commit: GroupCommit) -> None:
    futures = [commit.submit(write(n)) for n in range(MAX_PLAIN + 2)]
    futures[-2].cancel()
    disk.plain[0][1].set_result(1)
    disk.plain[1][1].set_result(2)
    await settle()
    assert [w.message_id for w, _ in disk.plain[MAX_PLAIN:]] == [f"{MAX_PLAIN + 1}.0"]


def test_costs_are_learnt() -> None:
    costs = FlushCosts(plain_s=0.001, fixed_s=0.010)
    assert costs.worth_batch(40)
    assert not costs.worth_batch(5)
    for n in range(2_000):
        costs.plain_landed(n * 0.0001, MAX_PLAIN)
    assert costs.plain_s == pytest.approx(0.0001, rel=0.05)
    assert not costs.worth_batch(40)
    for _ in range(200):
        costs.batch_landed(100, 0.0, 0.001 + 100 * FlushCosts.EACH_S)
    assert costs.fixed_s == pytest.approx(0.001, rel=0.05)
    assert costs.worth_batch(40)
