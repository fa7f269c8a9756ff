"""Both ways of a fan (``fan.py``, ``io_uring.py``) over real sockets: whoever joins, leaves, is full or gone, each member gets exactly what
was sent while it was in, as far as it had room, and the sender knows how far that was (G11, G12)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from array import array
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from aura.gateway.live.fanout import io_uring
from aura.gateway.live.fanout.fan import MANY, Fan, Fans
from aura.gateway.live.fanout.io_uring import SubmissionRing, open_ring
from aura.gateway.live.fanout.outlet import Outlet

ENTRIES = 8


def _ring() -> SubmissionRing:
    """A small one, so that its ends are met often."""
    try:
        return SubmissionRing(ENTRIES)
    except OSError as error:
        pytest.skip(f"no io_uring here: {error}")


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


class Peer:
    """A connection of which both ends are seen."""

    def __init__(self) -> None:
        self.ours, self.theirs = _connected()
        self.owed = b""
        """What the system has taken of what was sent to it."""
        self.read = b""
        self.gone = False

    def hang_up(self) -> None:
        """So that a write to it fails."""
        self.gone = True
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.theirs.close()

    def drain(self) -> None:
        """Read what is owed, and whatever else there is."""
        if self.gone:
            return
        self.theirs.settimeout(5)
        while len(self.read) < len(self.owed):
            self.read += self.theirs.recv(1 << 20)
        self.theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self.read += self.theirs.recv(1 << 20)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class Members(RuleBasedStateMachine):
    """A fan and its members. A member that took less than all stays: what it gets then has a hole, exactly where the fan said."""

    ring: SubmissionRing | None = None

    @initialize()
    def begin(self) -> None:
        self.fan = Fan(self.ring)
        self.inside: list[Peer] = []
        self.outside: list[Peer] = []
        self.sent = 0

    @rule(count=st.integers(1, 2 * ENTRIES))
    def join(self, count: int) -> None:
        for _ in range(count):
            peer = self.outside.pop() if self.outside else Peer()
            self.fan.add(cast(Outlet, peer), peer.ours.fileno())
            self.inside.append(peer)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.inside:
            peer = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
            assert self.fan.remove(cast(Outlet, peer))
            assert not self.fan.remove(cast(Outlet, peer))
            if peer.gone:
                peer.close()
            else:
                self.outside.append(peer)

    @rule(size=st.sampled_from([1, 90, 3_000, 4_000_000]))
    def send(self, size: int) -> None:
        self.sent += 1
        data = (b"%d," % self.sent).ljust(size, b"x")
        short = {cast(Peer, outlet): taken for outlet, taken in self.fan.send(data)}
        assert set(short) <= set(self.inside)
        for peer in self.inside:
            if peer.gone:
                assert short[peer] == 0
            else:
                peer.owed += data[: short.get(peer, len(data))]

    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        here = [peer for peer in self.inside if not peer.gone]
        if here:
            here[data.draw(st.integers(0, len(here) - 1))].hang_up()

    @rule()
    def drain(self) -> None:
        for peer in self.inside + self.outside:
            peer.drain()
            assert peer.gone or peer.read == peer.owed

    def teardown(self) -> None:
        if hasattr(self, "fan"):
            assert set(map(id, self.fan)) == set(map(id, self.inside))
            self.drain()
            for peer in self.inside + self.outside:
                peer.close()


@pytest.mark.parametrize("by", ["calls", "io_uring"])
def test_g11_each_gets_what_it_has_room_for_and_the_sender_knows(by: str) -> None:
    ring = _ring() if by == "io_uring" else None
    machine = type("Members", (Members,), {"ring": ring})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))
    if ring is not None:
        assert not ring.broken
        ring.close()


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    found = [Peer() for _ in range(3 * ENTRIES)]
    yield found
    for peer in found:
        peer.close()


def _fds(peers: list[Peer]) -> array[int]:
    return array("I", [peer.ours.fileno() for peer in peers])


def test_a_ring_that_takes_only_some_says_who_got_nothing(peers: list[Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    ring = _ring()
    enter, calls = ring._call, iter([5, ENTRIES])

    def few(call: int, fd: int, count: int, *rest: Any) -> int:
        for most in calls:
            return cast(int, enter(call, fd, min(count, most), *rest))
        ctypes.set_errno(errno.EBUSY)
        return -1

    monkeypatch.setattr(ring, "_call", few)
    assert ring.send(_fds(peers), b"event") == dict.fromkeys(range(ENTRIES, 3 * ENTRIES), 0)
    assert not ring.broken, "busy passes"
    monkeypatch.undo()
    assert ring.send(_fds(peers), b"again") == {}, "what was withdrawn is not sent later"
    for place, peer in enumerate(peers):
        peer.drain()
        assert peer.read == (b"eventagain" if place < ENTRIES else b"again")
    ring.close()


def test_a_fan_whose_ring_breaks_goes_on_one_by_one(peers: list[Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    ring = _ring()
    fan = Fan(ring)
    for peer in peers[: MANY + 1]:
        fan.add(cast(Outlet, peer), peer.ours.fileno())

    def refuse(*_: Any) -> int:
        ctypes.set_errno(errno.EBADFD)
        return -1

    monkeypatch.setattr(ring, "_call", refuse)
    assert [taken for _, taken in fan.send(b"first")] == [0] * (MANY + 1)
    assert ring.broken
    assert fan.send(b"second") == []
    for peer in peers[: MANY + 1]:
        peer.drain()
        assert peer.read == b"second"
    ring.close()


def test_where_io_uring_is_forbidden_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def syscall(self, *_: Any) -> int:
            ctypes.set_errno(errno.EPERM)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", Forbidden)
    assert open_ring() is None


def test_a_kernel_that_does_not_keep_its_word_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``MSG_WAITALL`` what is cut short counts as a success, of which nothing is heard."""
    _ring().close()
    monkeypatch.setattr(io_uring, "_FLAGS", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    assert open_ring() is None


def test_a_ring_that_answers_late_is_not_believed_and_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be there at once is not: that is an answer too, and no crash."""
    _ring().close()
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(SubmissionRing, "send", lambda *_: {})
    assert open_ring() is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_ring_lets_go_of_all_it_has() -> None:
    before = len(os.listdir("/proc/self/fd"))
    ring = _ring()
    assert len(os.listdir("/proc/self/fd")) > before
    ring.close()
    ring.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_turned_off_there_is_no_ring_and_all_is_written(peers: list[Peer]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fans = Fans("off")
    assert len(os.listdir("/proc/self/fd")) == before
    fan = fans()
    for peer in peers[: MANY + 1]:
        fan.add(cast(Outlet, peer), peer.ours.fileno())
    assert fan.send(b"event") == []
    for peer in peers[: MANY + 1]:
        peer.drain()
        assert peer.read == b"event"
    fans.close()


def test_more_clients_than_a_ring_has_places(peers: list[Peer]) -> None:
    ring = _ring()
    for count in (1, 7, 8, 9, 23, 24):
        assert ring.send(_fds(peers[:count]), b"%02d" % count) == {}
    for place, peer in enumerate(peers):
        peer.drain()
        assert peer.read == b"".join(b"%02d" % count for count in (1, 7, 8, 9, 23, 24) if place < count)
    ring.close()
