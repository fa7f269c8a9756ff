"""The chat adapter: a job asks a chat server that speaks OpenAI's ``/v1/chat/completions``; tokens stream as they come.

Tested servers speak the same protocol: Ollama, vLLM, llama.cpp, LM Studio, OpenAI. Payload: ``{"prompt": text}`` or
``{"messages": [{"role", "content"}, …]}``, and any of :data:`OPTIONS`. A bare string is a prompt.

Result: ``{"model", "finish_reason", "usage": {prompt_tokens, completion_tokens, …} | null, "characters": n}``; the text itself is the
job's output. Reasoning tokens (``reasoning_content``) become log lines, not output.

Errors: 429 and 5xx, a refused or broken connection, silence, a stream that ends without ``[DONE]`` or a finish reason → ``Retryable``;
any other 4xx, and an answer that is not the protocol → ``Fatal``. Cancelling closes the connection, which makes the server stop
generating. Nothing of the API key or the prompt is logged.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from aura.errors import ConfigError, Fatal, Retryable
from aura.worker.context import JobContext

#: Passed on to the server as they are.
OPTIONS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "max_completion_tokens",
        "max_tokens",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "tool_choice",
        "tools",
        "top_p",
    }
)
_FIELDS = OPTIONS | {"prompt", "system", "messages", "model"}
MAX_CHARACTERS = 10 * 1024 * 1024
MAX_ERROR = 4_096
MAX_LINE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ChatServer:
    """Which server and model. ``base_url`` may end with ``/v1`` or not; ``silence_s`` is the longest wait for the next token."""

    base_url: str
    chat_model: str
    api_key: str | None = field(default=None, repr=False)
    system: str | None = None
    connect_s: float = 10.0
    silence_s: float = 300.0


@dataclass(slots=True)
class _Answer:
    model: str
    characters: int = 0
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    ended: bool = False


class ChatAdapter:
    """A handler. Use as an async context manager, or call :meth:`close` at the end. Raises ``ConfigError`` for a bad URL."""

    def __init__(self, server: ChatServer) -> None:
        parts = urlsplit(server.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"--base-url {server.base_url!r} is not an http(s) URL")
        base = server.base_url.rstrip("/")
        self._url = f"{base if parts.path.strip('/') else base + '/v1'}/chat/completions"
        self._server = server
        headers = {"Accept": "text/event-stream"}
        if server.api_key:
            headers["Authorization"] = f"Bearer {server.api_key}"
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        timeout = httpx.Timeout(server.silence_s, connect=server.connect_s)
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits)

    async def close(self) -> None:
        """Close all connections. Safe twice."""
        await self._client.aclose()

    async def __aenter__(self) -> ChatAdapter:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def __call__(self, job: JobContext) -> dict[str, Any]:
        """Ask and stream. Raises ``Fatal``, ``Retryable``."""
        body = self.request(job.payload)
        answer = _Answer(model=body["model"])
        trace = {"traceparent": job.traceparent} if job.traceparent is not None else {}
        try:
            async with self._client.stream("POST", self._url, json=body, headers=trace) as response:
                await _refuse_status(response)
                async for data in _events(response):
                    if data == "[DONE]":
                        answer.ended = True
                        break
                    await self._take(job, answer, data)
        except httpx.TimeoutException as error:
            raise Retryable(f"the chat server is silent: {type(error).__name__}", error_code="timeout") from error
        except httpx.TransportError as error:
            raise Retryable(f"no connection to the chat server: {error}", error_code="connection") from error
        if not answer.ended and answer.finish_reason is None:
            raise Retryable("the answer ended in the middle", error_code="incomplete_answer")
        await job.stream("", final=True)
        return {
            "model": answer.model,
            "finish_reason": answer.finish_reason,
            "usage": answer.usage,
            "characters": answer.characters,
        }

    def request(self, payload: Any) -> dict[str, Any]:
        """The body to send. Raises ``Fatal`` for a payload that is not one of ours."""
        if isinstance(payload, str):
            payload = {"prompt": payload}
        if not isinstance(payload, dict):
            raise _malformed("the payload must be an object with prompt or messages")
        if unknown := sorted(set(payload) - _FIELDS):
            raise _malformed(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(_FIELDS))}")
        model = payload.get("model", self._server.chat_model)
        if not isinstance(model, str):
            raise _malformed("model must be text")
        return {
            **{name: payload[name] for name in OPTIONS if name in payload},
            "model": model,
            "messages": self._messages(payload),
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def _messages(self, payload: dict[str, Any]) -> list[Any]:
        prompt, messages = payload.get("prompt"), payload.get("messages")
        if (prompt is None) == (messages is None):
            raise _malformed("give either prompt or messages")
        if messages is not None:
            if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
                raise _malformed("messages must be a list of objects")
            return messages
        if not isinstance(prompt, str):
            raise _malformed("prompt must be text")
        system = payload.get("system", self._server.system)
        first = [{"role": "system", "content": system}] if system else []
        return [*first, {"role": "user", "content": prompt}]

    async def _take(self, job: JobContext, answer: _Answer, data: str) -> None:
        """One ``data:`` line of the stream."""
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise Fatal("the chat server does not speak the protocol", error_code="bad_answer") from error
        if not isinstance(chunk, dict):
            raise Fatal("the chat server does not speak the protocol", error_code="bad_answer")
        if (trouble := chunk.get("error")) is not None:
            raise Retryable(f"the chat server failed: {str(trouble)[:MAX_ERROR]}", error_code="server_error")
        answer.model = chunk.get("model") or answer.model
        answer.usage = chunk.get("usage") or answer.usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if reasoning := delta.get("reasoning_content"):
                await job.log(str(reasoning), "DEBUG")
            if text := delta.get("content"):
                answer.characters += len(text)
                if answer.characters > MAX_CHARACTERS:
                    raise Fatal(f"the answer is longer than {MAX_CHARACTERS} characters", error_code="too_long")
                await job.stream(text)
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason


async def _refuse_status(response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    text = ""
    async for piece in response.aiter_text():
        text += piece
        if len(text) > MAX_ERROR:
            break
    kind = Retryable if status in (408, 425, 429) or status >= 500 else Fatal
    raise kind(f"the chat server answered {status}: {text[:MAX_ERROR]}", error_code=f"http_{status}")


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    """The data of each server-sent event (WHATWG HTML §9.2; several ``data:`` lines of an event are joined by newlines).

    Lines end at ``\\n`` only: httpx' own line iterator also splits at U+2028 and the like, which tokens may contain.
    """
    data: list[str] = []
    async for line in _lines(response):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" ").decode("utf-8", "replace"))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    held = b""
    async for piece in response.aiter_bytes():
        *whole, held = (held + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
        if len(held) > MAX_LINE:
            raise Fatal("the chat server sends endless lines", error_code="bad_answer")
    if held:
        yield held.removesuffix(b"\r")


def _malformed(detail: str) -> Fatal:
    return Fatal(detail, error_code="invalid_payload")
