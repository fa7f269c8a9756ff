"""The decider of API keys: given, when, then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aura.domain.access_key import IssueKey, KeyState, RevokeKey, actor_of, check_key_id, decide, evolve
from aura.errors import Conflict, InvalidRequest, KeyReused, NotFound
from aura.events.catalogue import SystemKeyIssued, SystemKeyRevoked

KEY = "abcdefghijklmn23"
ISSUE = IssueKey(KEY, "0f" * 32, "operator", (1, 7), "ci", None, "director:d")


def _issued() -> KeyState:
    (event,) = decide(None, ISSUE)
    state = evolve(None, event)
    assert state is not None
    return state


def test_issue() -> None:
    (event,) = decide(None, ISSUE)
    assert event == SystemKeyIssued(
        key_id=KEY, digest="0f" * 32, role="operator", projects=[1, 7], label="ci", by="director:d"
    )
    state = _issued()
    assert (state.projects, state.revoked, state.actor) == ((1, 7), False, f"user:{KEY}")


def test_a_key_is_issued_once_also_after_it_was_revoked() -> None:
    revoked = evolve(_issued(), SystemKeyRevoked(key_id=KEY, by="user:x"))
    for state in (_issued(), revoked):
        assert decide(state, ISSUE) == []
        with pytest.raises(Conflict):
            decide(state, replace(ISSUE, digest="1e" * 32))
        for other in (replace(ISSUE, role="viewer"), replace(ISSUE, projects=None), replace(ISSUE, label="cd")):
            with pytest.raises(KeyReused):
                decide(state, other)


def test_revoke_once_and_again_is_already_so() -> None:
    (event,) = decide(_issued(), RevokeKey(KEY, "director:d", "lost"))
    assert event == SystemKeyRevoked(key_id=KEY, by="director:d", reason="lost")
    state = evolve(_issued(), event)
    assert state is not None
    assert (state.revoked, state.reason) == (True, "lost")
    assert decide(state, RevokeKey(KEY, "director:d")) == []


def test_what_was_never_issued_is_not_revoked() -> None:
    with pytest.raises(NotFound):
        decide(None, RevokeKey(KEY, "director:d"))
    assert evolve(None, SystemKeyRevoked(key_id=KEY, by="x")) is None


def test_actors_are_named_as_the_catalogue_says() -> None:
    assert [actor_of(role, KEY) for role in ("director", "worker", "operator", "auditor", "viewer")] == [
        f"director:{KEY}", f"worker:{KEY}", f"user:{KEY}", f"user:{KEY}", f"user:{KEY}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong", ["", "*", ">", "a.b", "A" * 16, "a" * 15, "a" * 17, "a" * 15 + "1", None, 7, "a" * 15 + "\n"]
)
def test_a_key_id_is_one_plain_token(wrong: object) -> None:
    with pytest.raises(InvalidRequest):
        check_key_id(wrong)
