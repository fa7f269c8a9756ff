"""``python -m bench.fanout.token_worker JOBS RATE``: one worker process whose jobs stream tokens, each job ``RATE`` chunks a second.

Prints ``running`` when all ``JOBS`` jobs run, then waits for SIGUSR1. Each chunk begins with ``t=<nanoseconds of the monotonic
clock>``; chunks that the SDK joins to one record are timed from the first of them. Streams until SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

from aura.worker import JobContext, run
from bench.noop_worker import MODEL


def main() -> None:
    """Run until SIGTERM; the system is found through ``AURA_DATA_DIR``."""
    jobs, rate = int(sys.argv[1]), int(sys.argv[2])
    running: list[JobContext] = []
    tasks: list[asyncio.Task[None]] = []

    async def stream() -> None:
        go = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go.set)
        print("running", flush=True)
        await go.wait()
        due = time.monotonic()
        while True:
            for job in running:
                await job.stream(f"t={time.monotonic_ns()} and so on ")
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def handle(job: JobContext) -> None:
        running.append(job)
        if len(running) == jobs:
            tasks.append(asyncio.create_task(stream()))
        await asyncio.Event().wait()

    run(handle, model=MODEL, slots=jobs, worker_id="bench")


if __name__ == "__main__":
    main()
