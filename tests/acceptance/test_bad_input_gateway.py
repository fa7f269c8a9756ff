"""The bad-input corpus against a real gateway: every entry bounces with a clear 4xx problem and leaves the log untouched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio

from aura.gateway.limits import Limits
from tests.support.gateway import DIRECTOR_KEY, World, running

CORPUS = json.loads((Path(__file__).parent / "bad_input_gateway.json").read_text("utf-8"))
LONG = "A" * 5_000


class Target:
    """A running gateway with one queued job."""

    def __init__(self, world: World, job_id: str, end: int) -> None:
        self.world, self.job_id, self.end = world, job_id, end

    def fill(self, value: Any) -> Any:
        """Placeholders of the corpus, anywhere in a JSON value."""
        if isinstance(value, dict):
            return {self.fill(key): self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, str):
            host = f"127.0.0.1:{self.world.service.port}"
            for mark, text in (("JOB", self.job_id), ("HOST", host), ("A5000", LONG)):
                value = value.replace(mark, text)
            return DIRECTOR_KEY if value == "KEY" else value
        return value

    async def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> httpx.Response:
        """The request byte for byte as written: no client that mends paths or headers."""
        given = {"host": f"127.0.0.1:{self.world.service.port}", "connection": "close"} | headers
        if body is not None:
            given["content-length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
        head, text = await _raw(self, "\r\n".join(lines).encode("latin-1") + (body or b""))
        status, *fields = head.split("\r\n")
        pairs = [(name, value.strip()) for name, _, value in (field.partition(":") for field in fields)]
        return httpx.Response(int(status.split(" ")[1]), headers=pairs, content=text.encode())

    async def check(self, answer: httpx.Response, status: int | None = None) -> None:
        """A problem, 4xx, and nothing in the log."""
        told = (answer.status_code, answer.text[:300])
        assert 400 <= answer.status_code < 500, told
        assert status in (None, answer.status_code), told
        assert answer.headers["content-type"] == "application/problem+json", told
        problem = answer.json()
        assert problem["status"] == answer.status_code
        assert problem["code"]
        assert LONG not in answer.text, "nothing long is echoed"
        assert "Traceback" not in answer.text
        assert await self.world.last_seq() == self.end, "the log is untouched"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target() -> AsyncIterator[Target]:
    async with running() as world:
        [job_id] = await world.submit()
        yield Target(world, job_id, await world.last_seq())


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("entry", CORPUS["requests"], ids=lambda entry: entry["why"])
async def test_requests(target: Target, entry: dict[str, Any]) -> None:
    headers = {"content-type": "application/json"} | target.fill(entry.get("headers", {}))
    if "repeat" in entry:
        start, opening, closing, end, count = entry["repeat"]
        body: bytes | None = (start + opening * count + "1" + closing * count + end).encode()
    elif "hex" in entry:
        body = bytes.fromhex(entry["hex"])
    elif "json" in entry:
        body = json.dumps(target.fill(entry["json"])).encode()
    else:
        body = entry["body"].encode() if "body" in entry else None
    path = target.fill(entry["path"])
    path = quote(path, safe="/?=&%'\\;-.:~*$>,+")
    answer = await target.send(entry.get("method", "POST"), path, body, headers)
    await target.check(answer, entry.get("status"))


@pytest.mark.parametrize(
    "place", CORPUS["name_places"], ids=lambda place: f"{place.get('method', 'POST')} {place['path']}"
)
async def test_names(target: Target, place: dict[str, Any]) -> None:
    for raw in CORPUS["names"]:
        name = target.fill(raw)
        filled = json.loads(json.dumps(place).replace('"NAME"', json.dumps(name)))
        path = filled["path"].replace("NAME", quote(name, safe="%")).replace("JOB", target.job_id)
        if "query" in filled:
            path += "?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in filled["query"].items())
        body = json.dumps(filled["body"]).encode() if "body" in filled else None
        answer = await target.send(filled.get("method", "POST"), path, body, {"content-type": "application/json"})
        await target.check(answer)


@pytest.mark.parametrize("entry", CORPUS["handshakes"], ids=lambda entry: entry["why"])
async def test_handshakes(target: Target, entry: dict[str, Any]) -> None:
    given = target.fill(entry.get("headers", {}))
    host = given.pop("Host", f"127.0.0.1:{target.world.service.port}")
    lines = [f"GET {quote(entry.get('path', '/ws/events'), safe='/?=&*$>.')} HTTP/1.1", f"Host: {host}"]
    lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    for name, values in given.items():
        lines += [f"{name}: {value}" for value in (values if isinstance(values, list) else [values])]
    head, body = await _raw(target, "\r\n".join([*lines, "", ""]).encode())
    assert f" {entry['status']} " in head.partition("\r\n")[0], head
    assert "application/problem+json" in head
    assert json.loads(body)["status"] == entry["status"]
    assert await target.world.last_seq() == target.end


async def _raw(target: Target, data: bytes) -> tuple[str, str]:
    """One connection of bytes; head and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.world.service.port)
    writer.write(data)
    async with asyncio.timeout(10):
        await writer.drain()
        answer = await reader.read()
    writer.close()
    head, _, body = answer.decode("utf-8", "replace").partition("\r\n\r\n")
    return head, body


async def test_a_body_over_the_limit_is_refused_whether_declared_or_chunked(target: Target) -> None:
    limit = Limits().body_bytes
    declared = b"POST /prds HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10000000000\r\n\r\n"
    head, body = await _raw(target, declared + b"{")
    assert " 413 " in head
    assert json.loads(body)["limit"] == limit

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65_536

    async with asyncio.timeout(20):
        try:
            answer = await target.world.http.post(
                "/prds", content=endless(), headers={"content-type": "application/json"}
            )
            assert answer.status_code == 413
        except httpx.HTTPError:
            pass  # the server closed while we were still sending
    assert await target.world.last_seq() == target.end


async def test_a_million_form_fields_are_not_parsed(target: Target) -> None:
    body = b"a=1&" * 250_000
    answer = await target.send("POST", "/prds", body, {"content-type": "application/x-www-form-urlencoded"})
    await target.check(answer)


async def test_a_head_that_is_too_large_or_garbage_is_refused_below_the_application(target: Target) -> None:
    many = b"".join(b"X-%d: y\r\n" % n for n in range(5_000))
    one = b"X: " + b"y" * 100_000 + b"\r\n"
    for extra in (many, one):
        head, body = await _raw(target, b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n" + extra)
        assert " 431 " in head
        assert json.loads(body)["code"] == "headers_too_large"
    head, body = await _raw(target, b"\x16\x03\x01 garbage\r\n\r\n")
    assert " 400 " in head
    assert json.loads(body)["code"] == "bad_request"


async def test_a_thousand_ranges_are_ignored(target: Target) -> None:
    ranges = "bytes=" + ",".join(f"{n}-{n}" for n in range(1_000))
    answer = await target.world.http.get("/page/app.js", headers={"range": ranges})
    assert answer.status_code == 200


async def test_every_answer_carries_the_security_headers(target: Target) -> None:
    for path in ("/", "/jobs", "/nothing", "/page/app.js"):
        headers = (await target.world.http.get(path)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


async def test_output_is_never_html(target: Target) -> None:
    [job_id] = await target.world.submit()
    await target.world.post(f"/jobs/{job_id}/claim", "w")
    await target.world.post(f"/jobs/{job_id}/stream", {"chunk": "<script>alert(1)</script>"})
    answer = await target.world.http.get(f"/jobs/{job_id}/output", headers={"accept": "text/html,*/*"})
    assert answer.headers["content-type"].startswith("text/plain")
    target.end = await target.world.last_seq()


async def test_only_configured_origins_get_cors() -> None:
    async with running(allowed_origins=("https://console.example",)) as world:
        friend = {"origin": "https://console.example", "sec-fetch-site": "cross-site"}
        answer = await world.http.post("/prds", json={"title": "t", "tasks": [{}]}, headers=friend)
        assert answer.status_code == 201
        assert answer.headers["access-control-allow-origin"] == "https://console.example"
        preflight = await world.http.options("/prds", headers=friend | {"access-control-request-method": "POST"})
        assert preflight.status_code == 204
        assert "idempotency-key" in preflight.headers["access-control-allow-headers"]
        foreign = {"origin": "https://console.example.evil", "access-control-request-method": "POST"}
        assert (await world.http.options("/prds", headers=foreign)).status_code == 403
        async with world.ws("/ws/events", origin="https://console.example"):
            pass
