"""The chat adapter against a real HTTP server that speaks the protocol, on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aura.errors import ConfigError, Fatal
from aura.worker import Worker
from aura.worker.adapters.openai_chat import ChatAdapter, ChatServer
from tests.support.worker_link import TRACEPARENT, MemoryLink, MemoryOutput

JOB = "0199c000-0000-7000-8000-000000000001"


class ChatHttp:
    """A chat server. ``answer(writer)`` writes everything after the request was read."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter], Any]) -> None:
        self.answer = answer
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.hung_up = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length")
        )
        self.requests.append((head, json.loads(await reader.readexactly(length))))
        try:
            await self.answer(writer)
            await writer.drain()
            if not writer.is_closing():
                await reader.read()
        except ConnectionError:
            pass
        finally:
            self.hung_up.set()
            writer.close()


@asynccontextmanager
async def chat(
    answer: Callable[[asyncio.StreamWriter], Any], **server: Any
) -> AsyncIterator[tuple[ChatHttp, MemoryLink, Worker]]:
    there = ChatHttp(answer)
    listening = await asyncio.start_server(there.serve, "127.0.0.1", 0)
    there.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    link = MemoryLink()
    options = {"base_url": there.url, "chat_model": "tiny", **server}
    async with (
        ChatAdapter(ChatServer(**options)) as adapter,
        asyncio.timeout(30),
        Worker("m", adapter, link=link, worker_id="w", grace_s=0) as worker,
    ):
        yield there, link, worker
    listening.close()


async def ended(link: MemoryLink, payload: Any) -> tuple[str, dict[str, Any], MemoryOutput]:
    link.offer(JOB, payload)
    while not (link.sent("complete") or link.sent("fail")):
        async with link._changed:
            await link._changed.wait()
    name = "complete" if link.sent("complete") else "fail"
    return name, link.sent(name)[0], link.outputs[JOB, 1]


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def event(**chunk: Any) -> bytes:
    return b"data: " + json.dumps({"model": "tiny-7b", **chunk}, ensure_ascii=False).encode() + b"\r\n\r\n"


def token(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


async def test_tokens_stream_and_usage_is_the_result() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b": a comment\r\n\r\n" + event(choices=[{"delta": {"role": "assistant", "content": None}}]))
        for text in ("Hel", "lo \u2028", "wörld"):
            body = token(text)
            writer.write(body[:7])  # broken anywhere
            await writer.drain()
            writer.write(body[7:])
        writer.write(token("", "stop") + event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 3}))
        writer.write(b"data: [DONE]\r\n\r\n")

    async with chat(answer, api_key="k-1", system="be brief") as (there, link, _):
        name, body, output = await ended(link, {"prompt": "hi", "temperature": 0})
    assert name == "complete"
    assert output.text() == "Hello \u2028wörld"
    assert body["details"] == {
        "model": "tiny-7b",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 5, "completion_tokens": 3},
        "characters": 12,
    }
    head, sent = there.requests[0]
    assert head.startswith("POST /v1/chat/completions ")
    assert "authorization: bearer k-1" in head.lower()
    assert f"traceparent: {TRACEPARENT}" in head
    assert sent["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert (sent["model"], sent["stream"], sent["temperature"]) == ("tiny", True, 0)


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [(429, "http_429", True), (503, "http_503", True), (400, "http_400", False), (404, "http_404", False)],
)
async def test_statuses_are_mapped(status: int, code: str, retryable: bool) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        text = b'{"error":{"message":"model not found"}}'
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text))

    async with chat(answer) as (_, link, _):
        name, body, _ = await ended(link, "hi")
    assert (name, body["error_code"], body["retryable"]) == ("fail", code, retryable)
    assert "model not found" in body["reason"]


async def test_an_answer_that_breaks_off_is_retryable() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + token("half"))
        await writer.drain()
        writer.close()

    async with chat(answer) as (_, link, _):
        _, body, output = await ended(link, "hi")
    assert (body["error_code"], body["retryable"]) == ("incomplete_answer", True)
    assert output.text() == "half"


async def test_an_error_in_the_stream_is_retryable_and_rubbish_is_not() -> None:
    async def failing(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + event(error={"message": "out of memory"}))

    async with chat(failing) as (_, link, _):
        _, body, _ = await ended(link, "hi")
    assert (body["error_code"], body["retryable"]) == ("server_error", True)

    async def rubbish(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"data: <html>\n\n")

    async with chat(rubbish) as (_, link, _):
        _, body, _ = await ended(link, "hi")
    assert (body["error_code"], body["retryable"]) == ("bad_answer", False)


async def test_nobody_there_and_silence_are_retryable() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with chat(silent, silence_s=0.1) as (_, link, _):
        _, body, _ = await ended(link, "hi")
    assert (body["error_code"], body["retryable"]) == ("timeout", True)
    async with chat(silent, base_url="http://127.0.0.1:1") as (_, link, _):
        _, body, _ = await ended(link, "hi")
    assert (body["error_code"], body["retryable"]) == ("connection", True)


async def test_cancelling_closes_the_connection() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + token("and "))

    async with chat(endless) as (there, link, worker):
        link.offer(JOB, "hi")
        await link.wait_for("claim")
        while (JOB, 1) not in link.outputs or not link.outputs[JOB, 1].text():
            await asyncio.sleep(0.01)
        link.end(JOB)
        await there.hung_up.wait()
        while worker.in_flight:
            await asyncio.wait(set(worker._tasks))


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {},
        {"prompt": 1},
        {"prompt": "a", "messages": []},
        {"messages": ["a"]},
        {"prompt": "a", "stream": False},
        {"prompt": "a", "model": 1},
    ],
)
def test_payloads_are_checked(payload: Any) -> None:
    with pytest.raises(Fatal) as refused:
        ChatAdapter(ChatServer("http://127.0.0.1:1/v1", "tiny")).request(payload)
    assert refused.value.error_code == "invalid_payload"


@pytest.mark.parametrize("url", ["127.0.0.1:11434", "ftp://there/v1", ""])
def test_a_base_url_must_be_http(url: str) -> None:
    with pytest.raises(ConfigError):
        ChatAdapter(ChatServer(url, "tiny"))
