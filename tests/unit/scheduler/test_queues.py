"""Timers and ready queues against naive models, and that neither keeps what is gone (G12)."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from aura.domain.job_state import JobState, JobStatus
from aura.scheduler.ready import ConcurrencyKeys, Lane, Tickets
from aura.scheduler.rows import JobRow
from aura.scheduler.timers import Timers


@given(
    st.lists(st.tuples(st.sampled_from(["arm", "disarm", "pop"]), st.integers(0, 6), st.floats(0, 100)), max_size=60)
)
def test_timers_behave_like_a_sorted_dictionary(steps: list[tuple[str, int, float]]) -> None:
    timers: Timers[int] = Timers()
    naive: dict[int, float] = {}
    for verb, key, at in steps:
        if verb == "arm":
            timers.arm(key, at)
            naive[key] = at
        elif verb == "disarm":
            timers.disarm(key)
            naive.pop(key, None)
        else:
            popped = timers.pop(at)
            due = [deadline for deadline in naive.values() if deadline <= at]
            if popped is None:
                assert not due
            else:
                assert naive.pop(popped) == min(due)
        assert timers.next() == min(naive.values(), default=None)
        assert len(timers) == len(naive)


def test_g12_timers_do_not_keep_what_is_disarmed() -> None:
    timers: Timers[int] = Timers()
    for key in range(10_000):
        timers.arm(key, 1e9 + key)
        timers.disarm(key)
    assert len(timers._heap) <= 128


def row(number: int, priority: int = 5, project: int = 1, key: str | None = None) -> JobRow:
    made = JobRow(project, str(number), number, JobState(JobStatus.QUEUED, "r", priority=priority), number, 0, None)
    made.key = None if key is None else (project, key)
    return made


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(["push", "push", "pop", "discard"]), st.integers(0, 3), st.integers(1, 3)),
        max_size=80,
    )
)
def test_a_lane_serves_by_priority_then_projects_in_turn_then_age(steps: list[tuple[str, int, int]]) -> None:
    lane = Lane(0, (), Tickets())
    naive: dict[int, OrderedDict[int, list[JobRow]]] = {}
    number = 0
    for verb, priority, project in steps:
        projects = naive.setdefault(priority, OrderedDict())
        if verb == "push":
            number += 1
            made = row(number, priority, project)
            lane.push(made)
            projects.setdefault(project, []).append(made)
        elif verb == "discard" and projects.get(project):
            gone = projects[project].pop(len(projects[project]) // 2)
            lane.discard(gone)
        elif verb == "pop":
            popped = lane.pop()
            best = next((p for p in sorted(naive) if any(naive[p].values())), None)
            if best is None:
                assert popped is None
            else:
                assert popped is not None
                assert popped.state.priority == best
                mine = naive[best][popped.project]
                assert popped is mine.pop(0)  # the oldest of its project
                naive[best].move_to_end(popped.project)
        assert lane.live == sum(len(rows) for projects in naive.values() for rows in projects.values())


def test_no_project_waits_while_another_is_served_twice() -> None:
    lane = Lane(0, (), Tickets())
    for number in range(30):
        lane.push(row(number, project=1 + number // 10))
    served = [popped.project for _ in range(30) if (popped := lane.pop()) is not None]
    for turn in range(0, 30, 3):
        assert sorted(served[turn : turn + 3]) == [1, 2, 3]


def test_g12_a_lane_does_not_keep_what_left_it() -> None:
    lane = Lane(0, (), Tickets())
    for number in range(10_000):
        made = row(number)
        lane.push(made)
        lane.discard(made)
    queue = lane._queues[5]
    assert queue is not None
    assert queue._entries <= 128


def test_a_key_wakes_the_best_of_each_lane_when_it_is_free() -> None:
    tickets = Tickets()
    keys, lanes = ConcurrencyKeys(tickets), [Lane(number, (), tickets) for number in range(2)]
    holder, first, better, other = row(1, key="k"), row(2, key="k"), row(3, 1, key="k"), row(4, key="k")
    keys.take(holder)
    for waiting, lane in ((first, lanes[0]), (better, lanes[0]), (other, lanes[1])):
        keys.park(waiting, lane)
    assert list(keys.wake((1, "k"))) == []
    assert list(keys.give_back(holder)) == lanes
    assert (lanes[0].pop(), lanes[1].pop()) == (better, other)
    assert list(keys.wake((1, "k"))) == [lanes[0]]
    assert lanes[0].pop() is first
    assert not keys._parked
    assert not keys.busy((1, "k"))
