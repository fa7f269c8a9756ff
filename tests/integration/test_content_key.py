"""The key of content: made once on a new stream, never replaced, never taken for another (G16 depends on it)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from aura.cli.keys import content_key, key_file
from aura.config import Settings, load
from aura.errors import ConfigError
from aura.log.connection import Connection
from aura.log.key_check import SUBJECT, KeyCheck
from aura.log.sealing import KeyRing
from tests.support.log_streams import CLOCK, IDS, log_connection
from tests.support.servers import NatsServer

JOB = "0199c000-0000-7000-8000-000000000001"


@pytest.fixture
async def gateway(streams: NatsServer) -> AsyncIterator[Connection]:
    """With the gateway's own permissions."""
    made = await log_connection(streams, "gateway")
    yield made
    await made.close()


def on(folder: Path) -> Settings:
    return replace(Settings(), data_dir=folder)


async def test_it_is_made_once_private_and_recognised(gateway: Connection, tmp_path: Path) -> None:
    key = await content_key(on(tmp_path), gateway, CLOCK, IDS)
    assert len(key) == 32
    path = tmp_path / "keys" / "kek"
    assert path.stat().st_mode & 0o777 == 0o600
    assert await content_key(on(tmp_path), gateway, CLOCK, IDS) == key
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="backup"):
        await content_key(on(tmp_path), gateway, CLOCK, IDS)


async def test_a_missing_key_is_not_replaced(gateway: Connection, tmp_path: Path) -> None:
    key = await content_key(on(tmp_path), gateway, CLOCK, IDS)
    path = tmp_path / "keys" / "kek"
    path.unlink()
    with pytest.raises(ConfigError, match=r"(?i)restore it from a backup"):
        await content_key(on(tmp_path), gateway, CLOCK, IDS)
    assert not path.exists()
    path.write_bytes(key)
    assert await content_key(on(tmp_path), gateway, CLOCK, IDS) == key


async def test_another_key_is_refused_and_left_alone(gateway: Connection, tmp_path: Path) -> None:
    await content_key(on(tmp_path), gateway, CLOCK, IDS)
    other = tmp_path / "elsewhere"
    other.write_bytes(bytes(32))
    settings = replace(on(tmp_path), content_key_file=other)
    with pytest.raises(ConfigError, match="not the key"):
        await content_key(settings, gateway, CLOCK, IDS)
    assert other.read_bytes() == bytes(32)


async def test_content_from_before_there_was_a_check_decides(gateway: Connection, tmp_path: Path) -> None:
    mine = bytes(range(32))
    ring = KeyRing(mine, IDS)
    headers = {"Aura-Wrapped-Key": ring.wrap(ring.new_data_key(), 1, JOB)}
    await gateway.jetstream().publish(f"content.aura.1.{JOB}.input", b"sealed", headers=headers)
    check = KeyCheck(gateway, CLOCK, IDS)
    assert not await check.is_new()
    assert not await check.admit(bytes(32))
    assert await check.admit(mine)
    assert not await check.admit(bytes(32))


async def test_of_two_keys_at_once_one_wins(gateway: Connection, tmp_path: Path) -> None:
    check = KeyCheck(gateway, CLOCK, IDS)
    assert [await check.admit(key) for key in (b"a" * 32, b"b" * 32, b"a" * 32)] == [True, False, True]
    assert SUBJECT.startswith("content.aura.")


def test_the_setting(tmp_path: Path) -> None:
    assert key_file(on(tmp_path)) == tmp_path / "keys" / "kek"
    settings = load(env={"AURA_CONTENT_KEY_FILE": "/run/secrets/kek"})
    assert key_file(settings) == Path("/run/secrets/kek")
