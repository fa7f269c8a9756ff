"""Repeats over a real socket: what is sent again, with which key, and what is not (G2 from the client's side)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest

from aura.client import Aura
from aura.errors import AuraError, ConfigError, Conflict, KeyReused, NotFound, Overloaded, Unavailable

DONE = orjson.dumps({"job_id": "j", "status": "CANCELLED", "seq": 7})


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    """Answers each request with the next of ``answers``: a status and a body, or ``None`` to hang up without one."""

    answers: list[tuple[int, bytes] | None]
    requests: list[Request] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    told: list[AuraError] = field(default_factory=list)
    url: str = ""

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)

    def client(self, **options: object) -> Aura:
        return Aura(self.url, "secret", sleep=self.sleep, on_retry=self.told.append, **options)  # type: ignore[arg-type]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *rest = head.decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rest)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append(Request(line, headers, body))
                answer = self.answers.pop(0)
                if answer is None:
                    writer.transport.abort()
                    return
                status, body = answer
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        except asyncio.IncompleteReadError:
            writer.close()


@asynccontextmanager
async def scripted(*answers: tuple[int, bytes] | None) -> AsyncIterator[Scripted]:
    script = Scripted(list(answers))
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield script
    finally:
        server.close()


def busy(status: int, **more: object) -> tuple[int, bytes]:
    return status, orjson.dumps({"code": "unavailable", "detail": "later", **more})


async def test_a_lost_answer_is_asked_for_again_with_the_same_key_and_bytes_G2() -> None:
    async with scripted(None, busy(503, retry_after_s=2), (502, b"<html>"), (200, DONE)) as script:
        async with script.client() as aura:
            assert await aura.cancel("j", "enough") == 7
        first = script.requests[0]
        assert first.line == "POST /jobs/j/cancel HTTP/1.1"
        assert first.headers["idempotency-key"]
        assert first.headers["authorization"] == "Bearer secret"
        assert [(r.headers["idempotency-key"], r.body) for r in script.requests[1:]] == [
            (first.headers["idempotency-key"], first.body)
        ] * 3
        assert script.pauses[1] >= 2, "the server's Retry-After is respected"
        assert len(script.told) == 3


async def test_every_call_has_a_key_of_its_own_unless_it_is_given_one() -> None:
    async with scripted((200, DONE), (200, DONE), (200, DONE)) as script, script.client() as aura:
        await aura.cancel("j")
        await aura.cancel("j")
        await aura.cancel("j", key="mine")
        keys = [request.headers["idempotency-key"] for request in script.requests]
        assert len(set(keys)) == 3
        assert keys[2] == "mine"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((409, b'{"code":"conflict","detail":"closed","status_of_job":"COMPLETED"}'), Conflict),
        ((404, b'{"code":"not_found","kind":"job"}'), NotFound),
        ((422, b'{"code":"idempotency_key_reused"}'), KeyReused),
        ((500, b'{"code":"internal"}'), Unavailable),
    ],
)
async def test_a_refusal_is_an_answer_and_is_not_repeated(answer: tuple[int, bytes], kind: type[AuraError]) -> None:
    async with scripted(answer) as script, script.client() as aura:
        with pytest.raises(kind):
            await aura.cancel("j")
        assert len(script.requests) == 1


async def test_tries_are_bounded_and_the_last_failure_is_raised() -> None:
    async with scripted(*[(429, b'{"code":"overloaded","retry_after_s":1}')] * 3) as script:
        async with script.client(tries=3) as aura:
            with pytest.raises(Overloaded):
                await aura.job("j")
        assert len(script.requests) == 3


async def test_nobody_there_is_unavailable() -> None:
    async with scripted() as script:
        pass
    async with script.client(tries=2) as aura:
        with pytest.raises(Unavailable, match="no answer from"):
            await aura.job("j")
    assert len(script.pauses) == 1


@pytest.mark.parametrize("url", ["localhost:8000", "ws://x", "http://user:secret@x", "http://x?key=1", "http://"])
def test_a_url_that_is_no_gateway_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Aura(url)


def test_ids_of_users_stay_one_path_segment() -> None:
    from aura.client.aura import _job

    quoted: Callable[..., str] = _job
    assert quoted("../x?y", "cancel") == "/jobs/..%2Fx%3Fy/cancel"
