"""Dramatiq on Redis: one worker process with threads, its default middleware, prefetch raised for short jobs.

It has no bulk enqueue (its ``group`` sends one message after the other), so ``bulk`` is ``single`` from several threads. An acknowledged
message is deleted; nothing is kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from bench.peers.ledger import Ledger
from bench.peers.pace import paced, single

URL = os.environ["BENCH_URL"]
_path, _slots = os.environ["BENCH_LEDGER"], int(os.environ["BENCH_SLOTS"])
ledger = Ledger(_path, _slots)
broker = RedisBroker(url=URL)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="noop", max_retries=0)
def noop(number: int) -> None:
    ledger.started(number)


async def produce(mode: str, first: int, count: int) -> None:
    async def one(number: int) -> None:
        await asyncio.to_thread(noop.send, number)

    def stretch(numbers: range) -> None:
        for number in numbers:
            ledger.sent(number)
            noop.send(number)

    if mode == "paced":
        await paced(one, ledger, first, count)
    elif mode == "single":
        await single(one, ledger, first, count)
    else:
        step = -(-count // 4)
        parts = [range(start, min(start + step, first + count)) for start in range(first, first + count, step)]
        await asyncio.gather(*(asyncio.to_thread(stretch, part) for part in parts))


def done() -> None:
    client = redis.Redis.from_url(URL)
    left = client.hlen("dramatiq:noop.msgs")
    print(json.dumps({"left": left, "finished": None}))


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "done":
        done()
    else:
        asyncio.run(produce(command, int(rest[2]), int(rest[3])))
