"""What a turn of the event loop submits is decided on together."""

from __future__ import annotations

import pytest

from aura.errors import Overloaded, WrongExpectedSequence
from aura.log import group
from aura.log.group import MAX_PLAIN, FlushCosts, GroupCommit
from aura.log.guarded import Verdict
from tests.unit.log.test_group import Disk, settle, write


def made(disk: Disk) -> GroupCommit:
    commit = GroupCommit(disk, disk, by_turn=True)  # type: ignore[arg-type]
    commit.costs = FlushCosts(plain_s=0.001, fixed_s=0.010)
    return commit


async def test_many_of_one_turn_are_one_batch_and_none_goes_ahead() -> None:
    disk = Disk()
    commit = made(disk)
    futures = [commit.submit(write(n)) for n in range(60)]
    await settle()
    assert not disk.plain
    ((members, answer),) = disk.batches
    assert [one.message_id for one in members] == [f"{n}.0" for n in range(60)]
    later = [commit.submit(write(n, 1)) for n in range(60)]
    await settle()
    assert len(disk.batches) == 1, "one flush at a time"
    answer.set_result(Verdict(60, 0, ""))
    await settle()
    assert [future.result() for future in futures] == list(range(1, 61))
    disk.batches[1][1].set_result(Verdict(120, 0, ""))
    await settle()
    assert [future.result() for future in later] == list(range(61, 121))


async def test_a_few_of_one_turn_go_out_plain_in_order_and_get_their_own_answers() -> None:
    disk = Disk()
    commit = made(disk)
    futures = [commit.submit(write(n)) for n in range(3)]
    await settle()
    assert not disk.batches
    assert [one.message_id for one, _ in disk.plain] == ["0.0", "1.0", "2.0"]
    disk.plain[0][1].set_result(7)
    disk.plain[1][1].set_exception(WrongExpectedSequence("guard", 0, 3))
    await settle()
    assert futures[0].result() == 7
    assert isinstance(futures[1].exception(), WrongExpectedSequence)
    assert not futures[2].done()


async def test_g12_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "MAX_QUEUED", MAX_PLAIN)
    commit = made(Disk())
    for n in range(MAX_PLAIN):
        commit.submit(write(n))
    with pytest.raises(Overloaded):
        commit.submit(write(MAX_PLAIN))
