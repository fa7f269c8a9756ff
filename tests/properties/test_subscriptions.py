"""G11 of ``aura.v1`` for every interleaving: subscriptions come and go, events are committed, pages arrive late; each subscription gets
its events exactly once and in order by the rule of the docs (matching subject, sequence above its own)."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aura.errors import Conflict, NotFound, Overloaded
from aura.gateway.live.fanout.trie import matches, selector
from aura.gateway.live.feed import Cursor, FromLog, FromRing, GoLive, LogView
from aura.gateway.live.subscriptions import Subscription, Subscriptions, log_patterns

SUBJECTS = ("aura.system.x", "aura.job.1.a.created", "aura.job.1.b.created")
PATTERNS = (
    ("aura.job.>",),
    ("aura.system.>",),
    ("aura.job.1.a.>",),
    ("aura.job.>", "aura.system.>"),
    ("aura.job.*.b.>",),
)


def subject(seq: int) -> str:
    return SUBJECTS[seq % 3]


class Reader:
    """What a client does: it hands a frame to each subscription that matches and is behind it."""

    def __init__(self) -> None:
        self.got: dict[str, list[int]] = {}
        self.start: dict[str, int] = {}
        self.patterns: dict[str, tuple[str, ...]] = {}
        self.frames: list[int] = []

    def opened(self, id: str, seq: int, patterns: tuple[str, ...]) -> None:
        self.got[id], self.start[id], self.patterns[id] = [], seq, patterns

    def take(self, seq: int) -> None:
        self.frames.append(seq)
        for id, got in self.got.items():
            newest = got[-1] if got else self.start[id]
            if seq > newest and _wants(self.patterns[id], seq):
                got.append(seq)

    def check(self, id: str, head: int) -> None:
        wanted = [seq for seq in range(self.start[id] + 1, head + 1) if _wants(self.patterns[id], seq)]
        assert self.got[id] == wanted[: len(self.got[id])]

    def complete(self, id: str, head: int) -> None:
        assert self.got[id] == [seq for seq in range(self.start[id] + 1, head + 1) if _wants(self.patterns[id], seq)]


def _wants(patterns: tuple[str, ...], seq: int) -> bool:
    return any(matches(pattern, subject(seq)) for pattern in patterns)


class Machine:
    """The shell's steps, one by one, over a log that is only a number."""

    def __init__(self, head: int, ring: int, page: int) -> None:
        self.head, self.ring = head, ring
        self.subscriptions = Subscriptions(most=4, page_events=page)
        self.reader = Reader()
        self.live: tuple[str, ...] | None = None
        self.page: tuple[tuple[Subscription, ...], FromLog] | None = None
        """What is being read; when the subscriptions change meanwhile it is not written."""

    @property
    def view(self) -> LogView:
        return LogView("e", 1, max(self.head - self.ring, 0) + 1, self.head)

    def append(self) -> None:
        self.head += 1
        if self.live is not None and _wants(self.live, self.head):
            self.reader.take(self.head)

    def leave(self) -> None:
        self.page = None
        if self.live is not None:
            self.live = None
            self.subscriptions.left_live(self.head)

    def add(self, id: str, patterns: tuple[str, ...], since: int | None) -> None:
        self.leave()
        seq, reset = self.subscriptions.add(id, patterns, Cursor(since=since), self.view)
        assert (reset is not None) == (since is not None and since > self.head)
        self.reader.opened(id, seq, patterns)

    def remove(self, id: str) -> None:
        self.leave()
        self.subscriptions.remove(id)
        for names in (self.reader.got, self.reader.start, self.reader.patterns):
            names.pop(id)

    def step(self) -> None:
        if self.live is not None:
            return
        if self.page is not None:
            (served, page), self.page = self.page, None
            self.write(served, page.from_seq, page.to_seq)
            return
        served = self.subscriptions.behind()
        match self.subscriptions.next(self.view):
            case GoLive():
                self.live = self.subscriptions.patterns()
                self.subscriptions.announce()
            case FromRing(after):
                stop = self.subscriptions.stop_at()
                end = min(after + 3, self.head)
                self.write(served, after + 1, end if stop is None else min(end, stop))
            case FromLog() as page:
                assert page.to_seq <= self.head
                self.page = (served, page)

    def write(self, served: tuple[Subscription, ...], from_seq: int, to_seq: int) -> None:
        patterns = tuple(pattern for found in self.subscriptions.still(served) for pattern in found.patterns)
        for seq in range(from_seq, to_seq + 1):
            if patterns and _wants(patterns, seq):
                self.reader.take(seq)
        self.subscriptions.reached(served, to_seq)


ids = st.sampled_from("abcd")
moves = st.lists(
    st.one_of(
        st.just(("append",)),
        st.just(("step",)),
        st.tuples(st.just("add"), ids, st.sampled_from(PATTERNS), st.one_of(st.none(), st.integers(0, 40))),
        st.tuples(st.just("remove"), ids),
    ),
    max_size=60,
)


@settings(max_examples=500, deadline=None)
@given(head=st.integers(0, 30), ring=st.integers(1, 15), page=st.integers(1, 12), plan=moves)
@example(
    head=3,
    ring=1,
    page=2,
    plan=[("add", "a", PATTERNS[0], 1), ("step",), ("add", "b", PATTERNS[0], 0), ("step",)],
)
def test_each_subscription_gets_its_events_once_and_in_order_G11(
    head: int, ring: int, page: int, plan: list[tuple[object, ...]]
) -> None:
    machine = Machine(head, ring, page)
    for move in plan:
        match move:
            case ("append",):
                machine.append()
            case ("step",):
                machine.step()
            case ("add", str(id), tuple(patterns), since) if id not in machine.subscriptions:
                machine.add(id, patterns, since)  # type: ignore[arg-type]
            case ("remove", str(id)) if id in machine.subscriptions:
                machine.remove(id)
        for id in machine.reader.got:
            machine.reader.check(id, machine.head)
    for _ in range(300):
        machine.step()
    assert machine.live is not None
    for id in machine.reader.got:
        machine.reader.complete(id, machine.head)


@given(
    head=st.integers(0, 30),
    ring=st.integers(1, 15),
    page=st.integers(1, 12),
    starts=st.lists(st.integers(0, 30), max_size=4),
)
def test_subscriptions_that_begin_together_share_every_frame(
    head: int, ring: int, page: int, starts: list[int]
) -> None:
    machine = Machine(head, ring, page)
    for id, since in zip("abcd", starts, strict=False):
        machine.add(id, PATTERNS[0], min(since, head))
    for _ in range(200):
        machine.step()
    assert len(machine.reader.frames) == len(set(machine.reader.frames)), "an event is sent once per connection"


def test_bounds_and_names() -> None:
    subscriptions, view = Subscriptions(most=2, page_events=10), LogView("e", 1, 1, 0)
    subscriptions.add("a", PATTERNS[0], Cursor(), view)
    with pytest.raises(Conflict):
        subscriptions.add("a", PATTERNS[0], Cursor(), view)
    with pytest.raises(Overloaded):
        subscriptions.check("b", 1)
    subscriptions.add_live_only("b", ("health.aura.>",))
    with pytest.raises(Overloaded):
        subscriptions.add("c", PATTERNS[0], Cursor(), view)
    with pytest.raises(NotFound):
        subscriptions.remove("c")


def test_a_wildcard_for_the_kind_never_means_output() -> None:
    assert log_patterns("aura.*.1.>") == ("aura.job.1.>", "aura.model.1.>", "aura.session.1.>", "aura.system.1.>")
    assert log_patterns("aura.>")[0] == "aura.job.>"
    assert log_patterns("aura.job.>") == ("aura.job.>",)


tokens = st.lists(st.sampled_from(["a", "b", "1", "*"]), min_size=1, max_size=4)


@given(
    pattern=tokens,
    open_end=st.booleans(),
    subject=st.lists(st.sampled_from(["a", "b", "1", "a.b"]), min_size=1, max_size=5),
)
def test_a_selector_is_the_trie_s_rule(pattern: list[str], open_end: bool, subject: list[str]) -> None:
    text = ".".join(["aura", *pattern, *([">"] if open_end else [])])
    name = ".".join(["aura", *subject])
    assert bool(selector((text, "never.x"))(name)) == matches(text, name)
