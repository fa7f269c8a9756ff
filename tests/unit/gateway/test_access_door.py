"""The door of a guarded gateway: whoever is good is let in whatever others did, and nobody is while revocations cannot be known (G13)."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
import structlog

from aura.clock import ManualClock
from aura.commands import access_keys
from aura.commands.handler import Caller
from aura.domain import access_key
from aura.domain.access_key import KeyState
from aura.errors import Forbidden, InvalidRequest, Overloaded, Unauthenticated, Unavailable
from aura.gateway.access import denials
from aura.gateway.access.access import MAX_AGE_S, GuardedAccess, OpenAccess
from aura.gateway.access.denials import Denials
from aura.gateway.access.failures import BURST
from aura.gateway.access.keys import KeyRing
from aura.gateway.access.principal import DIRECTOR, Principal
from aura.gateway.access.tickets import Tickets
from aura.gateway.limits import Limits
from aura.gateway.live.admission import Bucket, Pending
from aura.gateway.metrics import Metrics
from aura.ids import SystemIds
from aura.log.memory import MemoryEventStore
from aura.log.output_memory import memory_content_and_output
from aura.log.store import Append
from aura.log.tickets import MemoryTickets

CALLER = Caller("user:nats", "c", "c")
DIRECTORS_KEY = "short"


class Door:
    """A gateway's door over a log in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryEventStore(self.clock)
        content, _ = memory_content_and_output(self.clock, SystemIds(), bytes(32))
        self.issuer = access_keys.AccessKeys(self.store, content, self.clock, SystemIds())
        self.ring = KeyRing(self.store, self.clock)
        self.access = GuardedAccess(
            ring=self.ring, oidc=None, tickets=Tickets(MemoryTickets(), self.ring, self.clock, SystemIds()),
            denials=Denials(self.store, self.clock, SystemIds()), director_key=DIRECTORS_KEY, metrics=Metrics(),
            clock=self.clock,
        )  # fmt: skip

    async def issue(self, role: str = "viewer", caller: Caller = CALLER, **more: Any) -> str:
        made = await self.issuer.issue({"role": role, **more}, caller)
        await self.ring.start()
        key: str = made["key"]
        return key

    async def asks(self, action: str = "jobs.read", path: str = "/jobs", **headers: str) -> Principal:
        sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        scope = {"type": "http", "path": path, "client": ("10.0.0.1", 1), "aura.headers": sent}
        return await self.access.request(scope, action)

    async def first_message(self, ticket: str) -> Principal | None:
        scope = {"type": "websocket", "path": "/ws", "client": ("10.0.0.1", 1), "aura.headers": {}}
        return await self.access.admit(scope, orjson.dumps({"op": "auth", "ticket": ticket}))


@pytest.fixture
def door() -> Door:
    return Door()


async def _fail(door: Door, times: int) -> list[type[Exception]]:
    """Bad tickets, one after the other; what each is answered."""
    found: list[type[Exception]] = []
    for _ in range(times):
        try:
            await door.first_message("x" * 43)
        except (Unauthenticated, Overloaded) as error:
            found.append(type(error))
    return found


async def test_a_good_ticket_opens_whatever_failed_at_its_address_before(door: Door) -> None:
    principal = await door.asks("access.ticket", authorization=f"Bearer {await door.issue()}")
    first, second = [await door.access.ticket(principal) for _ in range(2)]
    assert await _fail(door, BURST + 2) == [Unauthenticated] * BURST + [Overloaded] * 2
    assert await door.first_message(first) == principal
    assert await door.asks("log.follow", "/sse/events", x_aura_ticket=second) == principal
    with pytest.raises(Overloaded):
        await door.first_message(first)  # it is used


async def test_the_directors_key_is_asked_for_no_more_where_it_was_guessed_and_nothing_else_is(door: Door) -> None:
    key = await door.issue("director")
    for _ in range(BURST):
        with pytest.raises(Forbidden):
            await door.asks("keys.read", x_director_key="guess")
    with pytest.raises(Overloaded):
        await door.asks("keys.read", x_director_key=DIRECTORS_KEY)
    assert (await door.asks("keys.read", authorization=f"Bearer {key}")).roles == {"director"}
    with pytest.raises(Unauthenticated):  # not 429: the two have nothing to do with each other
        await door.asks(authorization="Bearer aura_guess")
    door.clock.advance(3.1)
    assert await door.asks("keys.read", x_director_key=DIRECTORS_KEY) is DIRECTOR


async def test_failed_keys_close_nothing_to_the_director(door: Door) -> None:
    for _ in range(BURST + 3):
        with pytest.raises((Unauthenticated, Overloaded)):
            await door.asks(authorization="Bearer aura_guess")
    assert await door.asks("keys.read", x_director_key=DIRECTORS_KEY) is DIRECTOR


def test_a_short_directors_key_is_warned_about_and_never_shown() -> None:
    with structlog.testing.capture_logs() as said:
        OpenAccess("short", ManualClock())
        OpenAccess("a long one that nobody guesses", ManualClock())
        OpenAccess(None, ManualClock())
    assert [one["event"] for one in said] == ["access.short_director_key"]
    assert "'short'" not in str(said)


async def test_a_gateway_that_is_cut_off_from_the_log_believes_no_key(door: Door) -> None:
    key, age = await door.issue("director"), 0.0
    door.access.follows(lambda: age)
    principal = await door.asks(authorization=f"Bearer {key}")
    ticket = await door.access.ticket(principal)
    age = MAX_AGE_S + 1
    with pytest.raises(Unavailable, match="cut off") as refused:
        await door.asks(authorization=f"Bearer {key}")
    assert refused.value.http_status == 503
    with pytest.raises(Unavailable, match="cut off"):
        await door.first_message(ticket)
    with pytest.raises(Unauthenticated):
        await door.asks(authorization="Bearer aura_guess")
    await door.asks("system.health")
    age = 1.0
    assert await door.asks(authorization=f"Bearer {key}") == principal


# ---------------------------------------------------------------- keys that stand


async def test_an_unreadable_event_of_a_key_revokes_that_key_and_hides_no_other_G17(door: Door) -> None:
    spoiled, good = await door.issue(label="spoiled"), await door.issue(label="good")
    key_id = spoiled.split("_")[1]
    await door.store.append(Append(f"aura.system.key.{key_id}.issued", f"aura.system.key.{key_id}.>", 1, "bad", b"{"))
    await door.issue(label="later")
    listed = (await door.issuer.ls({}, CALLER))["keys"]
    assert {row["label"]: row["status"] for row in listed} == {
        "spoiled": "revoked",
        "good": "active",
        "later": "active",
    }
    assert door.ring.open(good) is not None
    assert door.ring.open(spoiled) is None
    revoked = await door.issuer.revoke({"key_id": key_id}, CALLER)
    assert revoked["status"] == "revoked"
    await door.ring.reached(key_id, revoked["seq"], within_s=1)


async def test_only_keys_that_stand_count(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_key, "MAX_KEYS", 3)
    soon = door.clock.now().replace(minute=door.clock.now().minute + 1).isoformat()
    first = await door.issue()
    await door.issue(expires_at=soon)
    await door.issue()
    with pytest.raises(InvalidRequest, match="3 keys"):
        await door.issue()
    await door.issuer.revoke({"key_id": first.split("_")[1]}, CALLER)
    await door.issue()
    door.clock.advance(60)
    await door.issue()
    with pytest.raises(InvalidRequest, match="3 keys"):
        await door.issue()


async def test_a_limited_director_cannot_use_up_the_keys_of_all(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_key, "MAX_KEYS", 6)
    monkeypatch.setattr(access_key, "RESERVED", 2)
    monkeypatch.setattr(access_key, "MAX_LIMITED", 2)
    one, other = (Caller(f"director:{n}", "c", "c", projects=frozenset({n})) for n in (1, 2))
    for n in (1, 2):
        await door.issue(caller=one, projects=[1], label=str(n))
    with pytest.raises(InvalidRequest, match="of your projects"):
        await door.issue(caller=one, projects=[1])
    await door.issue(caller=other, projects=[2])
    await door.issue()
    with pytest.raises(InvalidRequest, match="4 keys"):
        await door.issue(caller=other, projects=[2])
    await door.issue()


def test_a_key_stands_until_it_is_revoked_or_over() -> None:
    state = KeyState("k", "", "viewer", None, "", "2026-01-01T00:00:00.000Z", "x")
    assert state.stands("2025-12-31T23:59:59.999Z")
    assert not state.stands("2026-01-01T00:00:00.000Z")


# ---------------------------------------------------------------- denials


async def test_denials_are_recorded_together_and_stopping_waits_two_seconds_in_all(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "STOP_S", 0.05)
    waiting: list[str] = []

    async def silent(append: Append) -> int:
        waiting.append(append.event_id)
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(door.store, "append", silent)
    noted = Denials(door.store, door.clock, SystemIds())
    for n in range(denials.AT_ONCE + 10):
        noted.note(f"user:{n}", "jobs.read", "/jobs")
    await noted.start()
    async with asyncio.timeout(5):
        await noted.stop()
    assert len(waiting) == denials.AT_ONCE
    assert len(noted._open) == denials.AT_ONCE + 10, "none is forgotten"


# ---------------------------------------------------------------- who owes a ticket


class _Out:
    def __init__(self) -> None:
        self.ended: list[int] = []

    def end(self, code: int, _reason: str) -> None:
        self.ended.append(code)


def test_who_waits_longest_without_a_ticket_makes_room() -> None:
    metrics = Metrics()
    pending = Pending(Limits(pending=4, pending_per_address=2), metrics)
    outs: list[Any] = [_Out() for _ in range(7)]
    for n, address in enumerate("aabcb"):
        pending.enter(outs[n], address)
    assert [out.ended for out in outs[:5]] == [[1013], [], [], [], []], "the oldest of all, for the fifth"
    pending.enter(outs[5], "b")
    assert [out.ended for out in outs[:6]] == [[1013], [], [1013], [], [], []], "the oldest of its address"
    for out in outs:
        pending.leave(out)
        pending.leave(out)
    assert len(pending) == 0
    assert pending._by_address == {}
    assert metrics.registry.get_sample_value("aura_live_dropped_total", {"reason": "no_ticket"}) == 2


def test_a_bucket_gives_several_at_once_or_none() -> None:
    clock = ManualClock()
    bucket = Bucket(clock, 10, 1)
    assert [bucket.take(8), bucket.take(3), bucket.take(2), bucket.take()] == [True, False, True, False]
    clock.advance(3)
    assert bucket.take(3)
