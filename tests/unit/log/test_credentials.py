"""nkeys and creds files: the encoding others use, and refusals that never quote a secret."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import ConfigError
from aura.log import credentials as c

#: The pair in NATS' own documentation of nkey authentication.
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
JWT = "eyJ0eXAiOiJKV1QifQ.eyJuYXRzIjp7fX0.c2ln"


def test_a_documented_pair_is_read_and_written_as_documented() -> None:
    raw = c.decode_seed(SEED)
    key = Ed25519PrivateKey.from_private_bytes(raw).public_key()
    assert c.encode_public("user", key.public_bytes(Encoding.Raw, PublicFormat.Raw)) == PUBLIC
    assert c.encode_seed("user", raw) == SEED
    key.verify(base64.urlsafe_b64decode(c.sign_nonce(SEED, b"nonce") + b"=="), b"nonce")


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["operator", "account", "user"]))
def test_seeds_round_trip_and_show_their_kind(raw: bytes, kind: c.Kind) -> None:
    text = c.encode_seed(kind, raw)
    assert (c.decode_seed(text), text[:2]) == (raw, {"operator": "SO", "account": "SA", "user": "SU"}[kind])


@pytest.mark.parametrize("bad", ["", "S", PUBLIC, SEED[:-1] + "A", SEED.lower(), SEED + SEED, "é" * 58])
def test_what_is_no_seed_is_refused_without_quoting_it(bad: str) -> None:
    with pytest.raises(ValueError, match="not an nkey seed") as refused:
        c.decode_seed(bad)
    assert not bad or bad not in str(refused.value)


def test_a_creds_file_round_trips_and_is_read_as_other_tools_write_it() -> None:
    made = c.Credentials(JWT, SEED)
    assert c.parse_creds(made.text()) == made
    others = made.text().replace("-----BEGIN", "---BEGIN").replace("\n", "\r\n")
    assert c.parse_creds("************ IMPORTANT ************\r\n" + others) == made
    assert SEED not in repr(made)


@pytest.mark.parametrize("text", ["", "x", f"---BEGIN---\n{JWT}\n---END---", f"---BEGIN---\n{SEED}\n{SEED}\n---END---"])
def test_a_file_that_is_none_is_a_configuration_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.creds"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        c.credentials_callbacks(path)
    assert SEED not in refused.value.detail
    with pytest.raises(ConfigError):
        c.credentials_callbacks(tmp_path / "missing.creds")


def test_a_renewed_file_is_used_at_the_next_sign_in(tmp_path: Path) -> None:
    path = tmp_path / "x.creds"
    path.write_text(c.Credentials(JWT, SEED).text())
    jwt, _ = c.credentials_callbacks(path)
    path.write_text(c.Credentials(JWT + "2", SEED).text())
    assert jwt() == JWT.encode() + b"2"
    assert c.inbox_prefix(path) == "_INBOX"
