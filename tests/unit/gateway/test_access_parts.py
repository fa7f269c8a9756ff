"""The parts of the door by themselves: what is visible, failures by address, denials by minute, the fold of keys (G13)."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.clock import ManualClock, SystemClock, rfc3339
from aura.commands.access_keys import AccessKeys
from aura.commands.handler import Caller
from aura.errors import Unavailable
from aura.events.subjects import EVERYTHING
from aura.gateway.access import denials, failures
from aura.gateway.access.access import GuardedAccess
from aura.gateway.access.denials import Denials
from aura.gateway.access.failures import BURST, MAX_ADDRESSES, Failures, address_of
from aura.gateway.access.keys import KeyRing
from aura.gateway.access.principal import ANONYMOUS, NOBODY, Principal
from aura.gateway.access.subjects import covers, may_follow, visible
from aura.gateway.access.tickets import Tickets
from aura.gateway.live.fanout.trie import matches
from aura.gateway.metrics import Metrics
from aura.ids import SystemIds
from aura.log.memory import MemoryEventStore
from aura.log.output_memory import memory_content_and_output
from aura.log.store import Append
from aura.log.tickets import MemoryTickets

CALLER = Caller("user:nats", "c", "c")
LIMITED = Principal("user:x", frozenset({"operator"}), frozenset({1, 3}))


# ---------------------------------------------------------------- what is visible


def test_who_is_not_limited_may_follow_everything() -> None:
    assert visible(Principal("user:x", frozenset({"operator"}))) == EVERYTHING
    assert visible(ANONYMOUS) == EVERYTHING


def test_a_viewer_of_all_projects_sees_no_system_events_and_a_worker_nothing() -> None:
    viewer = Principal("user:x", frozenset({"viewer"}))
    assert not any(matches(pattern, "aura.system.access_denied") for pattern in visible(viewer))
    assert not may_follow(viewer, "aura.>")
    assert may_follow(viewer, "aura.job.*.*.created")
    assert visible(Principal("worker:x", frozenset({"worker"}))) == visible(NOBODY) == ()


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("aura.job.1.>", True), ("aura.job.3.*.assigned.>", True), ("aura.session.1.s.>", True), ("aura.model.>", True),
        ("aura.output.1.j.>", True), ("aura.job.2.>", False), ("aura.job.>", False), ("aura.job.*.x.>", False),
        ("aura.job.1", False), ("aura.>", False), ("aura.system.>", False), ("aura.*.1.>", False), ("health.aura.>", False),
    ],
)  # fmt: skip
def test_patterns_of_a_limited_principal(pattern: str, allowed: bool) -> None:
    assert may_follow(LIMITED, pattern) is allowed


_TOKENS = st.sampled_from(["a", "b", "*"])
_PATTERNS = st.builds(
    lambda body, rest: ".".join([*body, *rest]),
    st.lists(_TOKENS, min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
)
_SUBJECTS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5).map(".".join)


@given(_PATTERNS, _PATTERNS, _SUBJECTS)
def test_what_a_pattern_covers_it_matches(wide: str, narrow: str, subject: str) -> None:
    """No pattern within another selects what that one does not."""
    if covers(wide, narrow) and matches(narrow, subject):
        assert matches(wide, subject)


# ---------------------------------------------------------------- failures


def test_failures_are_counted_by_address_and_forgiven_with_time() -> None:
    clock = ManualClock()
    counted = Failures(clock)
    for _ in range(BURST):
        assert not counted.limited("a")
        counted.failed("a")
    assert counted.limited("a")
    assert not counted.limited("b")
    clock.advance(1 / failures.PER_S + 0.01)
    assert not counted.limited("a")
    for n in range(MAX_ADDRESSES + 10):
        counted.failed(f"x{n}")
    assert len(counted._left) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("client", "counts_as"),
    [
        (("127.0.0.1", 1), "127.0.0.1"), (("::ffff:10.0.0.1", 1), "10.0.0.1"), (("2001:db8::1", 1), "2001:db8::/64"),
        (("2001:db8::ffff:2", 1), "2001:db8::/64"), (("fe80::1%eth0", 1), "fe80::/64"), (None, ""), (("a host", 1), "a host"),
    ],
)  # fmt: skip
def test_whom_an_address_counts_as(client: object, counts_as: str) -> None:
    assert address_of(client) == counts_as


# ---------------------------------------------------------------- denials


async def _denied(store: MemoryEventStore) -> list[dict[str, Any]]:
    return [event.decode() async for batch in store.read(subject="aura.system.access_denied") for event in batch]


async def test_one_event_per_actor_action_and_minute_with_a_count_G13() -> None:
    clock = ManualClock()
    store = MemoryEventStore(clock)
    noted = Denials(store, clock, SystemIds())
    for n in range(7):
        noted.note("user:eve", "jobs.steer", f"/jobs/{n}")
    noted.note("user:eve", "keys.manage", "/auth/keys")
    noted.note("user:bob", "jobs.steer", "/jobs/9")
    await noted.flush()
    assert await _denied(store) == [], "the minute is not over"
    clock.advance(denials.MINUTE_S)
    await noted.flush()
    told = [(one["denied_actor"], one["action"], one["target"], one["count"]) for one in await _denied(store)]
    assert told == [
        ("user:eve", "jobs.steer", "/jobs/0", 7),
        ("user:eve", "keys.manage", "/auth/keys", 1),
        ("user:bob", "jobs.steer", "/jobs/9", 1),
    ]
    noted.note("user:eve", "jobs.steer", "/jobs/1")
    await noted.stop()
    assert len(await _denied(store)) == 4


async def test_a_flood_of_denials_is_bounded_and_a_log_that_is_away_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    store = MemoryEventStore(clock)
    noted = Denials(store, clock, SystemIds())
    for n in range(denials.MAX_OPEN + 50):
        noted.note(f"user:{n}", "jobs.read", "x" * 5_000)
    append = store.append

    async def away(_append: Append) -> int:
        raise Unavailable("no log")

    monkeypatch.setattr(store, "append", away)
    await noted.flush(everything=True)
    monkeypatch.setattr(store, "append", append)
    await noted.flush(everything=True)
    found = await _denied(store)
    assert len(found) == denials.MAX_OPEN
    assert {len(one["target"]) for one in found} == {denials.MAX_TARGET}


# ---------------------------------------------------------------- keys


class Keys:
    """A log, who issues keys, and a gateway's ring over it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryEventStore(self.clock)
        content, _ = memory_content_and_output(SystemClock(), SystemIds(), bytes(32))
        self.issuer = AccessKeys(self.store, content, self.clock, SystemIds())
        self.ring = KeyRing(self.store, self.clock)

    async def issue(self, role: str = "viewer", **more: Any) -> tuple[str, str]:
        made = await self.issuer.issue({"role": role, **more}, CALLER)
        return made["key"], made["key_id"]


@pytest.fixture
def keys() -> Keys:
    return Keys()


async def test_a_ring_folds_what_the_log_holds_and_then_follows_in_any_overlap(keys: Keys) -> None:
    first, first_id = await keys.issue("director")
    await keys.ring.start()
    second, _ = await keys.issue("worker", projects=[3, 1, 3])
    await keys.issuer.revoke({"key_id": first_id}, CALLER)
    batches = [batch async for batch in keys.store.read()]
    for _ in range(2):
        for batch in batches:
            keys.ring.observe(batch)
    assert keys.ring.open(first) is None
    found = keys.ring.open(second)
    assert found is not None
    assert (found.roles, found.projects, found.actor) == (frozenset({"worker"}), {1, 3}, f"worker:{found.key_id}")
    stored = b"".join(event.body for batch in batches for event in batch)
    assert second.encode() not in stored
    assert second.split("_", 2)[2].encode() not in stored


async def test_a_key_that_is_not_whole_opens_nothing(keys: Keys) -> None:
    key, key_id = await keys.issue()
    await keys.ring.start()
    assert keys.ring.open(key) is not None
    for wrong in (
        "",
        key[:-1],
        key + "A",
        key.upper(),
        f"aura_{key_id}_",
        "aura_" + "x" * 60,
        key.replace("aura_", "AURA_"),
    ):
        assert keys.ring.open(wrong) is None, wrong


async def test_an_expired_key_opens_nothing(keys: Keys) -> None:
    key, key_id = await keys.issue(expires_at=rfc3339(ManualClock().now().replace(minute=1)))
    await keys.ring.start()
    assert keys.ring.open(key) is not None
    keys.clock.advance(60)
    assert keys.ring.open(key) is None
    assert keys.ring.standing(key_id) is None


async def test_what_cannot_be_read_of_a_key_closes_it_G17(keys: Keys) -> None:
    key, key_id = await keys.issue()
    await keys.ring.start()
    ended: list[bool] = []
    keys.ring.watch(key_id, lambda: ended.append(True))
    subject, guard = f"aura.system.key.{key_id}.issued", f"aura.system.key.{key_id}.>"
    for n, body in enumerate((b"{", orjson.dumps({"type": "job.claimed", "v": 1}))):
        await keys.store.append(Append(subject, guard, n + 1, f"bad{n}", body))
    for batch in [batch async for batch in keys.store.read()]:
        keys.ring.observe(batch)
    assert keys.ring.open(key) is None
    assert ended == [True]


async def test_a_ticket_ends_with_its_time_with_its_key_and_with_its_principal() -> None:
    clock = ManualClock()
    tickets = Tickets(MemoryTickets(), None, clock, SystemIds())
    user = Principal("user:ada", frozenset({"viewer"}), frozenset({1}), clock.now().timestamp() + 10)
    assert await tickets.redeem(await tickets.issue(user)) == user
    late = await tickets.issue(user)
    clock.advance(10)
    assert await tickets.redeem(late) is None, "its principal has expired"
    lasting = await tickets.issue(Principal("user:bob", frozenset({"viewer"})))
    clock.advance(30)
    assert await tickets.redeem(lasting) is None, "30 s are over"
    for wrong in (None, 7, "", "x" * 43, "x" * 5_000, "*", "a.b"):
        assert await tickets.redeem(wrong) is None


async def test_a_watch_ends_once_at_revocation_and_not_after_it_was_stopped(keys: Keys) -> None:
    key, key_id = await keys.issue()
    await keys.ring.start()
    access = GuardedAccess(
        ring=keys.ring, oidc=None, tickets=Tickets(MemoryTickets(), keys.ring, keys.clock, SystemIds()),
        denials=Denials(keys.store, keys.clock, SystemIds()), director_key=None, metrics=Metrics(), clock=keys.clock,
    )  # fmt: skip
    principal = keys.ring.open(key)
    assert principal is not None
    told: list[tuple[int, str]] = []
    access.watch(principal, lambda code, reason: told.append((code, reason)))
    stop = access.watch(principal, lambda *_: told.append((0, "stopped")))
    stop()
    await keys.issuer.revoke({"key_id": key_id}, CALLER)
    for batch in [batch async for batch in keys.store.read()]:
        keys.ring.observe(batch)
        keys.ring.observe(batch)
    assert told == [(4401, "the key was revoked")]
    assert keys.ring._on_revoked == {}
