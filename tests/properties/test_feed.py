"""G11 and G12 of the live feed, for every interleaving: what a client gets is contiguous, or a reset; a slow one is cut off exactly."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from aura.clock import ManualClock
from aura.events.subjects import EVERYTHING
from aura.gateway.limits import Limits
from aura.gateway.live.fanout.frames import Frame
from aura.gateway.live.fanout.hub import Hub
from aura.gateway.live.fanout.outlet import Lane, Wire
from aura.gateway.live.fanout.trie import matches
from aura.gateway.live.feed import Cursor, Feed, FromLog, FromRing, GoLive, LogView, Reset
from aura.gateway.metrics import Metrics
from aura.log.store import LogIdentity, Recorded

SUBJECTS = ("aura.system.x", "aura.job.1.a.created", "aura.job.1.b.created")
PATTERNS = (EVERYTHING, ("aura.job.1.a.>",), ("aura.job.>",))


def recorded(seq: int) -> Recorded:
    return Recorded(seq, SUBJECTS[seq % 3], 0, b'{"n":%d}' % seq)


class Client:
    """An outlet that takes bytes when told to."""

    wire: Wire = "ws"

    def __init__(self) -> None:
        self.lane: Lane | None = None
        self.taken: list[int] = []
        self.unsent = 0
        self.reading = True
        self.ended: tuple[int, str] | None = None

    @property
    def closed(self) -> bool:
        return self.ended is not None

    def write(self, data: bytes) -> None:
        if self.closed:
            return
        while data:
            size = data[1]
            text = data[2 : 2 + size]
            data = data[2 + size :]
            self.taken.append(int(text[7 : text.index(b",")]))
            self.unsent += 0 if self.reading else size

    def past(self) -> None:
        """Everything goes through :meth:`write`."""

    def buffered(self) -> int:
        return self.unsent

    async def drained(self, timeout_s: float) -> bool:
        return True

    def end(self, code: int, reason: str) -> None:
        self.ended = self.ended or (code, reason)


class Machine:
    """A hub, its log, and one client whose steps are taken one by one."""

    def __init__(self, before: int, ring: int, page: int, patterns: tuple[str, ...], cursor: Cursor) -> None:
        limits = Limits(ring_frames=ring, page_events=page, page_bytes=60, outbound_bytes=200)
        self.hub = Hub(ManualClock(), limits, Metrics())
        self.head = before
        from_seq = max(before - ring, 0) + 1
        self.hub.begin(LogIdentity("e", 1, before), from_seq)
        if from_seq <= before:
            self.hub.on_batch([recorded(seq) for seq in range(from_seq, before + 1)])
        self.client, self.patterns = Client(), patterns
        self.feed = Feed(cursor, self.hub.view(), page_events=page)
        self.start = self.feed.position
        self.reset: Reset | None = None
        self.live = False
        self.read: FromLog | None = None

    def append(self, count: int) -> None:
        batch = [recorded(self.head + 1 + offset) for offset in range(count)]
        self.head += count
        self.hub.on_batch(batch)

    def step(self) -> None:
        """One turn of the client: a page that was asked for arrives, or the next thing is asked for."""
        if self.live or self.client.closed:
            return
        if self.read is not None:
            page, self.read = self.read, None
            self._write([Frame(recorded(seq)) for seq in range(page.from_seq, page.to_seq + 1)])
            self.feed.reached(page.to_seq)
            return
        match self.feed.next(self.hub.view()):
            case FromLog() as page:
                assert page.to_seq <= self.hub.head
                self.read = page
            case FromRing(after):
                frames = self.hub.ring_after(after, 60)
                self._write(frames)
                self.feed.reached(frames[-1].seq)
            case Reset() as reset:
                self.reset = reset
                self.start = reset.seq
            case GoLive():
                self.hub.join(self.patterns, self.client)
                self.live = True

    def _write(self, frames: list[Frame]) -> None:
        wanted = [frame for frame in frames if any(matches(pattern, frame.subject) for pattern in self.patterns)]
        self.client.write(b"".join(frame.ws for frame in wanted))

    def expected(self, to_seq: int) -> list[int]:
        return [
            seq
            for seq in range(self.start + 1, to_seq + 1)
            if any(matches(pattern, SUBJECTS[seq % 3]) for pattern in self.patterns)
        ]


moves = st.lists(
    st.one_of(
        st.integers(1, 7).map(lambda count: ("append", count)),
        st.just(("step", 0)),
        st.just(("flush", 0)),
        st.booleans().map(lambda on: ("reading", int(on))),
    ),
    max_size=60,
)
cursors = st.one_of(
    st.integers(0, 50).map(lambda seq: Cursor(since=seq)),
    st.integers(0, 50).map(lambda count: Cursor(last=count)),
    st.just(Cursor()),
    st.just(Cursor(since=1, epoch="another")),
    st.just(Cursor(since=0, epoch="e")),
)


@settings(max_examples=400, deadline=None)
@given(
    before=st.integers(0, 40),
    ring=st.integers(1, 20),
    page=st.integers(1, 15),
    patterns=st.sampled_from(PATTERNS),
    cursor=cursors,
    plan=moves,
)
def test_no_gap_no_duplicate_no_reorder_G11(
    before: int, ring: int, page: int, patterns: tuple[str, ...], cursor: Cursor, plan: list[tuple[str, int]]
) -> None:
    asyncio.run(_interleave(before, ring, page, patterns, cursor, plan))


async def _interleave(
    before: int, ring: int, page: int, patterns: tuple[str, ...], cursor: Cursor, plan: list[tuple[str, int]]
) -> None:
    machine = Machine(before, ring, page, patterns, cursor)
    client = machine.client
    for move, argument in plan:
        match move:
            case "append":
                machine.append(argument)
            case "step":
                machine.step()
            case "flush":
                machine.hub.flush()
            case "reading":
                client.reading = bool(argument)
                client.unsent = 0 if client.reading else client.unsent
        assert client.taken == machine.expected(machine.head)[: len(client.taken)]
    if client.ended is None:
        client.reading, client.unsent = True, 0
        for _ in range(200):
            machine.step()
        machine.hub.flush()
        assert machine.live
        assert client.taken == machine.expected(machine.head), "everything arrives in the end"
    else:
        code, resume = client.ended
        assert code == 4408
        seq = int(resume.removeprefix("since="))
        assert client.taken == machine.expected(seq), "the reason names exactly what was written"
    if cursor.since is not None and (cursor.since > before or cursor.epoch == "another"):
        assert machine.reset is not None or not any(move == "step" for move, _ in plan) or client.closed


@given(since=st.integers(0, 100), first=st.integers(1, 60), more=st.integers(0, 60))
def test_a_trimmed_log_resets_and_never_skips(since: int, first: int, more: int) -> None:
    head = first + more
    step = Feed(Cursor(since=since), LogView("e", first, head + 1, head)).next(LogView("e", first, head + 1, head))
    if since + 1 < first or since > head:
        assert isinstance(step, Reset)
        assert step.seq == head
    elif since == head:
        assert step == GoLive()
    else:
        assert isinstance(step, FromLog)
        assert step.from_seq == since + 1
