"""The least that can carry a job from a submitter to a handler over JetStream: what ``submit_to_start`` is compared with.

Three processes on :mod:`bench.raw` and one stream with republish, flushed always, as the log is: the submitter appends ``created``, the
scheduler sees it and appends ``assigned`` under a guard, the worker sees that and notes the time. Nothing else that a job needs: no
HTTP, no input, no validation, no state, no slots, no claim and lease, no read models, one subscriber for each event.

``python -m bench.prototype scheduler|worker URL [LEDGER]`` is one of the processes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import raw, servers
from bench.samples import Latency

#: A stream like the log's, without guards.
STREAM = {
    "name": "BARE",
    "subjects": ["append.bare.>"],
    "subject_transform": {"src": "append.bare.>", "dest": "bare.>"},
    "republish": {"src": "bare.>", "dest": "bare.>"},
    "storage": "file",
}
_SEQUENCE = b"\r\nNats-Sequence: "
_BODY = b"x" * 300
_SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Bare:
    """From submitting until assigned, and until the worker has it."""

    assigned: Latency
    started: Latency


async def measure(folder: Path, rate: int, seconds: int) -> Bare:
    """Open loop, ``rate`` jobs a second; the first second is not counted."""
    async with servers.nats(folder, name="bare") as nats:
        client = await raw.connect(nats.url)
        await raw.api(client, f"STREAM.CREATE.{STREAM['name']}", STREAM)
        ledger = folder / "bare-ledger"
        me = [sys.executable, "-m", "bench.prototype"]
        scheduler = await servers.copy_of([*me, "scheduler", nats.url], env={}, log=folder / "bare-scheduler.log")
        worker = await servers.copy_of([*me, "worker", nats.url, str(ledger)], env={}, log=folder / "bare-worker.log")
        try:
            while not ledger.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.01)
            await asyncio.sleep(_SETTLE_S)
            sent, assigned = await _submit(client, rate, rate * seconds)
            started = dict(line.split() for line in ledger.read_text("ascii").splitlines())
        finally:
            for process in (scheduler, worker):
                await servers.end(process, 5.0)
            client.close()
    counted = range(rate, rate * seconds)
    return Bare(
        Latency.of_ns([assigned[number] - sent[number] for number in counted]),
        Latency.of_ns([int(started[str(number)]) - sent[number] for number in counted]),
    )


async def _submit(client: raw.RawClient, rate: int, count: int) -> tuple[dict[int, int], dict[int, int]]:
    sent: dict[int, int] = {}
    assigned: dict[int, int] = {}

    def seen(subject: bytes, _headers: bytes, _body: bytes) -> None:
        assigned[_job(subject)] = time.monotonic_ns()

    client.subscribe("bare.*.assigned", seen)
    client.subscribe(f"{client.inbox}.*", lambda _s, _h, _b: None)
    await client.flush()
    began = time.monotonic()
    for number in range(count):
        wait = began + number / rate - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        sent[number] = time.monotonic_ns()
        client.send(_append(number, "created", 0)(f"{client.inbox}.{number}"))
    await asyncio.sleep(_SETTLE_S)
    return sent, assigned


def _append(number: int, event: str, expected: int) -> Callable[[str], bytes]:
    return raw.guarded(f"append.bare.{number}.{event}", f"bare.{number}.>", expected, f"{number}.{event}", _BODY)


def _job(subject: bytes) -> int:
    return int(subject.split(b".", 2)[1])


async def _schedule(url: str) -> None:
    client = await raw.connect(url)

    def on_created(subject: bytes, headers: bytes, _body: bytes) -> None:
        at = headers.index(_SEQUENCE) + len(_SEQUENCE)
        number, seq = _job(subject), int(headers[at : headers.index(b"\r\n", at)])
        client.send(_append(number, "assigned", seq)(f"{client.inbox}.{number}"))

    client.subscribe(f"{client.inbox}.*", lambda _s, _h, _b: None)
    client.subscribe("bare.*.created", on_created)
    await client.flush()
    await asyncio.Event().wait()


async def _work(url: str, ledger: Path) -> None:
    client = await raw.connect(url)
    started: list[str] = []
    client.subscribe(
        "bare.*.assigned", lambda subject, _h, _b: started.append(f"{_job(subject)} {time.monotonic_ns()}")
    )
    await client.flush()
    with ledger.open("w", encoding="ascii", buffering=1) as file:
        while True:
            await asyncio.sleep(0.1)
            lines, started[:] = started[:], []
            file.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    if sys.argv[1] == "scheduler":
        asyncio.run(_schedule(sys.argv[2]))
    else:
        asyncio.run(_work(sys.argv[2], Path(sys.argv[3])))
