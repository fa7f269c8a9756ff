"""taskiq on JetStream (taskiq-nats, pull consumer): one worker process, uvloop, batches of messages per pull, deep prefetch.

It has no bulk enqueue; a window of ``kiq`` calls is the best there is. The stream keeps the messages; of what happened to a job it keeps
the acknowledgement only.
"""

from __future__ import annotations

import json
import os
import sys

import nats
import uvloop
from nats.js.api import ConsumerConfig
from taskiq_nats import PullBasedJetStreamBroker

from bench.peers.ledger import Ledger
from bench.peers.pace import paced, single

URL = os.environ["BENCH_URL"]
ledger = Ledger(os.environ["BENCH_LEDGER"], int(os.environ["BENCH_SLOTS"]))
broker = PullBasedJetStreamBroker(
    URL,
    stream_name="taskiq_jetstream",
    durable="taskiq_durable",
    consumer_config=ConsumerConfig(durable_name="taskiq_durable", max_ack_pending=20_000),
    pull_consume_batch=int(os.environ.get("BENCH_BATCH", "10")),
    pull_consume_timeout=float(os.environ.get("BENCH_TIMEOUT", "1")),
)


@broker.task(task_name="noop")
async def noop(number: int) -> None:
    ledger.started(number)


async def produce(mode: str, first: int, count: int) -> None:
    await broker.startup()

    async def one(number: int) -> None:
        await noop.kiq(number)

    await (paced if mode == "paced" else single)(one, ledger, first, count)
    await broker.shutdown()


async def done() -> None:
    client = await nats.connect(URL)
    info = await client.jetstream().consumer_info("taskiq_jetstream", "taskiq_durable")
    acked = info.ack_floor.stream_seq if info.ack_floor else 0
    print(json.dumps({"left": (info.num_pending or 0) + (info.num_ack_pending or 0), "finished": acked}))
    await client.close()


async def setup() -> None:
    await broker.startup()
    await broker.shutdown()


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "done":
        uvloop.run(done())
    elif command == "setup":
        uvloop.run(setup())
    else:
        uvloop.run(produce(command, int(rest[2]), int(rest[3])))
