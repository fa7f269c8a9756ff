"""The least that can carry tokens from a worker to a watcher over JetStream: what ``token_stream`` is compared with.

Two raw clients in one process and one stream with republish, flushed always, as ``AURA_OUTPUT`` is. What all jobs have said while one
atomic batch was under way is the next one, a message for each job. Nothing else that tokens need: no encryption, no guards, no numbers,
no gateway, one watcher for each job, which gets what nats-server sends it.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from bench import raw, servers
from bench.prototype import STREAM
from bench.raw import RawClient
from bench.samples import Latency

_STREAM = STREAM | {"allow_atomic": True}
_CHUNK = b"t=%d and so on "
_WARM_S = 1.0


async def measure(folder: Path, jobs: int, rate: int, seconds: float) -> Latency:
    """From the first chunk of a message until its watcher has it. Raises ``RuntimeError`` when the stream refuses."""
    async with servers.nats(folder, name="bare-tokens") as nats:
        worker, watcher = await raw.connect(nats.url), await raw.connect(nats.url)
        try:
            await raw.api(worker, f"STREAM.CREATE.{_STREAM['name']}", _STREAM)
            taken: list[int] = []
            counted_from = time.monotonic_ns() + int(_WARM_S * 1e9)

            def seen(_subject: bytes, _headers: bytes, body: bytes) -> None:
                said = int(body[2 : body.index(b" ")])
                if said > counted_from:
                    taken.append(time.monotonic_ns() - said)

            for job in range(jobs):
                watcher.subscribe(f"bare.{job}", seen)
            await watcher.flush()
            await _say(worker, jobs, rate, _WARM_S + seconds)
            await watcher.flush()
        finally:
            worker.close()
            watcher.close()
    return Latency.of_ns(taken)


async def _say(client: RawClient, jobs: int, rate: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    client.subscribe(f"{client.inbox}.b", lambda _subject, _headers, body: answers.put_nowait(body) if body else None)
    began, said, number = loop.time(), 0, 0
    began_ns = time.monotonic_ns()
    while (passed := loop.time() - began) < seconds:
        due = int(passed * rate)
        if due == said:
            await asyncio.sleep((said + 1) / rate - passed)
            continue
        number += 1
        first = began_ns + int((said + 1) * 1e9 / rate)
        client.send(_batch(f"{number}", f"{client.inbox}.b", jobs, (_CHUNK % first) * (due - said)))
        said = due
        answer = json.loads(await answers.get())
        if "error" in answer:
            raise RuntimeError(f"the stream refused: {answer['error']}")


def _batch(name: str, reply: str, jobs: int, body: bytes) -> bytes:
    parts = []
    for number in range(1, jobs + 1):
        last = number == jobs
        head = f"NATS/1.0\r\nNats-Batch-Id: {name}\r\nNats-Batch-Sequence: {number}\r\n"
        head += "Nats-Batch-Commit: 1\r\n\r\n" if last else "\r\n"
        to = reply if last else ""
        parts.append(
            f"HPUB append.bare.{number - 1} {to} {len(head)} {len(head) + len(body)}\r\n{head}".encode()
            + body
            + b"\r\n"
        )
    return b"".join(parts)
