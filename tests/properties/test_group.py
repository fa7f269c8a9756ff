"""Both ways to a client (``group.py``): whatever is written when, and however little the system takes, bytes leave in order, nobody
misses or repeats any, and a client that is too slow costs the others nothing (G11, G12)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aura.gateway.live.fanout.fan import Fan
from aura.gateway.live.fanout.frames import Frame
from aura.gateway.live.fanout.group import Group
from aura.gateway.live.fanout.outlet import Lane, Outlet, Wire
from aura.log.store import Recorded

CLIENTS, BUDGET = 3, 150


class Pipe:
    """An outlet over a system that holds ``room`` bytes, as ``WebSocketOutlet`` is one."""

    wire: Wire = "ws"

    def __init__(self, room: int) -> None:
        self.lane: Lane | None = None
        self.closed = False
        self.room = room
        self.broken = False
        self.system = b""
        self.unsent = b""
        self.read = b""
        self.owed = b""
        """Everything that was to reach the client."""

    def send(self, data: bytes) -> int:
        """As the system takes it."""
        assert not self.closed, "nothing follows a close"
        assert not self.unsent, "nothing overtakes"
        taken = data[: self.room - len(self.system)]
        if self.broken:
            return 0
        self.system += taken
        return len(taken)

    def write(self, data: bytes) -> None:
        if self.lane is not None:
            self.lane.queue(self)
        if not self.closed:
            self.unsent += data
            self.flow()

    def past(self) -> int | None:
        return None if self.closed else 0

    def buffered(self) -> int:
        return len(self.unsent)

    def flow(self) -> None:
        taken = self.unsent[: self.room - len(self.system)]
        self.system, self.unsent = self.system + taken, self.unsent[len(taken) :]

    def take(self, size: int) -> None:
        self.read, self.system = self.read + self.system[:size], self.system[size:]
        self.flow()

    async def drained(self, timeout_s: float) -> bool:
        return True

    def end(self, code: int, reason: str) -> None:
        if self.lane is not None:
            self.lane.queue(self)
        self.closed = True


class Pipes(Fan):
    """A fan over pipes, which have no file descriptors."""

    def send(self, data: bytes) -> list[tuple[Outlet, int]]:
        pipes = [outlet for outlet in self if isinstance(outlet, Pipe)]
        assert len(pipes) == len(self)
        return [(pipe, taken) for pipe in pipes if (taken := pipe.send(data)) != len(data)]


class Lanes(RuleBasedStateMachine):
    """A group and its clients. A client may leave and come back, which here is another connection's joining."""

    @initialize(rooms=st.lists(st.integers(40, 400), min_size=CLIENTS, max_size=CLIENTS))
    def begin(self, rooms: list[int]) -> None:
        self.group = Group(("aura.>",), "ws", 0, Pipes())
        self.pipes = [Pipe(room) for room in rooms]
        self.inside: set[Pipe] = set()
        self.seq = 0

    def _write(self, events: int) -> None:
        data = b""
        for _ in range(events):
            self.seq += 1
            frame = Frame(Recorded(self.seq, "aura.job.1.a.created", 0, b'{"n":%d}' % self.seq))
            self.group.add(frame)
            data += frame.ws
        unsent = {pipe: pipe.buffered() for pipe in self.inside}
        messages, size, slow = self.group.write(BUDGET)
        assert set(slow) == {pipe for pipe in self.inside if unsent[pipe] > BUDGET}
        self.inside -= set(slow)
        assert (messages, size) == (events * len(self.inside), len(data) * len(self.inside))
        for pipe in self.inside:
            pipe.owed += b"" if pipe.closed else data

    @rule(events=st.integers(1, 4))
    def events(self, events: int) -> None:
        self._write(events)

    @rule(at=st.integers(0, CLIENTS - 1))
    def join(self, at: int) -> None:
        if self.pipes[at] not in self.inside and not self.pipes[at].closed:
            self.group.join(self.pipes[at])
            self.inside.add(self.pipes[at])

    @rule(at=st.integers(0, CLIENTS - 1))
    def leave(self, at: int) -> None:
        self.group.leave(self.pipes[at])
        self.inside.discard(self.pipes[at])

    @rule(at=st.integers(0, CLIENTS - 1), word=st.binary(min_size=1, max_size=60))
    def say(self, at: int, word: bytes) -> None:
        if not self.pipes[at].closed:
            self.pipes[at].owed += word
        self.pipes[at].write(word)

    @rule(at=st.integers(0, CLIENTS - 1), size=st.integers(1, 500))
    def take(self, at: int, size: int) -> None:
        self.pipes[at].take(size)

    @rule(at=st.integers(0, CLIENTS - 1), broken=st.booleans())
    def refuse(self, at: int, broken: bool) -> None:
        self.pipes[at].broken = broken

    @rule(at=st.integers(0, CLIENTS - 1))
    def end(self, at: int) -> None:
        self.pipes[at].end(1000, "")

    @invariant()
    def in_order(self) -> None:
        for pipe in self.pipes:
            assert pipe.read + pipe.system + pipe.unsent == pipe.owed

    @invariant()
    def one_lane_each(self) -> None:
        members = self.group.members
        assert len(members) == len(set(members))
        assert set(members) == self.inside
        for pipe in self.pipes:
            assert pipe.lane is None or (pipe in self.inside and not pipe.closed and not pipe.unsent)


TestLanes = Lanes.TestCase
TestLanes.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
