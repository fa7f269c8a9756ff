"""Sealing: formats pinned by golden values (stored bytes must open for ever), tampering noticed."""

from __future__ import annotations

import pytest

from aura.errors import ConfigError
from aura.ids import SystemIds
from aura.log import sealing
from aura.log.sealing import BrokenSeal, KeyRing

KEK = bytes(range(32))
DATA_KEY = bytes(range(32, 64))
JOB = "0199c0c0-0000-7000-8000-000000000000"
IDS = SystemIds()

#: As the first version wrote them. A change makes stored content unreadable, or idempotency keys forgotten.
SEALED = bytes.fromhex("000102030405060708090a0b343731cb25d3975b2c20a2949bc82d6f58c4929641")
WRAPPED = "AAECAwQFBgcICQoLZyP0OOHA5DylaL2gncRWQrPntQfETmlLAF7fviFUPo1N3pWvlJCpINQbQ8Bm9+6M"
FINGERPRINT = "FuXQ5ZZBed8"
DIGEST = "sha256:910419a08f30c5585800e7b04577c12653ba438f49f324ba7ab54c9da556f1d8"


def test_g18_stored_formats_stay_readable() -> None:
    ring = KeyRing(KEK, IDS)
    assert sealing.unseal(DATA_KEY, "aura.output.1.j.1.stream", SEALED) == b"hello"
    assert ring.unwrap(WRAPPED, 1, JOB) == DATA_KEY
    assert ring.fingerprint(b"data") == FINGERPRINT
    assert sealing.digest(b"s" * 16, b"hello") == DIGEST


def test_round_trips_and_fresh_nonces() -> None:
    ring = KeyRing(KEK, IDS)
    key = ring.new_data_key()
    assert ring.unwrap(ring.wrap(key, 1, JOB), 1, JOB) == key
    assert ring.wrap(key, 1, JOB) != ring.wrap(key, 1, JOB)
    one, two = (sealing.seal(key, "s", b"same", IDS) for _ in range(2))
    assert one != two
    assert len(one) == 4 + sealing.OVERHEAD


@pytest.mark.parametrize("position", [0, 12, -1])
def test_a_changed_byte_is_noticed(position: int) -> None:
    damaged = bytearray(SEALED)
    damaged[position] ^= 1
    with pytest.raises(BrokenSeal):
        sealing.unseal(DATA_KEY, "aura.output.1.j.1.stream", bytes(damaged))


def test_a_message_cannot_be_moved_to_another_subject_or_key() -> None:
    with pytest.raises(BrokenSeal):
        sealing.unseal(DATA_KEY, "aura.output.1.j.2.stream", SEALED)
    with pytest.raises(BrokenSeal):
        sealing.unseal(KEK, "aura.output.1.j.1.stream", SEALED)
    ring = KeyRing(KEK, IDS)
    for project, job in ((2, JOB), (1, JOB[::-1])):
        with pytest.raises(BrokenSeal):
            ring.unwrap(WRAPPED, project, job)
    with pytest.raises(BrokenSeal):
        KeyRing(DATA_KEY, IDS).unwrap(WRAPPED, 1, JOB)


@pytest.mark.parametrize("rubbish", ["", "x", "AAAA", "é", WRAPPED[:-4]])
def test_rubbish_does_not_open(rubbish: str) -> None:
    with pytest.raises(BrokenSeal):
        KeyRing(KEK, IDS).unwrap(rubbish, 1, JOB)
    with pytest.raises(BrokenSeal):
        sealing.unseal(DATA_KEY, "s", rubbish.encode())


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_kek_of_another_length_is_a_configuration_error(size: int) -> None:
    with pytest.raises(ConfigError):
        KeyRing(bytes(size), IDS)
