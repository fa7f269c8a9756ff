"""The token corpus of GUARANTEES.md against a real issuer: everything that is not right is the same opaque 401 (G13)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from joserfc.jwk import RSAKey

from aura.clock import ManualClock
from aura.errors import Overloaded, Unauthenticated, Unavailable
from aura.gateway.access import jwks
from aura.gateway.access.failures import BURST
from aura.gateway.access.jwks import AGAIN_S, FRESH_S, STALE_S, RemoteKeys
from aura.gateway.access.oidc import LEEWAY_S, Oidc, OidcPolicy
from tests.support.access import auth, issue, secured, submit
from tests.support.gateway import World
from tests.support.issuer import AUDIENCE, Issuer, by_hand, rs256, serving, with_public_key_as_secret

CLAIMS = {"oidc_role_claim": "realm_access.roles", "oidc_project_claim": "projects"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with serving() as made:
        yield made


@pytest_asyncio.fixture
async def world(issuer: Issuer) -> AsyncIterator[World]:
    async with secured(auth="keys,oidc", oidc_issuer=issuer.url, oidc_audience=AUDIENCE, **CLAIMS) as made:
        yield made


def _now(world: World) -> float:
    return world.clock.now().timestamp()


@pytest.mark.parametrize(("alg", "kid"), [("RS256", "rsa"), ("PS256", "rsa"), ("ES256", "ec"), ("EdDSA", "ed")])
async def test_a_token_of_every_allowed_algorithm_opens(world: World, issuer: Issuer, alg: str, kid: str) -> None:
    token = issuer.token(issuer.claims(_now(world)), alg=alg, kid=kid)
    told = (await world.http.get("/auth/me", headers=auth(token))).json()
    assert (told["actor"], told["roles"], told["projects"]) == ("user:ada", ["operator"], [1])
    assert told["expires_at"] is not None
    world.http.headers.update(auth(token))
    made = await submit(world.http, 1)
    assert (await world.store.get(made["seq"])).decode()["actor"] == "user:ada"  # type: ignore[union-attr]
    assert (await world.http.post("/prds", json={"title": "T", "project_id": 2, "tasks": [{}]})).status_code == 403


def _unsigned(claims: dict[str, Any], **header: Any) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "kid": "rsa", **header}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


def _jwk(key: RSAKey) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": "mine"}


MINE = RSAKey.generate_key(2048, {"kid": "mine"})
Make = Callable[[Issuer, float], str]
CORPUS: dict[str, Make] = {
    "alg none": lambda i, now: _unsigned(i.claims(now)),
    "alg none, a signature all the same": lambda i, now: _unsigned(i.claims(now)) + "AAAA",
    "HS256 with the public key": lambda i, now: by_hand(
        {"alg": "HS256", "kid": "rsa"}, i.claims(now), with_public_key_as_secret(i.keys["rsa"])
    ),
    "an algorithm that is not allowed": lambda i, now: i.token(i.claims(now), alg="RS512"),
    "jwk in the header": lambda i, now: i.token(i.claims(now), kid="mine", key=MINE, jwk=_jwk(MINE)),
    "jwk in the header, a known kid": lambda i, now: i.token(i.claims(now), jwk=_jwk(MINE)),
    "jku in the header": lambda i, now: i.token(i.claims(now), jku="http://127.0.0.1:1/keys"),
    "x5u in the header": lambda i, now: i.token(i.claims(now), x5u="http://127.0.0.1:1/chain"),
    "x5c in the header": lambda i, now: i.token(i.claims(now), x5c=["AAAA"]),
    "unknown crit": lambda i, now: by_hand(
        {"alg": "RS256", "kid": "rsa", "crit": ["exp"], "exp": 1}, i.claims(now), rs256(i.keys["rsa"])
    ),
    "crit that is empty": lambda i, now: by_hand(
        {"alg": "RS256", "kid": "rsa", "crit": []}, i.claims(now), rs256(i.keys["rsa"])
    ),
    "another key under a known kid": lambda i, now: i.token(i.claims(now), kid="rsa", key=MINE),
    "a kid of another kind of key": lambda i, now: i.token(i.claims(now), kid="ec", key=i.keys["rsa"]),
    "no kid": lambda i, now: i.token(i.claims(now), kid=None),
    "kid traversal": lambda i, now: i.token(i.claims(now), kid="../../../../dev/null", key=MINE),
    "kid injection": lambda i, now: i.token(i.claims(now), kid="rsa' OR 1=1 --", key=MINE),
    "kid of 300 characters": lambda i, now: i.token(i.claims(now), kid="k" * 300, key=MINE),
    "wrong iss": lambda i, now: i.token(i.claims(now, iss=i.url + "/other")),
    "no iss": lambda i, now: i.token(i.claims(now, iss=None)),
    "wrong aud": lambda i, now: i.token(i.claims(now, aud="another")),
    "aud among others": lambda i, now: i.token(i.claims(now, aud=["another", "third"])),
    "no aud": lambda i, now: i.token(i.claims(now, aud=None)),
    "expired": lambda i, now: i.token(i.claims(now, exp=int(now) - 61)),
    "no exp": lambda i, now: i.token(i.claims(now, exp=None)),
    "exp as text": lambda i, now: i.token(i.claims(now, exp=str(int(now) + 300))),
    "exp NaN": lambda i, now: i.token(i.claims(now, exp=float("nan"))),
    "exp true": lambda i, now: i.token(i.claims(now, exp=True)),
    "not yet valid": lambda i, now: i.token(i.claims(now, nbf=int(now) + 61)),
    "issued in the future": lambda i, now: i.token(i.claims(now, iat=int(now) + 61)),
    "no sub": lambda i, now: i.token(i.claims(now, sub=None)),
    "sub of 5,000 characters": lambda i, now: i.token(i.claims(now, sub="s" * 5_000)),
    "9 KiB": lambda i, now: i.token(i.claims(now, filler="f" * 9 * 1024)),
    "an id token's type is fine, another's is not": lambda i, now: i.token(i.claims(now), typ="logout+jwt"),
    "cut": lambda i, now: i.token(i.claims(now))[:-4],
    "a flipped bit": lambda i, now: (lambda t: t[:-8] + ("A" if t[-8] != "A" else "B") + t[-7:])(
        i.token(i.claims(now))
    ),
    "JSON serialization": lambda i, now: '{"payload":"","signatures":[]}',
    "five parts": lambda i, now: i.token(i.claims(now)) + ".AAAA.AAAA",
    "one letter": lambda i, now: "x",
    "not base64": lambda i, now: "ey!.ey!.!!",
}


@pytest.mark.parametrize("name", CORPUS)
async def test_a_token_that_is_not_right_is_an_opaque_401_G13(world: World, issuer: Issuer, name: str) -> None:
    token = CORPUS[name](issuer, _now(world))
    refused = await world.http.get("/jobs", headers=auth(token))
    assert refused.status_code == 401, (name, refused.text)
    assert refused.headers["www-authenticate"] == "Bearer"
    problem = refused.json()
    assert (problem["code"], problem["detail"]) == ("unauthenticated", "these credentials are not accepted")


async def test_a_token_without_a_role_is_somebody_who_may_nothing(world: World, issuer: Issuer) -> None:
    token = issuer.token(issuer.claims(_now(world), realm_access={"roles": ["admin", 7]}))
    assert (await world.http.get("/jobs", headers=auth(token))).status_code == 403


@pytest.mark.parametrize(
    ("claim", "projects"),
    [
        ("*", None),
        (["*"], None),
        ([1, "7", 0, -1, True, 2**40, "x"], [1, 7]),
        ("1 7", [1, 7]),
        (list(range(1, 200)), list(range(1, 65))),
        (None, []),
        ({"a": 1}, []),
    ],
)
async def test_projects_come_from_the_claim_and_without_one_there_are_none(
    world: World, issuer: Issuer, claim: Any, projects: list[int] | None
) -> None:
    token = issuer.token(issuer.claims(_now(world), projects=claim, realm_access={"roles": ["viewer"]}))
    assert (await world.http.get("/auth/me", headers=auth(token))).json()["projects"] == projects


async def test_a_subject_that_looks_like_an_api_key_or_is_no_plain_name_is_hashed(world: World, issuer: Issuer) -> None:
    key_like = (await issue(world, "worker")).split("_")[1]
    for subject in (key_like, "auth0|123", "a b", "sub-1", "a>*"):
        token = issuer.token(issuer.claims(_now(world), sub=subject))
        actor = (await world.http.get("/auth/me", headers=auth(token))).json()["actor"]
        assert actor.startswith("user:sub-")
        assert subject not in actor.removeprefix("user:sub-")


# ---------------------------------------------------------------- keys of the issuer, on a clock of our own


async def _verifier(issuer: Issuer, clock: ManualClock) -> tuple[Oidc, RemoteKeys]:
    keys = RemoteKeys(issuer.url, None, clock)
    return Oidc(OidcPolicy(issuer.url, AUDIENCE, "realm_access.roles"), keys, clock), keys


async def test_an_unknown_kid_asks_the_issuer_at_most_once_in_30_s() -> None:
    clock = ManualClock()
    with serving() as issuer:
        oidc, keys = await _verifier(issuer, clock)
        now = clock.now().timestamp()
        await oidc.verify(issuer.token(issuer.claims(now)))
        for n in range(50):
            with pytest.raises(Unauthenticated):
                await oidc.verify(issuer.token(issuer.claims(now), kid=f"new{n}", key=MINE))
        assert issuer.asked == 1
        issuer.keys["next"] = RSAKey.generate_key(2048, {"kid": "next"})
        issuer.published.add("next")
        rotated = issuer.token(issuer.claims(now), kid="next")
        with pytest.raises(Unauthenticated):
            await oidc.verify(rotated)
        clock.advance(AGAIN_S)
        assert (await oidc.verify(rotated)).actor == "user:ada"
        assert issuer.asked == 2
        await keys.stop()


async def test_an_issuer_that_is_down_leaves_the_old_keys_for_an_hour() -> None:
    clock = ManualClock()
    with serving() as issuer:
        oidc, keys = await _verifier(issuer, clock)
        await oidc.verify(issuer.token(issuer.claims(clock.now().timestamp())))
    clock.advance(FRESH_S + 1)
    assert (await oidc.verify(issuer.token(issuer.claims(clock.now().timestamp(), sub="bob")))).actor == "user:bob"
    clock.advance(STALE_S)
    for _ in range(2):  # the second finds the fetch made just now
        with pytest.raises(Unavailable):
            await oidc.verify(issuer.token(issuer.claims(clock.now().timestamp(), sub="eve")))
    await keys.stop()


async def test_forged_tokens_cost_a_good_one_of_the_same_address_nothing(world: World, issuer: Issuer) -> None:
    forged = issuer.token(issuer.claims(_now(world)), kid="rsa", key=MINE)
    statuses = [(await world.http.get("/jobs", headers=auth(forged))).status_code for _ in range(BURST + 2)]
    assert statuses == [401] * BURST + [429] * 2
    good = issuer.token(issuer.claims(_now(world)))
    assert (await world.http.get("/jobs", headers=auth(good))).status_code == 200


async def test_waiting_for_keys_is_bounded_and_a_known_key_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    monkeypatch.setattr(jwks, "MAX_WAITING", 1)
    with serving() as issuer:
        oidc, keys = await _verifier(issuer, clock)
        now = clock.now().timestamp()
        await oidc.verify(issuer.token(issuer.claims(now)))
        clock.advance(AGAIN_S)
        answer = asyncio.Event()
        get = keys._get

        async def slow(url: str) -> object:
            await answer.wait()
            return await get(url)

        monkeypatch.setattr(keys, "_get", slow)
        unknown = issuer.token(issuer.claims(now), kid="new", key=MINE)
        first = asyncio.ensure_future(oidc.verify(unknown))
        while not keys._waiting:
            await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await oidc.verify(unknown)
        async with asyncio.timeout(5):
            assert (await oidc.verify(issuer.token(issuer.claims(now, sub="bob")))).actor == "user:bob"
        answer.set()
        with pytest.raises(Unauthenticated):
            await first
        await keys.stop()


async def test_an_issuer_that_never_answered_is_503_and_one_that_calls_itself_another_is_not_believed() -> None:
    clock = ManualClock()
    with serving() as issuer:
        issuer.named = "https://elsewhere.example"
        oidc, keys = await _verifier(issuer, clock)
        with pytest.raises(Unavailable):
            await oidc.verify(issuer.token(issuer.claims(clock.now().timestamp())))
        await keys.stop()


async def test_a_known_token_is_forgotten_when_it_expires() -> None:
    clock = ManualClock()
    with serving() as issuer:
        oidc, keys = await _verifier(issuer, clock)
        token = issuer.token(issuer.claims(clock.now().timestamp(), exp=int(clock.now().timestamp()) + 10))
        made = await oidc.verify(token)
        assert oidc.known(token) == made
        clock.advance(10 + LEEWAY_S)
        assert oidc.known(token) is None
        with pytest.raises(Unauthenticated):
            await oidc.verify(token)
        await keys.stop()
