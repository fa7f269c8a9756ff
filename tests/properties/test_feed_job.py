"""The per-job feed under lost, late, repeated and reordered live messages: every record once and in order, terminal events last (G11)."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from aura.gateway.live.job_feed import JobFeed, Message

Shown = tuple[str, int, int]
"""``("record", attempt, i)`` or ``("event", seq, 0)``."""


@dataclass
class Job:
    """The truth: what the log and the output stream hold, in the order of their own sequences."""

    events: list[dict[str, object]] = field(default_factory=list)
    output: list[Message[Shown]] = field(default_factory=list)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    job = Job()
    job.events.append({"type": "job.created"})
    cursor = 0
    for attempt in range(1, draw(st.integers(1, 3)) + 1):
        job.events.append({"type": "job.claimed", "attempt": attempt})
        count = 0
        for size in draw(st.lists(st.integers(1, 3), max_size=4)):
            cursor += draw(st.integers(1, 3))
            frames = [("record", attempt, i) for i in range(count, count + size)]
            job.output.append(Message(cursor, attempt, count, frames))
            count += size
        job.events.append({"type": "job.failed", "attempt": attempt, "output": {"count": count}})
    return job


@settings(max_examples=500, deadline=None)
@given(job=jobs(), data=st.data())
def test_every_record_once_in_order_and_before_its_attempt_ends(job: Job, data: st.DataObject) -> None:
    """Events come in order; output messages are stored in order, pushed live or lost; reads see what is stored at their end."""
    feed: JobFeed[Shown] = JobFeed()
    got: list[Shown] = []
    seen_events = stored = 0
    history = data.draw(st.integers(0, len(job.events)))
    while seen_events < len(job.events) or stored < len(job.output) or feed.wants_read:
        choices = []
        if seen_events < len(job.events) and _may_come(job, seen_events, stored):
            choices.append("event")
        if stored < len(job.output):
            choices += ["live", "lost"]
        if feed.wants_read and seen_events >= min(history, 1):
            choices.append("read")
        match data.draw(st.sampled_from(choices)):
            case "event":
                seen_events += 1
                got += feed.event(job.events[seen_events - 1], ("event", seen_events, 0))
            case "live":
                stored += 1
                got += feed.live(job.output[stored - 1])
                if data.draw(st.booleans()):
                    got += feed.live(job.output[data.draw(st.integers(0, stored - 1))])
            case "lost":
                stored += 1
            case "read":
                start, attempts = feed.begin_read()
                for index, message in enumerate(job.output[:stored]):
                    if message.cursor >= start and message.attempt in attempts:
                        got += feed.stored(message)
                    if index == stored // 2 and seen_events < len(job.events) and _may_come(job, seen_events, stored):
                        seen_events += 1
                        got += feed.event(job.events[seen_events - 1], ("event", seen_events, 0))
                got += feed.end_read()
    feed.begin_read()
    assert [shown for shown in got if shown[0] == "event"] == [("event", n + 1, 0) for n in range(len(job.events))]
    records = [shown for shown in got if shown[0] == "record"]
    truth = [frame for message in job.output for frame in message.frames]
    lost_at_the_end = truth[len(records) :]
    assert records == truth[: len(records)]
    assert not lost_at_the_end, "a terminal event vouches for every record"
    for attempt in {shown[1] for shown in records}:
        place = got.index(next(shown for shown in got if shown[:2] == ("record", attempt)))
        claim = next(n for n, event in enumerate(job.events) if event == {"type": "job.claimed", "attempt": attempt})
        end = got.index(("event", claim + 2, 0))
        assert got.index(("event", claim + 1, 0)) < place
        assert all(got.index(shown) < end for shown in records if shown[1] == attempt)


def _may_come(job: Job, index: int, stored: int) -> bool:
    """A worker stores its records before it reports the end of the attempt."""
    event = job.events[index]
    if event["type"] != "job.failed":
        return True
    return all(message.attempt != event["attempt"] for message in job.output[stored:])


@given(count=st.integers(1, 9), from_cursor=st.integers(1, 5), after=st.integers(-1, 10))
def test_a_resumed_feed_begins_exactly_after_its_cursor(count: int, from_cursor: int, after: int) -> None:
    messages = [
        Message(
            cursor, 1, (cursor - 1) * count, [("record", 1, i) for i in range((cursor - 1) * count, cursor * count)]
        )
        for cursor in range(1, 6)
    ]
    feed: JobFeed[Shown] = JobFeed(from_cursor=from_cursor, after=after)
    feed.event({"type": "job.claimed", "attempt": 1}, ("event", 1, 0))
    start, _ = feed.begin_read()
    got = [shown for message in messages if message.cursor >= start for shown in feed.stored(message)]
    first = max((from_cursor - 1) * count, min(after + 1, from_cursor * count))
    assert got == [("record", 1, i) for i in range(first, 5 * count)]


def test_purged_output_is_not_waited_for() -> None:
    feed: JobFeed[str] = JobFeed()
    assert feed.event({"type": "job.claimed", "attempt": 1}, "claimed") == ["claimed"]
    assert feed.event({"type": "job.completed", "attempt": 1, "output": {"count": 9}}, "completed") == []
    assert feed.event({"type": "archive.purged"}, "purged") == []
    feed.begin_read()
    assert feed.end_read() == ["completed", "purged"]


def test_an_event_that_came_during_a_read_waits_for_the_next_one() -> None:
    feed: JobFeed[str] = JobFeed()
    feed.event({"type": "job.claimed", "attempt": 1}, "claimed")
    feed.begin_read()
    assert feed.event({"type": "job.completed", "attempt": 1, "output": {"count": 1}}, "completed") == []
    assert feed.end_read() == []
    assert feed.wants_read
    feed.begin_read()
    assert feed.stored(Message(1, 1, 0, ["record"])) == ["record", "completed"]
