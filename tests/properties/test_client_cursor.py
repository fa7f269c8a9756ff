"""The client's cursors under every interleaving of commits, cuts and new logs: each event once and in order, or one reset first (G11)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aura.client import Chunk, Event, Note, Reset
from aura.client.job_cursor import JobCursor
from aura.client.log_cursor import LogCursor


@dataclass
class Log:
    """What is committed, and the wants-it flag of each event: sequences from 1."""

    epoch: str = "e0"
    wanted: list[bool] = field(default_factory=list)

    def frames(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the server sends on a subscription, up to now."""
        head = len(self.wanted)
        after = asked["seq"] - 1 if "seq" in asked else max(head - asked["last"], 0)
        if after > head:
            yield {"op": "subscribed", "id": "1", "seq": head, "recovered": False}
            yield {"op": "reset", "id": "1", "epoch": self.epoch, "reason": "ahead", "seq": head}
            after = head
        else:
            yield {"op": "subscribed", "id": "1", "seq": after, "recovered": True}
        for seq in range(after + 1, head + 1):
            if self.wanted[seq - 1]:
                yield _frame(seq)
        yield {"op": "live", "id": "1", "seq": head}


def _frame(seq: int) -> dict[str, Any]:
    return {"seq": seq, "subject": "aura.job.1.j.created", "event": {"type": "job.created"}}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_follower_gets_every_event_once_and_in_order_or_a_reset(data: st.DataObject) -> None:
    log = Log(wanted=data.draw(st.lists(st.booleans(), max_size=8)))
    start: dict[str, Any] = data.draw(
        st.one_of(
            st.just({}),
            st.fixed_dictionaries({"since": st.integers(0, len(log.wanted) + 2)}),
            st.fixed_dictionaries({"last": st.integers(0, 9)}),
        )
    )
    cursor = LogCursor(**start)
    got: list[Event | Note | Reset] = []

    def take(item: Event | Note | Reset | None) -> None:
        if item is not None:
            got.append(item)

    begun = False
    for _ in range(data.draw(st.integers(1, 5))):  # connections
        if data.draw(st.booleans()):
            log.wanted += data.draw(st.lists(st.booleans(), max_size=3))  # committed while nobody was connected
        if begun and data.draw(st.integers(0, 5)) == 0:
            log = Log(f"e{len(log.epoch) + 1}{log.epoch}", data.draw(st.lists(st.booleans(), max_size=4)))
        resets = len([item for item in got if isinstance(item, Reset)])
        take(cursor.welcome(log.epoch, len(log.wanted)))
        if data.draw(st.integers(0, 3)) == 0:
            begun = True
            continue  # cut before anything was asked
        begun = True
        frames = list(log.frames(cursor.ask()))
        cut = data.draw(st.integers(0, len(frames)))
        for frame in frames[:cut]:
            take(cursor.take(frame))
        if cut == len(frames):
            for wants in data.draw(st.lists(st.booleans(), max_size=3)):  # live
                log.wanted.append(wants)
                if wants:
                    take(cursor.take(_frame(len(log.wanted))))
        now = len([item for item in got if isinstance(item, Reset)])
        assert now - resets <= 2

    # Cut the item list at resets: within a stretch sequences rise strictly, and none that is wanted is skipped.
    stretch: list[int] = []
    for item in got:
        if isinstance(item, Reset):
            stretch = [item.seq]
        else:
            assert isinstance(item, Event)
            if stretch:
                assert item.seq > stretch[-1]
            stretch.append(item.seq)
    if not any(isinstance(item, Reset) for item in got):
        expected = [event.seq for event in got if isinstance(event, Event)]
        if expected:
            between = range(expected[0], expected[-1] + 1)
            assert expected == [seq for seq in between if log.wanted[seq - 1]]
    last = [item for item in got if isinstance(item, Reset)]
    if last:
        after = got[got.index(last[-1]) + 1 :]
        seqs = [item.seq for item in after if isinstance(item, Event)]
        if seqs and last[-1].epoch == log.epoch:
            assert seqs == [s for s in range(last[-1].seq + 1, seqs[-1] + 1) if log.wanted[s - 1]]


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, 3), max_size=4), commits=st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_from_now_is_fixed_by_the_first_welcome(cuts: list[int], commits: list[int]) -> None:
    """Also when the first connections break before they are live: what is committed after the first welcome is never missed."""
    log = Log(wanted=[True] * 3)
    cursor, got = LogCursor(), list[int]()
    for cut, commit in zip([*cuts, 1_000], commits, strict=False):
        assert cursor.welcome("e0", len(log.wanted)) is None
        log.wanted += [True] * commit
        for frame in list(log.frames(cursor.ask()))[:cut]:
            item = cursor.take(frame)
            if isinstance(item, Event):
                got.append(item.seq)
    assert got == list(range(4, len(log.wanted) + 1))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_watcher_gets_every_record_and_event_once_across_cuts(data: st.DataObject) -> None:
    """The server resumes at the query's place, or repeats more than asked (it may: a message is its unit)."""
    story: list[dict[str, Any]] = []
    seq = stored = 0
    for attempt in range(1, data.draw(st.integers(1, 3)) + 1):
        seq += 1
        story.append({"seq": seq, "type": "job.claimed", "state": {"status": "IN_PROGRESS"}})
        i = 0
        for size in data.draw(st.lists(st.integers(1, 3), max_size=3)):
            stored += data.draw(st.integers(1, 2))
            for _ in range(size):
                story.append({"type": "job.stream", "attempt": attempt, "i": i, "cursor": stored, "chunk": "x"})
                i += 1
        seq += 1
        story.append({"seq": seq, "type": "job.failed", "state": {"status": "QUEUED"}})
    seq += 1
    story.append({"seq": seq, "type": "job.cancelled", "state": {"status": "CANCELLED"}})

    cursor, got = JobCursor(), list[Any]()
    while not cursor.closed:
        asked = cursor.query()
        place = (asked.get("since", 0), asked.get("from", 0), asked.get("after", -1))
        repeats = data.draw(st.booleans())
        sent = [message for message in story if repeats or _after(message, *place)]
        for message in sent[: data.draw(st.integers(1, len(sent)))]:
            item = cursor.take(message)
            if item is not None:
                got.append(item.flat)
    assert got == story


def _after(message: dict[str, Any], since: int, cursor: int, after: int) -> bool:
    if "i" in message:
        return bool(message["cursor"] > cursor or (message["cursor"] == cursor and message["i"] > after))
    return bool(message["seq"] > since)


def test_a_job_that_was_closed_before_is_watched_to_its_present_end() -> None:
    past = [
        {"seq": 1, "type": "job.created", "state": {"status": "QUEUED"}},
        {"seq": 2, "type": "job.cancelled", "state": {"status": "CANCELLED"}},
        {"seq": 3, "type": "job.retried", "state": {"status": "QUEUED"}},
    ]
    from aura.client.job_cursor import open_until

    cursor = JobCursor(open_until(past))
    closed = []
    for message in [*past, {"seq": 4, "type": "job.cancelled", "state": {"status": "CANCELLED"}}]:
        cursor.take(message)
        closed.append(cursor.closed)
    assert closed == [False, False, False, True]
    assert open_until(past[:2]) == 1


def _job(*statuses: str, first: int = 1) -> list[dict[str, Any]]:
    return [
        {"seq": seq, "type": "job.x", "state": {"status": status}} for seq, status in enumerate(statuses, start=first)
    ]


def _record(attempt: int, i: int, cursor: int) -> dict[str, Any]:
    return {"type": "job.stream", "attempt": attempt, "i": i, "cursor": cursor, "chunk": "x"}


def test_a_reset_is_handed_out_and_everything_comes_again_also_what_has_older_numbers_G11() -> None:
    """An older backup was accepted as a new log: what it says from the start must not be taken for what was seen."""
    cursor = JobCursor(until=40)
    assert cursor.welcome("e1") is None
    for message in [*_job("QUEUED", first=40), _record(1, 0, 9), _record(1, 1, 9)]:
        assert cursor.take(message) is not None
    assert cursor.query() == {"since": 40, "from": 9, "after": 1, "epoch": "e1"}
    reset = cursor.take({"type": "reset", "epoch": "e2", "reason": "the log has another epoch", "seq": 0})
    assert reset == Reset("e2", "the log has another epoch", 0)
    assert (cursor.query(), cursor.until, cursor.epoch) == ({}, None, "e2")
    cursor.until = 3  # asked of the new log
    story = [*_job("QUEUED", first=3), _record(1, 0, 2), *_job("COMPLETED", first=4)]
    assert [item.flat for message in story if isinstance(item := cursor.take(message), Event | Chunk)] == story
    assert cursor.closed
    assert cursor.query() == {"since": 4, "from": 2, "after": 0, "epoch": "e2"}


def test_a_reset_of_the_same_log_is_handed_out_too() -> None:
    cursor = JobCursor()
    cursor.welcome("e1")
    cursor.take(_job("QUEUED", first=5)[0])
    assert isinstance(cursor.take({"type": "reset", "epoch": "e1", "reason": "ahead", "seq": 0}), Reset)
    assert cursor.take(_job("QUEUED", first=5)[0]) is not None


def test_a_handshake_of_another_log_and_the_reset_that_follows_are_one_reset() -> None:
    cursor = JobCursor()
    assert cursor.welcome("e1") is None
    assert cursor.welcome(None) is None
    cursor.take(_job("QUEUED", first=5)[0])
    assert cursor.welcome("e1") is None
    assert isinstance(cursor.welcome("e2"), Reset)
    assert cursor.take({"type": "reset", "epoch": "e2", "reason": "the log has another epoch", "seq": 0}) is None
    assert cursor.welcome("e2") is None


def test_nobody_is_told_of_another_log_before_anything_came_but_its_history_is_asked_anew() -> None:
    cursor = JobCursor(until=7)
    assert cursor.welcome("e1") is None
    assert cursor.welcome("e2") is None
    assert cursor.until is None
